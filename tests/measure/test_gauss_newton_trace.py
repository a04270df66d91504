"""Gauss-Newton part and remainder against dense Hessians in float64."""

import pytest
import torch
import torch.nn.functional as F

from lightning_tl.measure import Objective, hessian_trace
from lightning_tl.measure.gauss_newton_trace import GaussNewtonTrace
from lightning_tl.measure.params import Layout
from tests.measure.cases import (
    build,
    check_unbiased_and_honest,
    estimates,
    exact,
    mse,
)

EXACT = ["cross_entropy", "bce", "conv_bn"]


@pytest.mark.parametrize("steps", [0, 60])
@pytest.mark.parametrize("name", EXACT)
def test_piecewise_affine_networks_with_a_known_loss_are_exact(name, steps):
    objective = build(name, steps)
    case = exact(objective)
    estimate = hessian_trace(objective)
    assert estimate.method == "exact"
    assert estimate.stderr == 0
    assert estimate.value == pytest.approx(case.trace, rel=1e-9)
    for group, value in estimate.groups.items():
        assert value == pytest.approx(case.group_trace(f"{group}."), rel=1e-8)
    assert estimate.interval() == (estimate.value, estimate.value)


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
    estimate = hessian_trace(fresh)
    assert estimate.method == "exact"
    assert estimate.value == pytest.approx(exact(fresh).trace, rel=1e-9)


@pytest.mark.parametrize(
    "name, steps", [("tanh", 0), ("tanh", 60), ("attention", 60), pytest.param("tied", 60, marks=pytest.mark.slow)]
)
def test_gauss_newton_is_unbiased_with_an_honest_error(name, steps):
    objective = build(name, steps)
    results = estimates(objective, products=10)
    assert {f.method for f in results} == {"gauss-newton"}
    check_unbiased_and_honest(results, exact(objective).trace)


@pytest.mark.parametrize("name", ["attention", "tanh"])
def test_probing_layers_apart_has_the_same_mean_and_the_variance_it_says(name):
    objective = build(name)
    with objective.measuring():
        trace = GaussNewtonTrace(objective, 0, Layout(objective.params), torch.Generator().manual_seed(0))
        together = torch.stack([trace.remainder().value.sum() for _ in range(600)])
        results = [trace.remainder(apart=True) for _ in range(300)]
    apart = torch.stack([found.value.sum() for found in results])
    spread = (together.var() / 600 + apart.var() / 300) ** 0.5
    assert abs(float(together.mean() - apart.mean())) < 4 * float(spread)
    reported = sum(found.ratio for found in results) / 300
    # what it says counts the diagonal too, which signs have no variance along: the truth may be better, not worse
    assert 0.5 * reported < 2 * float(apart.var() / together.var()) < 1.35 * reported


def test_a_second_measurement_starts_from_the_memory_of_the_first():
    objective = build("attention", 5)
    first = hessian_trace(objective)
    assert first.memory["variances"].keys() == {"gauss_newton", "remainder"}
    second = hessian_trace(objective, memory=first.memory)
    assert abs(second.value - exact(objective).trace) < 5 * second.stderr


def test_several_batches_are_weighted():
    objective = build("mse")
    (x, y), half = objective.batches[0], 6
    pieces = Objective(objective.module, mse, [(x[:half], y[:half]), (x[half:], y[half:])])
    estimate = hessian_trace(pieces, 400)
    assert abs(estimate.value - exact(objective).trace) < 4 * estimate.stderr


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
    estimate = hessian_trace(objective, 200)
    assert estimate.method == "gauss-newton"
    assert abs(estimate.value - exact(objective).trace) < 4 * estimate.stderr
    assert estimate.stderr < 0.2 * estimate.value
