"""Replay: the mixture, its order, what does not change, and what is refused."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from training import finetuning, pretraining
from transferred import data, different, fit, resumed_differs, state, task

from lightning_tl.errors import UserError
from lightning_tl.run import run
from lightning_tl.transfer import FreezeStages, Replay

pytestmark = pytest.mark.filterwarnings("ignore")


def pretraining_task(start: Path):
    network = task(None, seed=0)
    network.load_state_dict(torch.load(start, weights_only=True)["state_dict"])
    return network


def replay(start: Path, renders: Path, share: float = 1 / 3) -> Replay:
    method = Replay(share)
    method.use_pretraining(pretraining_task(start), data(renders, batch_size=16, seed=3))
    return method


@pytest.mark.parametrize("target", ["mulclass", "semseg"])
def test_two_steps_by_hand(start, renders, tmp_path, target):
    """The gradient is the mean of both parts' over all images; a dilated backbone is shared with a plain one."""
    settings = {"optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.1)}
    module = task(start, replay(start, renders), target, **settings)
    fit(module, data(renders, target), tmp_path, max_steps=2)

    hand, pre = task(start, target=target, **settings).train(), pretraining_task(start).train()
    pre.head.eval()
    images, replayed = data(renders, target), data(renders, seed=3)
    for each in (images, replayed):
        each.setup("fit")
    draws = zip(images.training_batches(), replayed.training_batches(0, 4), strict=True)
    for number, (batch, old) in enumerate(islice(draws, 2)):
        seed_step(number)
        pre.backbone.load_state_dict({**pre.backbone.state_dict(), **parameters(hand.backbone)})
        hand.zero_grad()
        pre.zero_grad()
        hand.outputs_and_loss(*batch, "train")[1].backward()
        pre.outputs_and_loss(*old, "train")[1].backward()
        others = {f"backbone.{name}": each.grad for name, each in pre.backbone.named_parameters()}
        with torch.no_grad():
            for name, each in hand.named_parameters():
                gradient = 8 * each.grad + (4 * others[name] if name in others else 0)
                each -= 0.1 * (10.0 if "aux_classifier" in name else 1.0) * gradient / 12
    for name, value in hand.state_dict().items():  # statistics too: of the target's images
        torch.testing.assert_close(module.state_dict()[name], value, rtol=2e-4, atol=2e-6)


def seed_step(number: int) -> None:
    import numpy as np

    words = np.random.SeedSequence([0, 2, number, 0])  # as TrainingControl seeds dropout
    torch.manual_seed(int(words.generate_state(1, np.uint64)[0] >> 1))


def parameters(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: each.detach() for name, each in module.named_parameters()}


def test_the_target_sees_the_images_that_it_sees_without_replay(start, renders, tmp_path):
    seen: dict[str, list] = {"with": [], "without": []}
    for name, method in (("with", replay(start, renders)), ("without", None)):
        module = task(start, method)
        check = module.outputs_and_loss

        def noted(images, targets, stage, name=name, check=check):
            if stage == "train":
                seen[name].append(images)
            return check(images, targets, stage)

        module.outputs_and_loss = noted
        fit(module, data(renders), tmp_path / name)
    assert len(seen["with"]) == 4
    assert all(torch.equal(a, b) for a, b in zip(seen["with"], seen["without"], strict=True))


def test_the_pretrained_head_and_its_statistics_stay(start, renders, tmp_path):
    method = replay(start, renders)
    module = task(start, [FreezeStages(2), method])
    fit(module, data(renders), tmp_path)
    before, after = pretraining_task(start), method._network
    assert not different(state(before.head), state(after.head))
    statistics = {name: value for name, value in state(before).items() if "running" in name}
    assert all(torch.equal(value, state(after)[name]) for name, value in statistics.items())
    shared = dict(module.backbone.named_parameters())
    assert all(each is shared[name] for name, each in after.backbone.named_parameters())
    assert not any(name.startswith("transfer") for name in module.state_dict())
    assert len(list(module.parameters())) == len(list(task(None).parameters()))


def test_a_pretraining_that_logs_is_muted(start, renders, tmp_path, recwarn):
    method = replay(start, renders)
    compute = method._network.outputs_and_loss

    def logging(images, targets, stage):
        outputs, loss = compute(images, targets, stage)
        method._network.log("train/own", loss)  # which warns where there is no trainer
        return outputs, loss

    method._network.outputs_and_loss = logging
    fit(task(start, method), data(renders), tmp_path, max_steps=2)
    assert not [each for each in recwarn if "self.log" in str(each.message)]


@pytest.mark.parametrize("target", ["mulclass", "semseg"])
def test_resumed_equals_uninterrupted(start, renders, tmp_path, target):
    assert not resumed_differs(lambda: task(start, replay(start, renders), target), renders, tmp_path, target, at=3)


def test_by_the_command_and_resumed_from_it(renders, tmp_path, caplog):
    run(pretraining(renders, tmp_path / "pre", "--trainer.max_steps=2", "--model.scheduler.warmup_steps=1"))
    begin = tmp_path / "pre/checkpoints/last.ckpt"
    method = "--model.transfer={class_path: Replay, init_args: {share: 0.5}}"
    short = ("--trainer.max_steps=2", "--model.scheduler.warmup_steps=1", "--trainer.log_every_n_steps=1")
    args = finetuning(tmp_path / "fine", f"--model.init_from={begin}", method, *short)
    done = run(args)
    assert "train/replay" in (tmp_path / "fine/metrics.csv").read_text().splitlines()[0]
    assert done.model.transfer.methods[0].added(8) == 8
    config = (tmp_path / "pre/config.yaml").rename(tmp_path / "pre/moved.yaml")
    last = f"--ckpt_path={tmp_path}/fine/checkpoints/last.ckpt"
    with pytest.raises(UserError, match=r"transfer Replay: there is no .*pre/config\.yaml, the configuration of the"):
        run([*args, last])
    named = [*args, f"--model.transfer={{class_path: Replay, init_args: {{share: 0.5, config: {config}}}}}", last]
    run(named)
    begin.unlink()
    with pytest.raises(UserError, match=r"Replay needs the pre-training's network, also to resume: .*no such file"):
        run(named)
    with pytest.raises(UserError, match="Replay goes on with the pre-training: give a pre-trained checkpoint"):
        run(finetuning(tmp_path / "scratch", method, *short))


class Other(pl.LightningDataModule):
    def __init__(self, images):
        super().__init__()
        self.images = images

    def train_dataloader(self):
        return self.images.train_dataloader()


def test_what_is_refused(start, renders, tmp_path):
    for share in (0, 1, -0.5):
        with pytest.raises(UserError, match=f"Replay: share is {share:g}; it must be above 0 and below 1"):
            Replay(share)
    with pytest.raises(UserError, match=r"Replay needs the pre-training: train by lightning-tl fit, or call its"):
        fit(task(start, Replay(0.5)), data(renders), tmp_path)
    with pytest.raises(UserError, match=r"a share of 0\.1 adds 1 images to a batch of 8; at least 2 are needed"):
        fit(task(start, replay(start, renders, 0.1)), data(renders), tmp_path)
    with pytest.raises(UserError, match="the pre-training's Other is not a BatchedDataModule"):
        Replay(0.5).use_pretraining(pretraining_task(start), Other(data(renders)))
    with pytest.raises(UserError, match="the pre-training's BoringModel is not a TransferTask"):
        Replay(0.5).use_pretraining(BoringModel(), data(renders))
    images = data(renders)
    images.setup("fit")
    with pytest.raises(UserError, match="transfer Replay: Other is not a BatchedDataModule"):
        fit(task(start, replay(start, renders)), Other(images), tmp_path)
    method = Replay(0.5)
    method.use_pretraining(task(None, backbone="resnet10_w16"), data(renders))
    with pytest.raises(
        UserError, match=r"is not the fine-tuned one: conv1\.weight is \[16, 3, 3, 3\] there and \[8, 3"
    ):
        fit(task(start, method), data(renders), tmp_path)
    with pytest.raises(UserError, match="Replay and LinearProbe cannot be combined: the backbone does not move"):
        task(start, [Replay(0.5), "LinearProbe"])


class BoringModel(pl.LightningModule):
    pass
