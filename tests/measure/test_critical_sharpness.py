"""Critical sharpness on quadratic losses, where it is known, and on a network against a fine scan."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from lightning_tl.errors import UserError
from lightning_tl.measure import Objective
from lightning_tl.measure.critical_sharpness import critical_sharpness
from tests.measure.cases import build


class Quadratic(nn.Module):
    """L(θ) = ½ (θ − c)ᵀ A (θ − c)."""

    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        half = torch.randn(12, 12, dtype=torch.float64, generator=generator)
        self.theta = nn.Parameter(torch.randn(12, dtype=torch.float64, generator=generator))
        self.register_buffer("a", half @ half.T)
        self.register_buffer("other", torch.randn(12, dtype=torch.float64, generator=generator))


def quadratic(module, centre):
    moved = module.theta - centre * module.other
    return 0.5 * moved @ module.a @ moved + 1


@pytest.mark.parametrize("substitute", [False, True])
def test_quadratic_loss_along_its_gradient(substitute):
    """L(θ − ηg) > L(θ) for η > 2 gᵀg / gᵀHg, so that λ_c = gᵀHg / gᵀg."""
    for seed in range(5):
        module = Quadratic(seed)
        objective = Objective(module, quadratic, [0.0], substitute=substitute)
        g = module.a @ module.theta.detach()
        exact = float(g @ module.a @ g / (g @ g))
        found = critical_sharpness(objective, tolerance=1e-4)
        assert found.sharpness == pytest.approx(exact, rel=1e-4)
        assert found.interval[0] <= 2 / exact <= found.interval[1]
        coarse = critical_sharpness(objective)
        assert coarse.sharpness == pytest.approx(exact, rel=0.06)
        warm = critical_sharpness(objective, start=coarse.step * 1.1)
        assert warm.evaluations <= 8
        assert warm.sharpness == pytest.approx(exact, rel=0.06)


def test_relative_to_another_loss_and_along_an_update():
    """L₁ rises along L₂'s gradient g₂ at η = 2 g₁ᵀg₂ / g₂ᵀHg₂."""
    module = Quadratic(1)
    first, second = (Objective(module, quadratic, [c]) for c in (0.0, 0.3))
    theta = module.theta.detach()
    g1, g2 = module.a @ theta, module.a @ (theta - 0.3 * module.other)
    exact = float(g2 @ module.a @ g2 / (g1 @ g2))
    assert exact > 0
    assert critical_sharpness(first, along=second, tolerance=1e-4).sharpness == pytest.approx(exact, rel=1e-4)
    update = {"theta": g2.sign()}
    exact = float(g2.sign() @ module.a @ g2.sign() / (g1 @ g2.sign()))
    assert critical_sharpness(first, along=update, tolerance=1e-4).sharpness == pytest.approx(exact, rel=1e-4)


def test_network_against_a_fine_scan():
    objective = build("tanh", 30)
    found = critical_sharpness(objective)
    with objective.measuring():
        gradient = objective.gradient()
    start = [p.detach().clone() for p in objective.tensors]
    steps = np.geomspace(found.step / 100, found.step * 4, 600)
    with objective.measuring():
        base, losses = objective.loss(), []
        for step in steps:
            with torch.no_grad():
                for p, s, g in zip(objective.tensors, start, gradient, strict=True):
                    p.copy_(s - step * g)
            losses.append(objective.loss())
    crossing = steps[np.argmax(np.array(losses) > base)]
    assert found.step == pytest.approx(crossing, rel=0.05)
    assert found.loss == pytest.approx(base)
    assert found.evaluations <= 14


def test_losses_that_rise_at_once_or_never():
    module = Quadratic()
    objective = Objective(module, quadratic, [0.0])
    ascent = {"theta": -(module.a @ module.theta.detach())}
    at_once = critical_sharpness(objective, along=ascent, most=40)
    assert at_once.interval[0] == 0
    assert at_once.sharpness > 1e6
    line = nn.Linear(1, 1, bias=False)
    never = critical_sharpness(Objective(line, lambda m, b: m.weight.sum(), [0]), most=20)
    assert never.sharpness == 0
    assert math.isinf(never.step)


def test_arguments_that_cannot_be_used():
    module = Quadratic()
    objective = Objective(module, quadratic, [0.0])
    with pytest.raises(UserError, match="the direction's norm is 0"):
        critical_sharpness(objective, along={"theta": torch.zeros(12)})
    with pytest.raises(UserError, match="moves none of the measured"):
        critical_sharpness(objective, along={"x": torch.zeros(12)})
    with pytest.raises(UserError, match="an objective of the same module"):
        critical_sharpness(objective, along=Objective(Quadratic(), quadratic, [0.0]))
    with pytest.raises(UserError, match="tolerance=2 must be a number between 0 and 1"):
        critical_sharpness(objective, tolerance=2)
    with pytest.raises(UserError, match="start=0 must be"):
        critical_sharpness(objective, start=0)
