"""Tr(ΣH) against dense Hessians in float64, and against the rise of the loss under the same noise."""

import math

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import nn

from lightning_tl.errors import UserError
from lightning_tl.measure import Objective, hessian_trace, noise_scales, perturbation_sensitivity
from tests.measure.cases import (
    build,
    cross_entropy,
    exact,
    scales_of,
    weighted,
)


@pytest.mark.parametrize("kind", ["init", "relative", "isotropic", "tensors", "rows"])
@pytest.mark.parametrize("name", ["cross_entropy", "bce", "conv_bn"])
def test_it_is_exact_where_the_trace_is_and_costs_nothing(name, kind):
    objective = build(name, 40)
    scales = scales_of(objective, kind)
    case, estimate = exact(objective), hessian_trace(objective, scales=scales)
    assert estimate.weighted.method == "exact"
    assert estimate.weighted.stderr == 0
    assert estimate.weighted.products == 0
    assert estimate.weighted.value == pytest.approx(weighted(case, scales), rel=1e-9)
    for group, value in estimate.weighted.groups.items():
        assert value == pytest.approx(weighted(case, scales, f"{group}."), rel=1e-8, abs=1e-12)
    assert estimate.value == pytest.approx(case.trace, rel=1e-9)
    if kind == "isotropic":
        assert estimate.weighted.value == pytest.approx(estimate.value)


@pytest.mark.parametrize(
    "name, kind, method, reported",
    [
        ("tanh", "init", "auto", "gauss-newton"),
        pytest.param("tanh", "rows", "auto", "gauss-newton", marks=pytest.mark.slow),
        pytest.param("attention", "init", "auto", "gauss-newton", marks=pytest.mark.slow),
        pytest.param("attention", "rows", "auto", "gauss-newton", marks=pytest.mark.slow),
        pytest.param("smoothed", "tensors", "auto", "xtrace", marks=pytest.mark.slow),
        ("smoothed", "relative", "hutchinson", "hutchinson"),
        pytest.param("attention", "rows", "matvec", None, marks=pytest.mark.slow),
    ],
)
def test_it_is_unbiased_with_an_honest_error(name, kind, method, reported):
    objective = build(name, 60)
    scales = scales_of(objective, kind)
    case, seeds = exact(objective), 120
    true = weighted(case, scales)
    results = [hessian_trace(objective, 24, scales=scales, method=method, seed=s).weighted for s in range(seeds)]
    assert reported is None or {f.method for f in results} == {reported}
    values = torch.tensor([f.value for f in results], dtype=torch.float64)
    assert abs(float(values.mean()) - true) < 4 * float(values.std()) / seeds**0.5 + 1e-9 * abs(true)
    covered = sum(f.interval()[0] <= true <= f.interval()[1] for f in results)
    low, high = stats.binom.ppf([0.001, 0.999], seeds, [0.90, 0.99])
    assert low <= covered <= high
    for group in results[0].groups:
        values = torch.tensor([f.groups[group] for f in results], dtype=torch.float64)
        error = abs(float(values.mean()) - weighted(case, scales, f"{group}."))
        assert error < 4.5 * float(values.std()) / seeds**0.5 + 1e-9, group


@pytest.mark.parametrize("name", ["cross_entropy", "tanh", "attention", "smoothed"])
def test_the_trace_itself_is_the_same_with_and_without(name):
    objective = build(name, 20)
    scales = scales_of(objective, "rows")
    memory, memory_with = {}, {}
    for products in (6, 24):
        for seed in (0, 1):
            plain = hessian_trace(objective, products, seed=seed, memory=memory)
            both = hessian_trace(objective, products, seed=seed, memory=memory_with, scales=scales)
            memory, memory_with = plain.memory, both.memory
            assert (plain.value, plain.stderr, plain.groups) == (both.value, both.stderr, both.groups)
            assert (plain.weighted is None, plain.products) == (True, both.products)


@pytest.mark.parametrize("name", ["tanh", "mse", "attention"])
@pytest.mark.parametrize("kind", ["init", "relative"])
def test_half_gamma_squared_of_it_is_the_rise_of_a_smooth_loss_under_small_noise(name, kind):
    """Networks of tanh and GELU, with the noise of a model's initialisation and relative to its filters."""
    objective = build(name, 60)
    scales = noise_scales(objective.module, objective.params, kind)
    gamma = 1e-3
    rise = perturbation_sensitivity(objective, scales, [gamma], draws=400)[0]
    trace = hessian_trace(objective, 400, scales=scales).weighted
    half = 0.5 * gamma**2
    assert abs(rise.sensitivity - half * trace.value) < 3 * math.hypot(rise.stderr, half * trace.stderr)
    assert rise.stderr < 0.2 * rise.sensitivity


class SmoothedReLU(nn.Module):
    """E max(0, u + τz) over normal z."""

    def __init__(self, width):
        super().__init__()
        self.width = width

    def forward(self, u):
        z = u / self.width
        return u * torch.special.ndtr(z) + self.width * torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)


def test_a_relu_networks_loss_rises_by_its_kinks_too():
    """Autograd's Hessian of a ReLU network has no part of the kinks, which noise of any practical scale crosses.

    The check: with each ReLU smoothed as much as the noise smooths it, half γ² Tr(ΣH) is the measured rise again. On
    the way from 0 to γ a kink is seen at half the final variance of its input on average, hence τ² = variance / 2.
    """
    torch.manual_seed(2)
    x, gamma = torch.randn(800, 6).double(), 0.02
    labels = (x[:, 0] * x[:, 1] > 0).long() + (x[:, 2] > 0.5).long()
    module = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3)).double()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(300):
        optimizer.zero_grad()
        F.cross_entropy(module(x), labels).backward()
        optimizer.step()
    objective = Objective(module, cross_entropy, [(x, labels)])
    scales = noise_scales(module, objective.params)
    half = 0.5 * gamma**2
    trace = hessian_trace(objective, scales=scales).weighted
    assert trace.method == "exact"
    rise = perturbation_sensitivity(objective, scales, [gamma], draws=400)[0]
    assert rise.sensitivity - half * trace.value > 8 * rise.stderr

    inputs, spread = [], [0.0, 0.0]
    hooks = [module[i].register_forward_pre_hook(lambda _, args: inputs.append(args[0].detach())) for i in (1, 3)]
    with torch.no_grad():
        module(x)
        clean, kept = inputs[:], [p.clone() for p in module.parameters()]
        for _ in range(100):
            for p, own, scale in zip(module.parameters(), kept, scales.values(), strict=True):
                p.copy_(own + gamma * scale * torch.randn_like(own))
            inputs.clear()
            module(x)
            spread = [s + (a - b).square() / 100 for s, a, b in zip(spread, inputs, clean, strict=True)]
        for p, own in zip(module.parameters(), kept, strict=True):
            p.copy_(own)
    for hook in hooks:
        hook.remove()
    for index, variance in zip((1, 3), spread, strict=True):
        module[index] = SmoothedReLU((variance / 2).sqrt())
    smoothed = hessian_trace(Objective(module, cross_entropy, [(x, labels)]), 400, scales=scales).weighted
    error = math.hypot(rise.stderr, half * smoothed.stderr)
    assert abs(rise.sensitivity - half * smoothed.value) < 3 * error + 0.05 * rise.sensitivity
    assert error < 0.04 * rise.sensitivity


def test_scales_that_do_not_fit_are_refused():
    objective = build("tanh")
    good = noise_scales(objective.module, objective.params)
    for name, value, message in [
        ("0.weight", None, r"scales has no entry for parameter '0.weight'"),
        ("0.weight", torch.ones(3), r"scales\['0.weight'\] has shape \(3,\); it must be one number, or \(7, 1\)"),
        ("0.bias", torch.tensor(-1.0), r"scales\['0.bias'\] must be finite and at least 0; it is -1"),
        ("0.bias", torch.tensor(math.nan), r"scales\['0.bias'\] must be finite"),
    ]:
        wrong = {key: scale for key, scale in good.items() if key != name}
        if value is not None:
            wrong[name] = value
        with pytest.raises(UserError, match=message):
            hessian_trace(objective, scales=wrong)
    with pytest.raises(UserError, match="none of the 6 measured parameters gets noise"):
        hessian_trace(objective, scales={name: 0 * scale for name, scale in good.items()})


def test_parameters_without_noise_cost_no_products():
    """Curved parameters whose scale is 0 have no remainder to be probed."""
    module = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    torch.manual_seed(0)
    batch = (torch.randn(9, 5).double(), torch.randint(0, 3, (9,)))
    objective = Objective(module, lambda m, b: F.cross_entropy(m(b[0]), b[1]), [batch])
    scales = {name: torch.tensor(0.3 * name.startswith("2."), dtype=torch.float64) for name in objective.params}
    estimate = hessian_trace(objective, scales=scales)
    assert estimate.method == "gauss-newton"
    assert (estimate.weighted.method, estimate.weighted.products, estimate.weighted.stderr) == ("exact", 0, 0)
    assert estimate.weighted.value == pytest.approx(weighted(exact(objective), scales), rel=1e-8)
