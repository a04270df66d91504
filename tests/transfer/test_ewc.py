"""EWC's Fisher information, its penalty and gradient, by a loop in float64."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch
from training import finetuning, pretraining
from transferred import data, different, every_step, fit, pretrained, state, task

from lightning_tl.errors import UserError
from lightning_tl.run import run
from lightning_tl.transfer import EWC, LPFT

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module", params=["mulclass", "semseg"])
def start(request, tmp_path_factory):
    return request.param, pretrained(tmp_path_factory.mktemp("start") / "pre.ckpt", request.param)


def pretraining_task(start):
    network = task(None, target=start[0], seed=0)
    network.load_state_dict(torch.load(start[1], weights_only=True)["state_dict"])
    return network


def ewc(start, renders, strength=3.0, images=11):
    method = EWC(strength, images)
    method.use_pretraining(pretraining_task(start), data(renders, start[0], seed=5))
    return method


def test_fisher_penalty_and_gradient(start, renders, tmp_path):
    """A classification is fine-tuned from a classification, and from a segmentation, whose backbone is dilated."""
    module = task(start[1], ewc(start, renders))
    made = fit(module, data(renders), tmp_path, precision="64-true", max_steps=2)
    assert made.precision == "64-true"
    (method,) = module.transfer.methods

    network = pretraining_task(start).double().eval()
    images = data(renders, start[0], seed=5)
    images.setup("fit")
    samples = [
        (x, y)
        for _, batch in zip(range(2), images.training_batches(), strict=False)
        for x, y in zip(*batch, strict=True)
    ]
    fisher = {name: torch.zeros_like(each) for name, each in network.backbone.named_parameters()}
    for x, y in samples[:11]:
        network.zero_grad()
        network.outputs_and_loss(x[None].double(), y[None].double() if y.is_floating_point() else y[None], "train")[
            1
        ].backward()
        for name, each in network.backbone.named_parameters():
            fisher[name] += each.grad**2 / 11
    for name, value in fisher.items():
        torch.testing.assert_close(method.state_dict()["fisher"][f"backbone.{name}"], value, rtol=1e-6, atol=1e-14)

    before = network.backbone.state_dict()
    module.zero_grad()
    for each in module.backbone.parameters():
        each.grad = torch.zeros_like(each)
    penalty = method.term()
    method.add_gradients()
    away = {name: each.detach() - before[name] for name, each in module.backbone.named_parameters()}
    assert float(penalty) == pytest.approx(
        1.5 * sum(float((fisher[n] * d**2).sum()) for n, d in away.items()), rel=1e-6
    )
    for name, each in module.backbone.named_parameters():
        torch.testing.assert_close(each.grad, 3.0 * fisher[name] * away[name], rtol=1e-5, atol=1e-14)
    assert all(each.grad is None for each in module.head.parameters())


def test_resumed_without_the_pretraining(start, renders, tmp_path):
    whole = task(start[1], [ewc(start, renders), LPFT(probe_steps=1)], start[0])
    kept = {"callbacks": [every_step(tmp_path / "kept")], "enable_checkpointing": True}
    fit(whole, data(renders, start[0]), tmp_path / "whole", **kept)
    again = task(None, [EWC(3.0, 11), LPFT(probe_steps=1)], start[0])
    fit(again, data(renders, start[0]), tmp_path / "again", tmp_path / "kept/step=2.ckpt")
    assert not different(state(whole), state(again))


def test_by_the_command_and_resumed_without_the_pretraining(renders, tmp_path):
    short = ("--trainer.max_steps=2", "--model.scheduler.warmup_steps=1", "--trainer.log_every_n_steps=1")
    run(pretraining(renders, tmp_path / "pre", *short))
    method = "--model.transfer={class_path: EWC, init_args: {strength: 10, images: 8}}"
    begin = f"--model.init_from={tmp_path}/pre/checkpoints/last.ckpt"
    args = finetuning(tmp_path / "fine", begin, method, *short)
    whole = run(args)
    assert "train/ewc" in (tmp_path / "fine/metrics.csv").read_text().splitlines()[0]
    shutil.rmtree(tmp_path / "pre")
    resumed = run([*args, f"--ckpt_path={tmp_path}/fine/checkpoints/last.ckpt"])
    fisher = whole.model.transfer.methods[0].state_dict()["fisher"]
    assert not different(fisher, resumed.model.transfer.methods[0].state_dict()["fisher"])


def test_what_is_refused(start, renders, tmp_path):
    with pytest.raises(UserError, match="EWC: strength is -1; it must be above 0"):
        EWC(-1)
    with pytest.raises(UserError, match="EWC: images is 0; it must be at least 1"):
        EWC(1, images=0)
    with pytest.raises(UserError, match="EWC pulls towards the pre-trained weights: give a pre-trained checkpoint"):
        fit(task(None, EWC(1)), data(renders), tmp_path)
    with pytest.raises(UserError, match="EWC needs the pre-training: train by lightning-tl fit, or call its"):
        fit(task(start[1], EWC(1)), data(renders), tmp_path)
    with pytest.raises(UserError, match="EWC and L2SP cannot be combined: both change the pull"):
        task(start[1], [EWC(1), {"class_path": "L2SP", "init_args": {"strength": 1}}])
    method = EWC(1)
    method.use_pretraining(task(None, backbone="resnet10_w16"), data(renders))
    with pytest.raises(UserError, match=r"EWC: the pre-training's backbone is not the fine-tuned one: conv1\.weight"):
        fit(task(start[1], method), data(renders), tmp_path)
    method = EWC(1)
    method.use_pretraining(task(None, backbone="resnet18"), data(renders))
    with pytest.raises(UserError, match=r"is not the fine-tuned one: layer1\.1\.bn1\.bias is only in one of them"):
        fit(task(start[1], method), data(renders), tmp_path)
    assert copy.deepcopy(EWC(2, 7, "a.yaml")).arguments() == {"strength": 2, "images": 7, "config": "a.yaml"}
