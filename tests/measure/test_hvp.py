"""Products against dense Hessians in float64."""

import logging

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lightning_tl.errors import UserError
from lightning_tl.measure import Objective, hvp, top_eigenvalues
from tests.measure.cases import build, exact

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


@pytest.mark.parametrize("name", ["tanh", "conv_bn", "attention"])
def test_top_eigenvalues(name):
    objective = build(name, steps=60)
    case = exact(objective)
    found = top_eigenvalues(objective, 3, products=60, tolerance=1e-6)
    expected = torch.linalg.eigvalsh(case.hessian).flip(0)[:3]
    assert torch.allclose(torch.tensor(found.values, dtype=torch.float64), expected, rtol=1e-5)
    assert max(found.residuals) < 1e-4 * abs(found.values[0])


@pytest.mark.parametrize(
    "loss, message",
    [
        (lambda m, b: 1.0, "must be one floating-point number in a tensor; on batch 0 it is float"),
        (lambda m, b: m(b[0]), r"it is a \(12, 3\) torch.float64 tensor"),
        (lambda m, b: m(b[0]).detach().mean(), "does not depend on the 6 measured parameters"),
    ],
)
def test_losses_that_cannot_be_measured(loss, message):
    objective = build("tanh")
    with pytest.raises(UserError, match=message):
        hvp(Objective(objective.module, loss, objective.batches), objective.tensors)


def test_arguments_that_cannot_be_measured():
    objective = build("tanh")
    with pytest.raises(UserError, match="no batch to measure on"):
        Objective(objective.module, objective.loss_fn, [])
    with pytest.raises(UserError, match="weights must be 1 numbers"):
        Objective(objective.module, objective.loss_fn, objective.batches, weights=[0.0])
    with pytest.raises(UserError, match="mode='evil' is unknown; did you mean 'eval'"):
        Objective(objective.module, objective.loss_fn, objective.batches, mode="evil")
    with pytest.raises(UserError, match="count=3 must be between 1 and products=2"):
        top_eigenvalues(objective, 3, products=2)
    half = build("tanh")
    half.module.half()
    with pytest.raises(UserError, match="bf16-mixed"):
        hvp(half, half.tensors)


def test_a_loss_with_its_own_randomness_is_named():
    objective = build("tanh")
    generator = torch.Generator().manual_seed(0)

    def noisy(m, batch):
        x = batch[0] + torch.randn(batch[0].shape, generator=generator, dtype=torch.float64)
        return m(x).square().mean()

    def seeded(m, batch):
        return m(batch[0] + torch.randn_like(batch[0])).square().mean()

    fresh = Objective(objective.module, noisy, objective.batches)
    with fresh.measuring(), pytest.raises(UserError, match="not a function of the weights"):
        fresh.check_repeatable()
    fresh = Objective(objective.module, seeded, objective.batches)
    with fresh.measuring():
        fresh.check_repeatable()
