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


def test_the_default_budget_is_larger_where_it_makes_the_trace_exact():
    for name in ("cross_entropy", "bce", "conv_bn"):
        assert hessian_trace(build(name)).method == "exact"
    for name in ("tanh", "attention", "mse", "smoothed"):
        objective = build(name)
        assert hessian_trace(objective).products < 10
        assert 20 < hessian_trace(objective, 24).products < 28
    wide = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 60)).double()
    batch = (torch.randn(6, 4).double(), torch.randint(0, 60, (6,)))
    sampled = hessian_trace(Objective(wide, build("tanh").loss_fn, [batch]))
    assert sampled.method == "gauss-newton"
    assert sampled.products < 10


def test_few_products_use_new_probes_where_the_subspace_is_from_the_last_ones():
    objective = build("smoothed", 30)
    first = hessian_trace(objective)
    assert first.method == "hutchinson"
    second = hessian_trace(objective, memory=first.memory)
    assert second.method == "deflated"
    values = [first.value, second.value, hessian_trace(objective, memory=second.memory).value]
    assert len(set(values)) == 3
    many = hessian_trace(objective, 24)
    assert hessian_trace(objective, 24, memory=many.memory).value == many.value
    known = build("attention", 5)
    assert hessian_trace(known, memory=hessian_trace(known).memory).value == hessian_trace(known).value


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
