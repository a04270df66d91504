"""SensitivityStop on a module whose fragility is scripted, and the pre-training loss while fine-tuning."""

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch.optim.swa_utils import update_bn

from lightning_tl.callbacks import HessianTrace, PerturbationSensitivity, PretrainingLoss, SensitivityStop
from lightning_tl.errors import UserError
from lightning_tl.measure import Objective, hessian_trace, select
from tests.callbacks.modules import Classifier, images, trainer


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


class Downstream(Classifier):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(16, 5)

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self(batch[0]), torch.zeros(len(batch[0]), 5))


def test_the_pretraining_loss_without_a_change_of_weights():
    """Statistics of other images are no forgetting, unless they are asked for."""
    pretrained, module = Classifier(), Downstream()
    module.backbone.load_state_dict(pretrained.backbone.state_dict())
    held_out = next(iter(images(16, 16, seed=4)))
    update_bn([held_out[0]], pretrained)
    update_bn([5 * held_out[0] + 3], module)

    def cross_entropy(m, b):
        return F.cross_entropy(m(b[0]), b[1])

    with torch.no_grad():
        before = cross_entropy(pretrained.eval(), held_out)
    module.eval()
    assert PretrainingLoss(pretrained, loss_fn=cross_entropy)(module, held_out).item() == pytest.approx(before.item())
    assert abs(PretrainingLoss(pretrained, loss_fn=cross_entropy, bn="kept")(module, held_out) - before) > 0.01
    with pytest.raises(UserError, match="bn='kep' is unknown; did you mean 'kept'"):
        PretrainingLoss(pretrained, bn="kep")


def test_pretraining_loss_under_the_present_backbone():
    pretrained, module = Classifier(), Downstream()
    module.backbone.load_state_dict(pretrained.backbone.state_dict())
    held_out = next(iter(images(16, 16, seed=4)))
    loss = PretrainingLoss(pretrained, loss_fn=lambda m, b: F.cross_entropy(m(b[0]), b[1]))
    common = {"loss_fn": loss, "probe": held_out, "include": "^backbone", "every_n_steps": 4, "prefix": "pretrain/"}
    trace, noisy = HessianTrace(**common), PerturbationSensitivity([0.1], draws=2, **common)
    head = pretrained.head.weight.clone()
    trainer(max_steps=4, callbacks=[trace, noisy]).fit(module, images())
    assert torch.equal(head, pretrained.head.weight)

    # the reference: put the final backbone into the pre-trained module by hand, and re-estimate its statistics
    pretrained.backbone.load_state_dict(module.backbone.state_dict())
    update_bn([held_out[0]], pretrained)
    pretrained.eval()
    expected = F.cross_entropy(pretrained(held_out[0]), held_out[1]).item()
    assert noisy.history[-1]["pretrain/perturbed_loss/gamma_0"] == pytest.approx(expected, rel=1e-5)
    by_hand = Objective(
        pretrained, lambda m, b: F.cross_entropy(m(b[0]), b[1]), [held_out], select(pretrained, "^backbone")
    )
    found = hessian_trace(by_hand, method="hutchinson", products=400)
    assert abs(trace.history[-1]["pretrain/hessian/trace"] - found.value) < 4 * found.stderr + 1e-6
    default = PretrainingLoss(pretrained)
    assert torch.isfinite(default(module, held_out))
