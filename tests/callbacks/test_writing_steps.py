"""Training steps that write to weights and other state themselves: training and the measured loss are as without."""

import copy

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader

from lightning_tl.callbacks import HessianTrace, ParameterDistance, PerturbationSensitivity
from lightning_tl.losses.training_step import step_loss
from lightning_tl.measure import Objective, hessian_trace, perturbation_sensitivity
from lightning_tl.measure.modifications import Noise
from tests.callbacks.modules import trainer


class Momentum(LightningModule):
    """A network and its moving average, which each training step moves, as BYOL and MoCo do."""

    def __init__(self, write="in place"):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
        self.ema = copy.deepcopy(self.net).requires_grad_(False)
        self.write = write
        self.register_buffer("centre", torch.zeros(4))

    @torch.no_grad()
    def update(self):
        for p, q in zip(self.net.parameters(), self.ema.parameters(), strict=True):
            if self.write == "in place":
                q.mul_(0.9).add_(p, alpha=0.1)
            elif self.write == "new data":  # the style of lightly
                q.data = q.data * 0.9 + p.data * 0.1
            else:  # torch counts no version here
                q.data.mul_(0.9).add_(p.data, alpha=0.1)

    def training_step(self, batch, batch_idx):
        self.update()
        target = self.ema(batch)
        self.centre = 0.9 * self.centre + 0.1 * target.mean(0)  # a new tensor in the buffer's place, as DINO's loss has
        loss = F.mse_loss(self.net(batch), target - self.centre) + self.net(batch).pow(2).mean()
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.05)


class Clamped(LightningModule):
    """Weights clamped in the training step, as in a Wasserstein critic."""

    def __init__(self, write=None):
        super().__init__()
        self.net = nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        for p in self.net.parameters():
            p.data.clamp_(-0.2, 0.2)
        loss = self.net(batch).pow(2).mean() - self.net(batch).mean()
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.RMSprop(self.parameters(), 0.05)


class Average:
    """A moving average in an object that is no module."""

    def __init__(self, module):
        self.shadow, self.updates = [p.detach().clone() for p in module.parameters()], 0

    def update(self, module):
        self.updates += 1
        for s, p in zip(self.shadow, module.parameters(), strict=True):
            s.lerp_(p.detach(), 1 / (1 + self.updates))


class WithObject(Momentum):
    def __init__(self, write=None):
        super().__init__()
        self.average = Average(self.net)
        self.generator = torch.Generator().manual_seed(3)
        self.hidden = [nn.Linear(4, 4)]  # in a list, so that it is not among the parameters

    def training_step(self, batch, batch_idx):
        self.average.update(self.net)
        with torch.no_grad():
            self.hidden[0].weight.mul_(0.9)
        batch = batch + 0.1 * torch.rand(batch.shape, generator=self.generator)
        loss = self.net(batch).pow(2).mean() + self.hidden[0](batch).mean() + self.average.shadow[0].sum()
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss


def batches():
    return list(torch.randn(4, 8, 4, generator=torch.Generator().manual_seed(1)))


def fit(module_of, measuring):
    pl.seed_everything(5)
    module = module_of()
    run = trainer(max_steps=4, callbacks=measuring)
    run.fit(module, DataLoader(batches(), batch_size=None))
    return module, run


def measuring():
    return [
        ParameterDistance(every_n_steps=1),
        HessianTrace(every_n_steps=1, products=4, method="matvec", prefix="m/"),
        HessianTrace(every_n_steps=1, products=4),
        PerturbationSensitivity([0.1], draws=2, noise="isotropic", every_n_steps=1),
    ]


KINDS = {
    **{write: lambda write=write: Momentum(write) for write in ("in place", "new data", "data in place")},
    "clamped": Clamped,
    "object": WithObject,
}


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_the_same(kind):
    plain, run = fit(KINDS[kind], [])
    callbacks = measuring()
    measured, run2 = fit(KINDS[kind], callbacks)
    assert [callback.measured_steps[:4] for callback in callbacks] == [[0, 1, 2, 3]] * 4
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, measured.state_dict()[name]), name
    first, second = run.optimizers[0].state_dict()["state"], run2.optimizers[0].state_dict()["state"]
    assert all(torch.equal(first[i][key], second[i][key]) for i in first for key in first[i])
    assert torch.equal(run.callback_metrics["loss_epoch"], run2.callback_metrics["loss_epoch"])
    if kind == "object":
        assert plain.average.updates == measured.average.updates == 4
        assert all(torch.equal(a, b) for a, b in zip(plain.average.shadow, measured.average.shadow, strict=True))
        assert torch.equal(plain.hidden[0].weight, measured.hidden[0].weight)
        assert torch.equal(plain.generator.get_state(), measured.generator.get_state())


@pytest.mark.parametrize("write", ["in place", "new data", "data in place"])
def test_each_evaluation_starts_from_the_same_state(write):
    """By hand: a fresh copy of the module for every evaluation."""
    module, (batch, *_) = Momentum(write), batches()
    objective = Objective(module, step_loss, [batch])
    scales = {name: torch.ones(()) for name in objective.params}
    level = perturbation_sensitivity(objective, scales, [0.1], draws=2, seed=3)[0]
    assert level.loss == pytest.approx(float(copy.deepcopy(module).training_step(batch, 0)), rel=1e-6)
    for index, loss in enumerate(level.draws):
        noise = {name: Noise(scales, seed=3).noise(name, p.detach(), index) for name, p in objective.params.items()}
        pair = []
        for sign in (1, -1):
            moved = copy.deepcopy(module)
            with torch.no_grad():
                for name, p in moved.named_parameters():
                    p.add_(noise[name], alpha=sign * 0.1) if name in noise else None
            pair.append(float(moved.training_step(batch, 0)))
        assert loss == pytest.approx(sum(pair) / 2, rel=1e-5)
    assert {name.partition(".")[0] for name in objective.written} == {"ema"}


def test_the_trace_is_that_of_the_loss_with_the_average_held():
    module, (batch, *_) = Momentum(), batches()
    objective = Objective(module, step_loss, [batch])
    estimate = hessian_trace(objective, products=200, method="hutchinson")
    held = copy.deepcopy(module)
    held.update()
    target = held.ema(batch)
    target = (target - 0.1 * target.mean(0)).detach()

    def loss(*weights):
        out = torch.func.functional_call(held.net, dict(zip(names, weights, strict=True)), batch)
        return F.mse_loss(out, target) + out.pow(2).mean()

    names = [name for name, _ in held.net.named_parameters()]
    blocks = torch.autograd.functional.hessian(loss, tuple(held.net.parameters()))
    exact = sum(float(blocks[i][i].flatten().view(p.numel(), -1).trace()) for i, p in enumerate(held.net.parameters()))
    assert abs(estimate.value - exact) < 4 * estimate.stderr


def test_a_batch_more_does_not_start_where_the_last_one_ended():
    """Also where the weights that are measured are written: with finite differences and several batches."""
    module = Clamped()
    with torch.no_grad():
        module.net.weight.fill_(0.7)
    data = batches()
    losses = [float(copy.deepcopy(module).training_step(batch, 0)) for batch in data]
    objective = Objective(module, step_loss, data)
    with objective.measuring():
        assert objective.loss() == pytest.approx(sum(losses) / 4, rel=1e-6)
        with torch.no_grad():
            module.net.weight.fill_(-0.1)  # the measurement's own write remains
        objective.loss()
        assert torch.equal(objective.module.net.weight, torch.full((1, 4), -0.1))
    assert torch.equal(module.net.weight, torch.full((1, 4), 0.7))
    assert "net.weight" in objective.written


def test_a_loss_that_changes_something_outside_is_refused():
    calls = []

    def outside(module, batch):
        calls.append(1)
        return module.net(batch).pow(2).mean() * (1 + len(calls))

    with pytest.raises(ValueError, match=r"not a function of the weights.*outside the module"):
        fit(Momentum, [HessianTrace(loss_fn=outside, on_error="raise")])
