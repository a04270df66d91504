"""An interrupted and resumed run logs what an uninterrupted one logs."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_tl.callbacks import HessianTrace, ParameterDistance, PerturbationSensitivity, SensitivityStop
from tests.callbacks.modules import Classifier, images, trainer


class Kill(Callback):
    def __init__(self, at):
        self.at = at

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.at:
            raise KeyboardInterrupt


class NoNoise(Classifier):
    """Without random numbers of its own: a resumed run of Lightning restores no generator."""

    def __init__(self):
        super().__init__()
        self.drop = torch.nn.Identity()

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])


class Ordered:
    """A loader that can go on within an epoch, as Lightning asks of resumable ones."""

    def __init__(self):
        self.batches = list(torch.utils.data.DataLoader(images().dataset, batch_size=8))
        self.at = 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        self.at %= len(self.batches)
        while self.at < len(self.batches):
            self.at += 1
            yield self.batches[self.at - 1]

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def callbacks():
    return [
        ParameterDistance(every_n_steps=2),
        HessianTrace(every_n_steps=2, products=6, method="matvec", log_steps=3, noise="init"),
        HessianTrace(every_n_steps=3, prefix="known/", noise="relative"),
        PerturbationSensitivity([0.1], draws=3, every_n_steps=2, at_epoch_end=True),
        SensitivityStop(patience=50),
    ]


def run(path, extra, ckpt=None):
    pl.seed_everything(3)
    measuring = callbacks()
    saver = ModelCheckpoint(path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    fit = trainer(max_epochs=3, callbacks=[*measuring, *extra, saver], enable_checkpointing=True)
    module = NoNoise()
    if extra:
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            fit.fit(module, Ordered(), ckpt_path=ckpt)
    else:
        fit.fit(module, Ordered(), ckpt_path=ckpt)
    return [*measuring, module]


def test_resumed_run_logs_the_same_values(tmp_path):
    whole = run(tmp_path / "whole", [])
    run(tmp_path / "part", [Kill(8)])
    resumed = run(tmp_path / "part", [], ckpt=tmp_path / "part" / "step=7.ckpt")
    for name, tensor in whole[-1].state_dict().items():  # else the comparison would mean nothing
        assert torch.equal(tensor, resumed[-1].state_dict()[name]), name
    for a, b in zip(whole[:-2], resumed[:-2], strict=True):
        assert len(a.measured_steps) > 4
        assert a.history == b.history
    assert whole[-2].state_dict() == resumed[-2].state_dict()
    assert whole[1].measured_steps == [0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 18]
    # plain types: weights_only loading is what Lightning does on resuming, and what others will do
    state = torch.load(tmp_path / "part" / "step=7.ckpt", weights_only=True)["callbacks"]
    assert sum("HessianTrace" in key for key in state) == 2
