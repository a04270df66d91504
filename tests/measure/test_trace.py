"""Trace estimates against dense Hessians in float64."""

import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from lightning_tl.errors import UserError
from lightning_tl.measure import Objective, hessian_trace
from lightning_tl.measure.estimate import Samples, t_quantile
from lightning_tl.measure.gauss_newton_trace import GaussNewtonTrace
from lightning_tl.measure.matvec_trace import MatvecTrace
from lightning_tl.measure.params import Layout
from tests.measure.cases import build, exact, mse

EXACT = ["cross_entropy", "bce", "conv_bn"]
SPLIT = ["tanh", "mse", "attention", "tied"]


@pytest.mark.parametrize("steps", [0, 60])
@pytest.mark.parametrize("name", EXACT)
def test_piecewise_affine_networks_with_a_known_loss_are_exact(name, steps):
    objective = build(name, steps)
    case = exact(objective)
    found = hessian_trace(objective)
    assert found.method == "exact"
    assert found.stderr == 0
    assert found.value == pytest.approx(case.trace, rel=1e-9)
    for group, value in found.groups.items():
        assert value == pytest.approx(case.group_trace(f"{group}."), rel=1e-8)
    assert found.interval() == (found.value, found.value)


# The weight of every class, ignored targets and the sum reduction must reach the curvature too.
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_weighted_cross_entropy_and_ignored_targets(reduction):
    objective = build("cross_entropy", 10)
    weight = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)

    def loss(module, batch):
        target = batch[1].clone()
        target[::3] = -100
        return F.cross_entropy(module(batch[0]), target, weight=weight, reduction=reduction)

    fresh = Objective(objective.module, loss, objective.batches)
    assert hessian_trace(fresh).value == pytest.approx(exact(fresh).trace, rel=1e-9)


def test_weighted_binary_cross_entropy():
    objective = build("bce", 10)
    positive = torch.tensor([2.0, 0.3], dtype=torch.float64)

    def loss(module, batch):
        return F.binary_cross_entropy_with_logits(module(batch[0]), batch[1], pos_weight=positive, weight=positive)

    fresh = Objective(objective.module, loss, objective.batches)
    found = hessian_trace(fresh)
    assert found.method == "exact"
    assert found.value == pytest.approx(exact(fresh).trace, rel=1e-9)


def estimates(objective, seeds=200, **options):
    return [hessian_trace(objective, seed=seed, **options) for seed in range(seeds)]


def check_unbiased_and_honest(found, trace):
    """Mean within 4 standard errors; the 95 % interval covers 90 to 99 %, widened by the counting error of 200."""
    values = torch.tensor([f.value for f in found], dtype=torch.float64)
    assert abs(float(values.mean()) - trace) < 4 * float(values.std()) / len(values) ** 0.5 + 1e-9 * abs(trace)
    covered = sum(f.interval()[0] <= trace <= f.interval()[1] for f in found)
    low, high = stats.binom.ppf([0.001, 0.999], len(found), [0.90, 0.99])
    assert low <= covered <= high


@pytest.mark.parametrize(
    "name, steps", [("tanh", 0), ("tanh", 60), ("attention", 60), pytest.param("tied", 60, marks=pytest.mark.slow)]
)
def test_split_is_unbiased_with_an_honest_error(name, steps):
    objective = build(name, steps)
    found = estimates(objective, products=10)
    assert {f.method for f in found} == {"split"}
    check_unbiased_and_honest(found, exact(objective).trace)


@pytest.mark.parametrize("name, steps, method", [("smoothed", 0, "hutchinson"), ("smoothed", 60, "xtrace")])
def test_opaque_is_unbiased_with_an_honest_error(name, steps, method):
    objective = build(name, steps)
    found = estimates(objective, products=24, method="opaque")
    assert {f.method for f in found} == {method}
    check_unbiased_and_honest(found, exact(objective).trace)


def test_groups_are_unbiased_and_add_up():
    for name, method in (("tanh", "auto"), ("tanh", "opaque"), ("attention", "auto")):
        objective = build(name, 60)
        case = exact(objective)
        found = estimates(objective, 60, products=12, method=method)
        for group in found[0].groups:
            values = torch.tensor([f.groups[group] for f in found], dtype=torch.float64)
            error = float(values.mean()) - case.group_trace(f"{group}.")
            assert abs(error) < 4 * float(values.std()) / 60**0.5 + 1e-9, (name, method, group)
        assert sum(found[0].groups.values()) == pytest.approx(found[0].value, rel=1e-9)


SPECTRA = {
    "flat": lambda p: torch.linspace(-1, 1, p),
    "outliers": lambda p: torch.cat([torch.linspace(20, 5, 6), 0.1 * torch.linspace(-1, 1, p - 6)]),
    "steep": lambda p: 1 / torch.arange(1, p + 1) ** 2,
    "low rank": lambda p: torch.cat([torch.linspace(3, 1, 4), torch.zeros(p - 4)]),
}


def of_spectrum(name, size=300):
    generator = torch.Generator().manual_seed(1)
    turn = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
    return (turn * SPECTRA[name](size).double()) @ turn.T


def opaque(matrix, products=24, seed=0, memory=None, keep=4, vectors=100):
    layout = Layout({"a.x": torch.empty(120, dtype=torch.float64), "b.y": torch.empty(180, dtype=torch.float64)})
    generator = torch.Generator().manual_seed(seed)
    count = []

    def product(v):
        count.append(1)
        return matrix @ v

    run = MatvecTrace(product, layout, generator, products, lambda value, error: False, vectors, memory or {}, keep)
    result = run.run()
    assert len(count) <= products
    return result


@pytest.mark.parametrize(
    "name, method, gain",
    [("flat", "hutchinson", 1.1), ("outliers", "xtrace", 0.6), ("steep", "xtrace", 0.3), ("low rank", "xtrace", 1e-6)],
)
def test_the_estimator_fits_the_spectrum(name, method, gain):
    matrix = of_spectrum(name)
    trace, norm = float(matrix.trace()), float(matrix.norm())
    found = [opaque(matrix, seed=seed) for seed in range(200)]
    assert {f.method for f in found} == {method}
    errors = torch.stack([f.groups.sum() for f in found]) - trace
    assert float(errors.square().mean().sqrt()) < gain * norm * (2 / 24) ** 0.5
    assert abs(float(errors.mean())) < 4 * float(errors.std()) / 200**0.5 + 1e-9
    if name != "low rank":  # there the estimate is exact up to rounding
        half = torch.tensor([t_quantile(0.975, f.degrees) * f.stderr for f in found])
        covered = int((errors.abs() < half).sum())
        assert stats.binom.ppf(0.001, 200, 0.90) <= covered <= stats.binom.ppf(0.999, 200, 0.99)
    for group, s in enumerate((slice(0, 120), slice(120, 300))):
        off = torch.stack([f.groups[group] for f in found]) - matrix.diagonal()[s].sum()
        assert abs(float(off.mean())) < 4 * float(off.std()) / 200**0.5 + 1e-9


def test_xtrace_with_few_vectors_goes_on_with_deflated_probes():
    matrix = of_spectrum("outliers")
    found = [opaque(matrix, products=40, seed=seed, vectors=10) for seed in range(200)]
    errors = torch.stack([f.groups.sum() for f in found]) - matrix.trace()
    assert abs(float(errors.mean())) < 4 * float(errors.std()) / 200**0.5
    assert float(errors.square().mean().sqrt()) < 0.4 * float(matrix.norm()) * (2 / 40) ** 0.5


def test_with_few_products_the_last_subspace_deflates():
    """The same outliers, slightly turned, at the next measurement: their part of the error goes."""
    matrix = of_spectrum("outliers")
    generator = torch.Generator().manual_seed(5)
    shift = torch.randn(300, 300, generator=generator, dtype=torch.float64) * 0.02
    later = matrix + shift @ shift.T
    plain, warm = [], []
    for seed in range(100):
        memory = opaque(matrix, products=8, seed=seed).memory
        # the next measurement of a run has the probes of the last, so that the basis must not come from equal ones
        second = opaque(later, products=8, seed=1000 + seed, memory=memory)
        assert second.method == "deflated"
        warm.append(second.groups.sum() - later.trace())
        plain.append(opaque(later, products=8, seed=1000 + seed).groups.sum() - later.trace())
    warm, plain = torch.stack(warm), torch.stack(plain)
    assert abs(float(warm.mean())) < 4 * float(warm.std()) / 10
    assert float(warm.square().mean()) < 0.8 * float(plain.square().mean())


@pytest.mark.parametrize("name", ["attention", "tanh"])
def test_probing_layers_apart_has_the_same_mean_and_the_variance_it_says(name):
    objective = build(name)
    with objective.measuring():
        split = GaussNewtonTrace(objective, 0, Layout(objective.params), torch.Generator().manual_seed(0))
        together = torch.stack([split.remainder()[0].sum() for _ in range(600)])
        found = [split.remainder(apart=True) for _ in range(300)]
    apart = torch.stack([value.sum() for value, _ in found])
    spread = (together.var() / 600 + apart.var() / 300) ** 0.5
    assert abs(float(together.mean() - apart.mean())) < 4 * float(spread)
    said = sum(ratio for _, ratio in found) / 300
    # what it says counts the diagonal too, which signs have no variance along: the truth may be better, not worse
    assert 0.5 * said < 2 * float(apart.var() / together.var()) < 1.35 * said


def test_tolerance_stops_early_and_budget_is_kept():
    objective = build("smoothed")
    whole = hessian_trace(objective, 60, method="hutchinson")
    assert whole.products == 60
    part = hessian_trace(objective, 60, method="hutchinson", tolerance=2 * whole.stderr / abs(whole.value))
    assert part.products < 60
    assert part.stderr <= 2 * whole.stderr / abs(whole.value) * abs(part.value)
    assert hessian_trace(objective, 60, method="hutchinson", max_seconds=0.0).products == 4
    known = build("tanh")
    assert hessian_trace(known, 60, tolerance=10.0).products < hessian_trace(known, 60).products


def test_a_second_measurement_starts_from_the_memory_of_the_first():
    objective = build("attention", 5)
    first = hessian_trace(objective)
    assert first.memory["variances"].keys() == {"gauss_newton", "remainder"}
    second = hessian_trace(objective, memory=first.memory)
    assert abs(second.value - exact(objective).trace) < 5 * second.stderr
    assert second.memory["dropped"] == first.memory["dropped"]


def test_equal_seeds_give_equal_estimates():
    objective = build("attention", 5)
    assert hessian_trace(objective, seed=3).value == hessian_trace(objective, seed=3).value
    assert hessian_trace(objective, seed=3).value != hessian_trace(objective, seed=4).value


def test_arguments():
    objective = build("smoothed")
    with pytest.raises(UserError, match="at least 2 products"):
        hessian_trace(objective, 1)
    with pytest.raises(UserError, match="method='hutch' is unknown; did you mean 'hutchinson'"):
        hessian_trace(objective, method="hutch")
    with pytest.raises(UserError, match="method='split' needs a loss that ends in"):
        hessian_trace(objective, method="split")


def test_several_batches_are_weighted():
    objective = build("mse")
    (x, y), half = objective.batches[0], 6
    pieces = Objective(objective.module, mse, [(x[:half], y[:half]), (x[half:], y[half:])])
    found = hessian_trace(pieces, 400)
    assert abs(found.value - exact(objective).trace) < 4 * found.stderr


@pytest.mark.parametrize("degrees", [1, 2, 3, 5, 11, 40, float("inf")])
def test_t_quantile(degrees):
    assert t_quantile(0.975, degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=0.01)


def test_samples_of_one_have_no_variance():
    samples = Samples()
    samples.add(torch.ones(2))
    assert samples.total_variance() == 0
    assert samples.group_variance().tolist() == [0, 0]


def test_known_loss_without_a_double_backward_falls_back_to_differences():
    """torch has no second derivative of hardsigmoid: found out before the split is begun."""
    objective = build("tanh")
    module = torch.nn.Sequential(objective.module[0], torch.nn.Hardsigmoid(), torch.nn.Linear(7, 3).double())
    found = hessian_trace(Objective(module, objective.loss_fn, objective.batches), 40)
    assert found.memory["differences"]
    with pytest.raises(UserError, match="method='split' needs"):
        hessian_trace(Objective(module, objective.loss_fn, objective.batches), method="split")
    # the same function by operations that have one
    plain = torch.nn.Sequential(module[0], Clamped(), module[2])
    exact_trace = hessian_trace(Objective(plain, objective.loss_fn, objective.batches))
    assert exact_trace.method == "exact"
    assert abs(found.value - exact_trace.value) < 4 * found.stderr


class Clamped(torch.nn.Module):
    def forward(self, x):
        return (x / 6 + 0.5).clamp(0, 1)


class ChannelNorm(torch.nn.LayerNorm):
    """As in ConvNeXt: a LayerNorm over the channels of images [N, C, H, W]."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("side", [4, 5])
def test_a_layer_norm_over_other_dimensions_is_left_to_the_gradient(side):
    """Side 4 looks as if the last dimension were normalised."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 1), ChannelNorm(4), torch.nn.Flatten(), torch.nn.Linear(4 * side**2, 3)
    ).double()
    batch = (torch.randn(6, 1, side, side).double(), torch.randint(0, 3, (6,)))
    objective = Objective(module, lambda m, b: F.cross_entropy(m(b[0]), b[1]), [batch])
    found = hessian_trace(objective, 200)
    assert found.method == "split"
    assert abs(found.value - exact(objective).trace) < 4 * found.stderr
    assert found.stderr < 0.2 * found.value
