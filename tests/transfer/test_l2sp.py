"""The pull towards the pre-trained weights, against its formula."""

from __future__ import annotations

import csv

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
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
    for value in module.parameters():
        value.grad = torch.zeros_like(value)
    penalty = method.term()
    method.add_gradients()
    total = 0.0
    for name, value in module.named_parameters():
        pulled = name.startswith("backbone.") and "bn1" not in name
        away = value.detach() - before[name]
        total += 0.15 * float(away.square().sum()) if pulled else 0.0
        torch.testing.assert_close(value.grad, 0.3 * away * pulled, rtol=1e-12, atol=1e-14)
    assert float(penalty) == pytest.approx(total, rel=1e-12)


def test_no_gradient_at_the_start(start):
    module = Classification(3, backbone="resnet10_w8", init_from=start, transfer=L2SP(1.0))
    method = module.transfer.methods[0]
    method.setup(None, module, "fit")
    method.on_fit_start(None, module)
    module.backbone.conv1.weight.grad = torch.ones_like(module.backbone.conv1.weight)
    method.add_gradients()
    assert bool((module.backbone.conv1.weight.grad == 1).all())
    assert module.backbone.bn1.weight.grad is None  # it has not begun, or is not used
    assert method.term() == 0


@pytest.mark.parametrize("settings", [{}, {"gradient_clip_val": 0.05}, {"accumulate_grad_batches": 2}])
def test_a_step_has_the_gradient_of_the_term_and_it_is_logged(tmp_path, start, settings):
    """As the same term in the loss, by autograd; clipped with it."""

    class InTheLoss(Classification):
        def training_step(self, batch, batch_idx):
            pairs = zip(self.backbone.parameters(), self.before, strict=True)
            return super().training_step(batch, batch_idx) + sum((now - was).square().sum() for now, was in pairs)

    def trained(kind, transfer, name):
        torch.manual_seed(2)
        module = kind(
            3,
            backbone="resnet10_w8",
            init_from=start,
            transfer=transfer,
            optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
        )
        module.before = [value.detach().clone() for value in module.backbone.parameters()]
        logger = CSVLogger(tmp_path / name, name="", version="")
        trainer(tmp_path / name, max_steps=4, log_every_n_steps=2, logger=logger, **settings).fit(
            module, Toy("sinclass")
        )
        return module

    by_hand = trained(InTheLoss, None, "by_hand")
    module = trained(Classification, L2SP(2.0), "l2sp")
    for found, expected in zip(module.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    with (tmp_path / "l2sp/metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/l2sp"]]
    assert [row["step"] for row in rows] == ["1", "3"]
    assert 0 < float(rows[0]["train/l2sp"]) < float(rows[1]["train/l2sp"])


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
    with pytest.raises(UserError, match=r"L2SP: exclude is '\(', which is not a regular expression"):
        L2SP(1, exclude="(")
    with pytest.raises(UserError, match="LinearProbe and L2SP cannot be combined: the backbone does not move"):
        Classification(3, backbone="resnet10_w8", transfer=[LinearProbe(), L2SP(1.0)])
    with pytest.raises(UserError, match=r"transfer L2SP pulls .*: give a pre-trained checkpoint"):
        trainer(tmp_path).fit(Classification(3, backbone="resnet10_w8", transfer=L2SP(1.0)), Toy("sinclass"))
    nothing = Classification(3, backbone="resnet10_w8", init_from=start, transfer=L2SP(1.0, exclude="."))
    with pytest.raises(UserError, match=r"L2SP: no trained parameter is left to pull \(exclude is '\.'\)"):
        trainer(tmp_path).fit(nothing, Toy("sinclass"))
