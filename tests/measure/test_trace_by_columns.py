"""Few parameters: the diagonal of the Hessian, read by one product per parameter."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_tl.measure import Objective, hessian_trace


class Quadratic(nn.Module):
    def __init__(self, matrix):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(2))
        self.matrix = matrix


def _loss(module, batch):
    theta = torch.cat([module.a, module.b])
    return 0.5 * theta @ module.matrix @ theta * batch


def test_the_trace_is_exact_at_every_measurement():
    matrix = torch.randn(5, 5)
    matrix = matrix + matrix.T
    objective = Objective(Quadratic(matrix), _loss, [torch.tensor(1.0)])
    diagonal, memory = matrix.diagonal(), {}
    for _ in range(3):
        trace = hessian_trace(objective, memory=memory)
        memory = trace.memory
        assert trace.value == pytest.approx(float(diagonal.sum()), rel=1e-5)
        assert trace.groups == pytest.approx({"a": float(diagonal[:3].sum()), "b": float(diagonal[3:].sum())}, rel=1e-4)
        assert (trace.stderr, trace.method, trace.products) == (0, "exact", 5)


def test_with_fewer_products_than_parameters_it_is_an_estimate():
    matrix = torch.diag(torch.arange(1.0, 6.0)) + 0.5
    trace = hessian_trace(Objective(Quadratic(matrix), _loss, [torch.tensor(1.0)]), products=4)
    assert trace.method != "exact"
    assert trace.stderr > 0
