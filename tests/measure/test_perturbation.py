"""Sensitivity in closed form on quadratics, and the loss along a line."""

import math

import pytest
import torch
from torch import nn

from lightning_tl.errors import UserError
from lightning_tl.measure import Objective, hessian_trace, loss_along, noise_scales, perturbation_sensitivity, select
from tests.measure.cases import (
    build,
    exact,
)


class Quadratic(nn.Module):
    """L(θ) = gᵀθ + ½ θᵀAθ."""

    def __init__(self, size=30):
        super().__init__()
        self.theta = nn.Parameter(torch.randn(size, dtype=torch.float64))
        half = torch.randn(size, size, dtype=torch.float64)
        self.a, self.g = half @ half.T, torch.randn(size, dtype=torch.float64)


def quadratic(module, batch):
    return module.g @ module.theta + 0.5 * module.theta @ module.a @ module.theta


def test_proposition_d1_ties_perturbation_and_trace_together():
    """Δ = ½γ²Tr(ΣH): exact for a quadratic loss, so that only the noise of the draws is between them."""
    module = Quadratic()
    objective = Objective(module, quadratic, [None])
    scale = torch.rand(30, dtype=torch.float64) + 0.5
    levels = perturbation_sensitivity(objective, {"theta": scale}, [0.1, 2.0], draws=400)
    for s in levels:
        expected = 0.5 * s.gamma**2 * float((scale**2 * module.a.diagonal()).sum())
        assert abs(s.sensitivity - expected) < 4 * s.stderr
        assert s.stderr < 0.05 * expected
        assert s.perturbed_loss - s.loss == pytest.approx(s.sensitivity, rel=1e-9)
        # one draw's pair is exactly ½γ² εᵀHε: antithetic pairs leave nothing of the gradient
    assert levels[1].sensitivity / levels[0].sensitivity == pytest.approx(400, rel=1e-6)
    isotropic = perturbation_sensitivity(objective, noise_scales(module, select(module), "isotropic"), [1.0], 400)[0]
    trace = hessian_trace(objective, 200)
    slack = 4 * math.hypot(isotropic.stderr, trace.stderr / 2)
    assert abs(isotropic.sensitivity - trace.value / 2) < slack


def test_small_gamma_on_a_network_gives_the_trace():
    objective = build("tanh", 60)
    scales = noise_scales(objective.module, objective.params, "isotropic")
    gamma = 1e-3
    level = perturbation_sensitivity(objective, scales, [gamma], draws=300)[0]
    assert abs(level.sensitivity / (0.5 * gamma**2) - exact(objective).trace) < 4 * level.stderr / (0.5 * gamma**2)


def test_weights_come_back_and_draws_repeat():
    objective = build("tanh")
    before = [p.detach().clone() for p in objective.tensors]
    scales = noise_scales(objective.module, objective.params)
    first = perturbation_sensitivity(objective, scales, [0.1], draws=3, seed=1)[0]
    again = perturbation_sensitivity(objective, scales, [0.1], draws=3, seed=1)[0]
    assert first.draws == again.draws
    assert first.draws != perturbation_sensitivity(objective, scales, [0.1], draws=3, seed=2)[0].draws

    def failing(module, batch):
        if not torch.equal(module[0].weight, before[0]):
            raise KeyError("on the way")
        return objective.loss_fn(module, batch)

    with pytest.raises(KeyError):
        perturbation_sensitivity(Objective(objective.module, failing, objective.batches), scales, [0.1])
    assert all(torch.equal(a, b) for a, b in zip(before, objective.tensors, strict=True))


def test_arguments_out_of_range():
    objective = build("tanh")
    scales = noise_scales(objective.module, objective.params, "isotropic")
    for gammas in ([], [0.0], [0.1, 0.1]):
        with pytest.raises(UserError, match="gammas must be positive"):
            perturbation_sensitivity(objective, scales, gammas)
    with pytest.raises(UserError, match="at least 2"):
        perturbation_sensitivity(objective, scales, [0.1], draws=1)
    still = {name: 0 * s for name, s in scales.items()}
    with pytest.raises(UserError, match="none of the 6 measured parameters gets noise"):
        perturbation_sensitivity(objective, still, [0.1])


def test_loss_along_a_direction_and_its_parabola():
    module = Quadratic()
    objective = Objective(module, quadratic, [None])
    direction = {"theta": torch.randn(30, dtype=torch.float64)}
    start = module.theta.detach().clone()
    curve = loss_along(objective, direction, [-1.0, 0.0, 0.5, 2.0])
    assert curve.loss == pytest.approx(curve.quadratic, rel=1e-9)
    assert curve.curvature == pytest.approx(float(direction["theta"] @ module.a @ direction["theta"]))
    assert torch.equal(start, module.theta)
    network = build("tanh", 30)
    away = {name: torch.randn_like(p) for name, p in network.params.items()}
    near = loss_along(network, away, [1e-3])
    assert near.loss[0] == pytest.approx(near.quadratic[0], abs=1e-7)
    assert math.isnan(loss_along(network, away, [1.0], quadratic=False).slope)
    with pytest.raises(UserError, match="moves none of the measured"):
        loss_along(network, {"x": torch.zeros(1)}, [1.0])
    with pytest.raises(UserError, match=r"direction\['0.weight'\] has shape \(2,\), not \(7, 6\)"):
        loss_along(network, {"0.weight": torch.zeros(2)}, [1.0])
