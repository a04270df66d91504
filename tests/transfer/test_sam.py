"""SAM against its two formulas, and what its second pass must not change."""

from __future__ import annotations

import csv
from itertools import islice

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from transferred import data, different, fit, resumed_differs, sgd, state, task

from lightning_tl.errors import UserError
from lightning_tl.tasks import Cosine
from lightning_tl.transfer import L2SP, LPFT, SAM
from lightning_tl.transfer.sam import TwoPasses

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("target", ["mulclass", "semseg"])
def test_steps_by_hand(start, renders, tmp_path, target, clip):
    module = task(start, SAM(0.2), target)
    without_dropout(module)
    fit(module, data(renders, target), tmp_path, max_steps=3, gradient_clip_val=clip, precision="64-true")
    hand = task(start, target=target).double().train()
    without_dropout(hand)
    optimizer = torch.optim.SGD(hand.parameters(), lr=0.1, momentum=0.9)
    if target == "semseg":
        optimizer = torch.optim.SGD(
            [
                {"params": [p for n, p in hand.named_parameters() if ("aux_" in n) == aux], "lr": 0.1 * 10**aux}
                for aux in (0, 1)
            ],
            momentum=0.9,
        )
    images = data(renders, target)
    images.setup("fit")
    for x, y in islice(images.training_batches(), 3):
        x, y = x.double(), y.double() if y.is_floating_point() else y
        optimizer.zero_grad()
        hand.outputs_and_loss(x, y, "train")[1].backward()
        norm = sum(float(p.grad.double().square().sum()) for p in hand.parameters()) ** 0.5
        kept, buffers = state(hand), {name: value.clone() for name, value in hand.named_buffers()}
        with torch.no_grad():
            for p in hand.parameters():
                p += 0.2 * p.grad / norm
        optimizer.zero_grad()
        hand.outputs_and_loss(x, y, "train")[1].backward()
        hand.load_state_dict(kept | buffers)
        if clip:
            torch.nn.utils.clip_grad_norm_(hand.parameters(), clip)
        optimizer.step()
    for name, value in hand.state_dict().items():
        torch.testing.assert_close(module.state_dict()[name], value, rtol=1e-7, atol=1e-9)


def without_dropout(module):
    for each in module.modules():
        if isinstance(each, torch.nn.Dropout):
            each.p = 0.0


def test_the_formula_in_float64():
    """On a quadratic loss ½θᵀAθ the step is -lr·A(θ + rho·Aθ/‖Aθ‖)."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(5, 5, dtype=torch.float64, generator=generator)
    matrix = matrix @ matrix.T
    net = torch.nn.Linear(5, 1, bias=False).double()
    net.device = torch.device("cpu")
    theta = net.weight.detach().clone()[0]
    optimizer = TwoPasses(torch.optim.SGD(net.parameters(), lr=0.01), 0.3, net)

    def closure():
        optimizer.zero_grad()
        with torch.enable_grad():
            loss = 0.5 * net.weight[0] @ matrix @ net.weight[0]
            loss.backward()
        return loss

    first = optimizer.step(closure)
    assert float(first) == pytest.approx(float(0.5 * theta @ matrix @ theta))
    gradient = matrix @ theta
    expected = theta - 0.01 * matrix @ (theta + 0.3 * gradient / gradient.norm())
    torch.testing.assert_close(net.weight.detach()[0], expected, rtol=1e-12, atol=1e-14)


def test_what_is_logged_and_the_statistics_are_of_the_first_pass(start, renders, tmp_path):
    from lightning.pytorch.loggers import CSVLogger

    def first_loss(name, transfer):
        module = task(start, transfer)
        logger = CSVLogger(tmp_path / name, name="", version="")
        fit(module, data(renders), tmp_path / name, max_steps=1, logger=logger, log_every_n_steps=1)
        with (tmp_path / name / "metrics.csv").open() as file:
            return module, [row["train/loss"] for row in csv.DictReader(file) if row["train/loss"]]

    plain, losses = first_loss("plain", None)
    sharp, found = first_loss("sam", SAM(0.5))
    assert losses == found
    assert len(losses) == 1
    statistics = [name for name in state(plain) if "running" in name or "tracked" in name]
    assert not different({n: state(plain)[n] for n in statistics}, {n: state(sharp)[n] for n in statistics})
    assert different(state(plain), state(sharp))


@pytest.mark.parametrize("target", ["mulclass", "semseg"])
@pytest.mark.parametrize("fine", [True, False])
def test_resumed_equals_uninterrupted(start, renders, tmp_path, target, fine):
    def make():
        methods = [SAM(), L2SP(0.1, decoupled=True), LPFT(probe_steps=1)] if fine else SAM()
        return task(start if fine else None, methods, target, schedule=Cosine(images=32))

    assert not resumed_differs(make, renders, tmp_path, target, at=3)


def test_the_schedule_acts_on_the_inner_optimizer(start, renders, tmp_path):
    module = task(start, SAM(), schedule=Cosine(images=32))
    made = fit(module, data(renders), tmp_path)
    (optimizer,) = made.optimizers
    assert isinstance(optimizer, TwoPasses)
    assert optimizer.param_groups is optimizer.inner.param_groups
    assert optimizer.inner.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-9)
    assert optimizer.state_dict()["state"].keys() == optimizer.inner.state_dict()["state"].keys() != set()


def test_what_is_refused(renders, tmp_path):
    with pytest.raises(UserError, match="SAM: rho is 0; it must be above 0"):
        SAM(0)
    with pytest.raises(UserError, match=r"SAM: trainer\.accumulate_grad_batches is above 1"):
        fit(task(None, SAM()), data(renders), tmp_path, accumulate_grad_batches=2)
    with pytest.raises(UserError, match="the optimiser needs a closure"):
        TwoPasses(sgd([torch.nn.Parameter(torch.zeros(1))]), 0.1, None).step()


def test_scaled_gradients_are_refused(renders, tmp_path):
    scaled = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    with pytest.raises(UserError, match=r"trainer\.precision is 16-mixed, which scales .* use bf16-mixed or 32-true"):
        fit(task(None, SAM()), data(renders), tmp_path, plugins=[scaled])
