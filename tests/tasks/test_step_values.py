"""Values of each training step: loggers, callbacks and progress bars see what they would see by Lightning's own log."""

from __future__ import annotations

import csv

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.loggers import CSVLogger
from tasks.toy import Toy, trainer

from lightning_tl.callbacks import PerturbationSensitivity
from lightning_tl.losses.training_step import quiet
from lightning_tl.tasks import Classification, base
from lightning_tl.transfer import TransferMethod

EPOCH = 5  # batches


class SmallHead(TransferMethod):
    name = "small_head"

    def penalty(self, task):
        return 0.1 * task.head.weight.square().sum()


class Seen(Callback):
    """What callbacks can see after each step; asks for the end of the training in a step that makes no log entry."""

    def __init__(self, stop):
        self.stop, self.values = stop, []

    def on_train_batch_end(self, trainer, module, *_):
        self.note(trainer)
        trainer.should_stop |= len(self.values) == self.stop

    def on_train_epoch_end(self, trainer, module):
        self.note(trainer)

    def note(self, trainer):
        kinds = trainer.callback_metrics, trainer.logged_metrics, trainer.progress_bar_metrics
        self.values.append([{key: float(kind[key]) for key in kind if not key.endswith("seconds")} for kind in kinds])


def train(folder, stop, **settings):
    seed_everything(3)
    task = Classification(3, backbone="resnet10_w16", transfer=SmallHead(), optimizer=torch.optim.SGD)
    seen = Seen(stop)
    run = trainer(
        folder,
        logger=CSVLogger(folder, name="", version=""),
        log_every_n_steps=3,
        callbacks=[seen, PerturbationSensitivity([0.1], draws=2, every_n_steps=4)],
        **settings,
    )
    run.fit(task, Toy("sinclass", batch_size=4, number=4 * EPOCH))
    with (folder / "metrics.csv").open() as file:
        rows = [{key: row[key] for key in row if not key.endswith("seconds")} for row in csv.DictReader(file)]
    return seen.values, rows, float(run.callback_metrics["train/loss"])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("stop", "settings"),
    [
        (None, {"max_steps": 11, "val_check_interval": 2}),
        (8, {"max_steps": 11}),
        (None, {"max_steps": 4, "accumulate_grad_batches": 2}),
    ],
)
def test_everything_seen_is_as_by_lightnings_own_log(tmp_path, monkeypatch, stop, settings):
    plain_log, calls = pl.LightningModule.log, []

    def counted(module, name, *args, **options):
        calls.append(name)
        plain_log(module, name, *args, **options)

    monkeypatch.setattr(pl.LightningModule, "log", counted)
    fast = train(tmp_path / "fast", stop, **settings)
    times = calls.count("train/loss")
    calls.clear()
    monkeypatch.setattr(base, "replace_logged", lambda *_: False)
    plain = train(tmp_path / "plain", stop, **settings)
    assert fast == plain
    assert any(row["train/loss"] for row in fast[1]) or stop
    assert {"train/loss", "train/small_head"} <= set(fast[0][-1][0])
    # Lightning's own is called once per epoch, in its first step
    steps = calls.count("train/loss")
    assert times == -(-steps // EPOCH) < steps


def test_other_values_are_logged_by_lightning(tmp_path):
    class Odd(Classification):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.log("train/number", float(batch_idx), on_step=True, on_epoch=False)
            self.log("train/mean", loss)
            self.log("train/bar", loss, on_step=True, on_epoch=False, prog_bar=True)
            with quiet(self):
                self.log("train/loss", loss + 1, on_step=True, on_epoch=False)
            self.loss_seen = loss.detach()
            return loss

    task = Odd(3, backbone="resnet10_w16", optimizer=torch.optim.SGD)
    run = trainer(tmp_path, max_steps=3)
    run.fit(task, Toy("sinclass", batch_size=4, number=16))
    assert run.callback_metrics["train/number"] == 2
    assert run.callback_metrics["train/loss"] == run.progress_bar_metrics["train/bar"] == task.loss_seen
    assert not run.callback_metrics["train/loss"].requires_grad
