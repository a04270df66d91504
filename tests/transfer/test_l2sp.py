"""The pull towards the pre-trained weights, against its formula."""

from __future__ import annotations

import pytest
import torch
from tasks.toy import Toy, trainer

from lightning_tl.errors import UserError
from lightning_tl.tasks import Classification, SemanticSegmentation
from lightning_tl.transfer import L2SP, LinearProbe

TASKS = {"sinclass": (Classification, 3), "semseg": (SemanticSegmentation, 4)}


@pytest.fixture
def start(tmp_path):
    torch.manual_seed(1)
    path = tmp_path / "start.ckpt"
    torch.save(Classification(5, backbone="resnet10_w8").state_dict(), path)
    return path


@pytest.mark.parametrize("task", TASKS)
def test_gradients_are_those_of_the_formula(tmp_path, start, task):
    kind, classes = TASKS[task]
    module = kind(classes, backbone="resnet10_w8", init_from=start, transfer=L2SP(0.3, exclude=r"^head\.|bn1"))
    module.double()
    method = module.transfer.methods[0]
    method.setup(None, module, "fit")
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    with torch.no_grad():
        for value in module.parameters():
            value.add_(0.1 * torch.randn_like(value))
    method.on_fit_start(None, module)
    penalty = method.penalty(module)
    penalty.backward()
    total = 0.0
    for name, value in module.named_parameters():
        pulled = name.startswith("backbone.") and "bn1" not in name
        away = value.detach() - before[name]
        total += 0.15 * float(away.square().sum()) if pulled else 0.0
        assert (value.grad is not None) == pulled, name
        if pulled:
            torch.testing.assert_close(value.grad, 0.3 * away, rtol=1e-12, atol=1e-14)
    assert float(penalty) == pytest.approx(total, rel=1e-12)


def test_no_gradient_at_the_start(start):
    module = Classification(3, backbone="resnet10_w8", init_from=start, transfer=L2SP(1.0))
    method = module.transfer.methods[0]
    method.setup(None, module, "fit")
    method.on_fit_start(None, module)
    method.penalty(module).backward()
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in module.backbone.parameters())


def test_the_loss_of_a_step_has_the_term_and_measurements_do_not(start):
    module = Classification(3, backbone="resnet10_w8", init_from=start, transfer=L2SP(2.0))
    method = module.transfer.methods[0]
    method.setup(None, module, "fit")
    with torch.no_grad():
        module.backbone.conv1.weight.add_(0.1)
    method.on_fit_start(None, module)
    logged = {}
    module.log = lambda name, value, **_: logged.update({name: float(value)})
    batch = next(iter(Toy("sinclass").train_dataloader()))
    step = float(module.train().training_step(batch, 0))
    expected = 0.01 * module.backbone.conv1.weight.numel()
    assert logged["train/l2sp"] == pytest.approx(expected, rel=1e-5)
    assert step == pytest.approx(logged["train/loss"] + expected, rel=1e-6)
    evaluated = float(module.eval().training_step(batch, 0))
    assert evaluated == pytest.approx(logged["train/loss"], rel=1e-6)


def test_decoupled_is_decay_towards_the_start(tmp_path, start):
    """With no gradient of the loss, θ − θ_pre shrinks by 1 − lr·strength at each step, whatever the optimiser."""

    class NoLoss(Classification):
        def loss(self, outputs, targets):
            return 0 * outputs.sum()

    method = L2SP(0.5, decoupled=True)
    module = NoLoss(
        3, backbone="resnet10_w8", init_from=start, transfer=method, optimizer=lambda p: torch.optim.Adam(p, lr=0.2)
    )
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    old_setup = method.on_fit_start

    def moved(run, task):  # the weights move after the start was noted
        with torch.no_grad():
            for value in module.parameters():
                value.add_(1.0)
        old_setup(run, task)

    method.on_fit_start = moved
    trainer(tmp_path, max_steps=3).fit(module, Toy("sinclass"))
    for name, value in module.named_parameters():
        factor = (1 - 0.2 * 0.5) ** 3 if name.startswith("backbone") else 1.0
        torch.testing.assert_close(value.detach() - before[name], torch.full_like(value, factor), rtol=0, atol=1e-5)


def test_a_strong_pull_keeps_the_backbone_where_it_was(tmp_path, start):
    moved = []
    for strength in (1e-9, 5.0):
        torch.manual_seed(0)
        module = Classification(
            3,
            backbone="resnet10_w8",
            init_from=start,
            transfer=L2SP(strength),
            optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
        )
        before = torch.cat([p.detach().flatten().clone() for p in module.backbone.parameters()])
        trainer(tmp_path, max_steps=10).fit(module, Toy("sinclass"))
        moved.append(float((torch.cat([p.detach().flatten() for p in module.backbone.parameters()]) - before).norm()))
    assert moved[1] < 0.7 * moved[0]


def test_misuse(tmp_path, start):
    with pytest.raises(UserError, match="L2SP: strength is 0; it must be above 0"):
        L2SP(0)
    with pytest.raises(UserError, match=r"L2SP: exclude is '\(', which is no regular expression"):
        L2SP(1, exclude="(")
    with pytest.raises(UserError, match="LinearProbe and L2SP cannot be combined: the backbone does not move"):
        Classification(3, backbone="resnet10_w8", transfer=[LinearProbe(), L2SP(1.0)])
    with pytest.raises(UserError, match=r"transfer L2SP pulls .*: give a pre-trained checkpoint"):
        trainer(tmp_path).fit(Classification(3, backbone="resnet10_w8", transfer=L2SP(1.0)), Toy("sinclass"))
    nothing = Classification(3, backbone="resnet10_w8", init_from=start, transfer=L2SP(1.0, exclude="."))
    with pytest.raises(UserError, match=r"L2SP: no trained parameter is left to pull \(exclude is '\.'\)"):
        trainer(tmp_path).fit(nothing, Toy("sinclass"))
