"""Products against dense Hessians in float64."""

import logging

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lightning_tl.errors import UserError
from lightning_tl.measure import Objective, hvp
from tests.measure.cases import (
    build,
    exact,
)

CASES = ["cross_entropy", "tanh", "mse", "bce", "smoothed", "conv_bn", "attention", "tied"]


def flat(tensors):
    return torch.cat([t.reshape(-1) for t in tensors])


@pytest.mark.parametrize("name", CASES)
def test_product_is_the_dense_hessian_times_the_vector(name):
    objective = build(name, steps=20)
    case = exact(objective)
    vector = [torch.randn_like(p) for p in objective.tensors]
    assert torch.allclose(flat(hvp(objective, vector)), case.hessian @ flat(vector), rtol=1e-8, atol=1e-10)


def test_frozen_and_unused_parameters_are_left_out_or_zero():
    objective = build("tanh")
    case = exact(objective)
    module = objective.module
    module.register_parameter("unused", nn.Parameter(torch.ones(3, dtype=torch.float64)))
    module[0].weight.requires_grad_(False)
    fresh = Objective(module, objective.loss_fn, objective.batches)
    assert "0.weight" not in fresh.params
    vector = [torch.randn_like(p) for p in fresh.tensors]
    products = dict(zip(fresh.params, hvp(fresh, vector), strict=True))
    assert float(products["unused"].abs().max()) == 0
    first = module[0].weight.numel()
    where = dict(zip(fresh.params, vector, strict=True))
    rest = flat([where[n] for n in case.names if n != "0.weight"])
    expected = case.hessian[first:, first:] @ rest
    got = flat([products[n] for n in case.names if n != "0.weight"])
    assert torch.allclose(got, expected, rtol=1e-8)
    assert not module[0].weight.requires_grad


class NoDoubleBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * x.cos()


def test_finite_differences_where_there_is_no_double_backward(caplog):
    objective = build("tanh", steps=20)
    module = objective.module

    def by_function(m, batch):
        return NoDoubleBackward.apply(m(batch[0])).square().mean()

    def plain(m, batch):
        return m(batch[0]).sin().square().mean()

    before = flat([p.detach().clone() for p in objective.tensors])
    vector = [torch.randn_like(p) for p in objective.tensors]
    with caplog.at_level(logging.WARNING):
        got = hvp(Objective(module, by_function, objective.batches), vector)
    assert "finite differences" in caplog.text
    expected = flat(hvp(Objective(module, plain, objective.batches), vector))
    assert float((flat(got) - expected).norm() / expected.norm()) < 1e-6
    assert torch.equal(before, flat(objective.tensors))


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing(reentrant):
    objective = build("tanh", steps=20)
    module = objective.module

    def checkpointed(m, batch):
        x = batch[0].clone().requires_grad_()
        hidden = checkpoint(m[:2], x, use_reentrant=reentrant)
        return nn.functional.cross_entropy(m[2:](hidden), batch[1])

    vector = [torch.randn_like(p) for p in objective.tensors]
    fresh = Objective(module, checkpointed, objective.batches)
    if reentrant:
        with pytest.raises(UserError, match="use_reentrant=False"):
            hvp(fresh, vector)
    else:
        assert torch.allclose(flat(hvp(fresh, vector)), flat(hvp(objective, vector)), rtol=1e-8)


def test_compiled_module_is_measured_uncompiled():
    objective = build("tanh", steps=20)
    compiled = torch.compile(objective.module, backend="eager")
    fresh = Objective(compiled, objective.loss_fn, objective.batches)
    assert list(fresh.params) == list(objective.params)
    vector = [torch.randn_like(p) for p in objective.tensors]
    assert torch.equal(flat(hvp(fresh, vector)), flat(hvp(objective, vector)))
