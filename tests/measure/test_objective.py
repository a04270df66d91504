"""Losses, batches and arguments that cannot be measured."""

import pytest
import torch

from lightning_tl.errors import UserError
from lightning_tl.measure import Objective, hvp
from tests.measure.cases import build


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
    half = build("tanh")
    half.module.half()
    with pytest.raises(UserError, match="bf16-mixed"):
        hvp(Objective(half.module, half.loss_fn, half.batches), half.tensors)


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
