"""Projects that import Lightning by its other name, ``pytorch_lightning``: metrics are as without the callbacks."""

import pytest
import pytorch_lightning as older
import torch
import torch.nn.functional as F
import torchmetrics
from torch import nn
from torch.utils.data import DataLoader

from lightning_tl.callbacks import HessianTrace, ParameterDistance, PerturbationSensitivity, SensitivityStop


class Module(older.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Dropout(0.2), nn.Linear(4, 3))
        self.accuracy = torchmetrics.Accuracy("multiclass", num_classes=3)

    def training_step(self, batch, batch_idx):
        out = self.net(batch[0])
        loss = F.cross_entropy(out, batch[1])
        self.accuracy(out, batch[1])
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.log_dict({"accuracy": self.accuracy}, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val", F.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.05)


def measuring():
    often = {"every_n_steps": 1, "at_epoch_end": True, "at_validation": True}
    return [
        ParameterDistance(**often),
        HessianTrace(products=4, **often),
        PerturbationSensitivity([0.1], draws=2, **often),
        SensitivityStop(patience=90),
    ]


def fit(callbacks, folder, **options):
    older.seed_everything(5)
    generator = torch.Generator().manual_seed(1)
    data = [(torch.randn(6, 4, generator=generator), torch.randint(0, 3, (6,), generator=generator)) for _ in range(5)]
    module, loader = Module(), DataLoader(data, batch_size=None)
    logger = older.loggers.CSVLogger(folder)
    run = older.Trainer(
        accelerator="cpu",
        max_epochs=2,
        callbacks=callbacks,
        logger=logger,
        log_every_n_steps=1,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    run.fit(module, loader, loader)
    return module, run


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}])
def test_training_and_metrics_are_the_same(tmp_path, options):
    plain, run = fit([], tmp_path / "a", **options)
    callbacks = measuring()
    measured, run2 = fit(callbacks, tmp_path / "b", **options)
    assert all(len(callback.measured_steps) > 5 for callback in callbacks[:3])
    assert all(torch.equal(t, measured.state_dict()[n]) for n, t in plain.state_dict().items())
    own = {"loss_step", "loss_epoch", "accuracy", "val"}
    assert own <= run.callback_metrics.keys()
    for key, value in run.callback_metrics.items():
        assert torch.equal(value, run2.callback_metrics[key]), key
    assert "hessian/trace" in run2.callback_metrics
    checkpoint = next((tmp_path / "b").rglob("*.ckpt"))
    assert len(torch.load(checkpoint, weights_only=True)["callbacks"]) == 5


def test_under_test(tmp_path):
    module = Module()
    module.test_step = module.validation_step
    trace = HessianTrace(products=4)
    run = older.Trainer(accelerator="cpu", callbacks=[trace], logger=False, enable_progress_bar=False)
    generator = torch.Generator().manual_seed(1)
    batch = torch.randn(6, 4, generator=generator), torch.randint(0, 3, (6,), generator=generator)
    run.test(module, DataLoader([batch], batch_size=None), verbose=False)
    assert trace.measured_steps == [0]
