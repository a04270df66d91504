"""SensitivityStop on a module whose fragility is scripted."""

import pytest
import torch
from lightning.pytorch import LightningModule

from lightning_tl.callbacks import PerturbationSensitivity, SensitivityStop
from tests.callbacks.modules import images, trainer


class Fragile(LightningModule):
    """The probe loss's curvature falls until step 10 and rises afterwards."""

    def __init__(self, decay=False):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(20))
        self.decay = decay

    def training_step(self, batch, batch_idx):
        return self.weight.sum() * 0

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
        gamma = 0.9 if self.decay else 1.0
        return [optimizer], [
            {"scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma), "interval": "step"}
        ]


def curvature(module, batch):
    return (1 + abs(module.trainer.global_step - 10)) * module.weight.square().sum()


def sensitivity():
    return PerturbationSensitivity([0.1, 0.2], draws=4, noise="isotropic", every_n_steps=1, loss_fn=curvature)


def test_stops_after_the_turn_and_keeps_the_best(tmp_path):
    stop = SensitivityStop(patience=3, keep=str(tmp_path / "best.ckpt"))
    run = trainer(max_epochs=20, callbacks=[sensitivity(), stop], min_steps=1)
    run.fit(Fragile(), images())
    assert stop.turned_at == 13
    assert run.global_step == 13
    assert torch.load(tmp_path / "best.ckpt", weights_only=True)["global_step"] == 10


@pytest.mark.parametrize("gamma, watched", [(None, "0.2"), (0.1, "0.1"), (0.3 - 0.1, "0.2")])
def test_the_scale_to_watch(caplog, gamma, watched):
    """The largest by default; a computed one need not be equal to the last bit."""
    stop = SensitivityStop(gamma, patience=3)
    with caplog.at_level("INFO"):
        trainer(max_steps=20, callbacks=[sensitivity(), stop]).fit(Fragile(), images())
    assert stop.turned_at == 13
    text = (
        f"under noise of gamma {watched} has been above its lowest value, of step 10, for 3 measurements (now step 13)"
    )
    assert text in caplog.text


def test_only_watches_without_stop_and_warns_under_decay(tmp_path):
    stop = SensitivityStop(patience=2, stop=False, keep=str(tmp_path / "best.ckpt"))
    with pytest.warns(UserWarning, match="learning rate has decayed"):
        trainer(max_steps=20, callbacks=[sensitivity(), stop]).fit(Fragile(decay=True), images())
    assert stop.turned_at == 12


def test_noise_is_no_turn():
    """A loss that wavers less than its noise never counts as turned."""

    def wavering(module, batch):
        return (
            module.weight.square().sum() * (1 + 1e-3 * (module.trainer.global_step % 2)) + 5 * module.weight.sum() ** 3
        )

    watched = PerturbationSensitivity([0.1], draws=4, noise="isotropic", every_n_steps=1, loss_fn=wavering)
    stop = SensitivityStop(patience=2)
    run = trainer(max_steps=12, callbacks=[watched, stop])
    run.fit(Fragile(), images())
    assert stop.turned_at is None
    assert run.global_step == 12
