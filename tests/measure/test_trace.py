"""The trace of the Hessian: choice of the method, budget, groups."""

import pytest
import torch

from lightning_tl.errors import UserError
from lightning_tl.measure import Objective, hessian_trace
from tests.measure.cases import (
    build,
    estimates,
    exact,
)


def test_groups_are_unbiased_and_add_up():
    for name, method in (("tanh", "auto"), ("tanh", "matvec"), ("attention", "auto")):
        objective = build(name, 60)
        case = exact(objective)
        results = estimates(objective, 60, products=12, method=method)
        for group in results[0].groups:
            values = torch.tensor([f.groups[group] for f in results], dtype=torch.float64)
            error = float(values.mean()) - case.group_trace(f"{group}.")
            assert abs(error) < 4 * float(values.std()) / 60**0.5 + 1e-9, (name, method, group)
        assert sum(results[0].groups.values()) == pytest.approx(results[0].value, rel=1e-9)


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
    with pytest.raises(UserError, match="method='gauss-newton' needs a loss that ends in"):
        hessian_trace(objective, method="gauss-newton")


def test_known_loss_without_a_double_backward_falls_back_to_differences():
    """torch has no second derivative of hardsigmoid: noticed before the estimate begins."""
    objective = build("tanh")
    module = torch.nn.Sequential(objective.module[0], torch.nn.Hardsigmoid(), torch.nn.Linear(7, 3).double())
    estimate = hessian_trace(Objective(module, objective.loss_fn, objective.batches), 40)
    assert estimate.memory["differences"]
    with pytest.raises(UserError, match="method='gauss-newton' needs"):
        hessian_trace(Objective(module, objective.loss_fn, objective.batches), method="gauss-newton")
    # the same function by operations that have one
    plain = torch.nn.Sequential(module[0], Clamped(), module[2])
    exact_trace = hessian_trace(Objective(plain, objective.loss_fn, objective.batches))
    assert exact_trace.method == "exact"
    assert abs(estimate.value - exact_trace.value) < 4 * estimate.stderr


class Clamped(torch.nn.Module):
    def forward(self, x):
        return (x / 6 + 0.5).clamp(0, 1)
