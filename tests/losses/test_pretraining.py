"""The pre-training loss under the backbone that is being fine-tuned."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch.optim.swa_utils import update_bn

from lightning_tl.callbacks import HessianTrace, PerturbationSensitivity, PretrainingLoss
from lightning_tl.errors import UserError
from lightning_tl.measure import Objective, hessian_trace, select
from tests.callbacks.modules import Classifier, images, trainer
from tests.callbacks.test_writing_steps import Momentum
from tests.measured_values import only


class Downstream(Classifier):
    """Another task on the same backbone."""

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(16, 5)

    @classmethod
    def around(cls, backbone):
        module = cls()
        module.backbone = backbone
        return module

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
    assert only(noisy.history, 4, "pretrain/perturbed_loss", gamma=0).value == pytest.approx(expected, rel=1e-5)
    by_hand = Objective(
        pretrained, lambda m, b: F.cross_entropy(m(b[0]), b[1]), [held_out], select(pretrained, "^backbone")
    )
    estimate = hessian_trace(by_hand, method="hutchinson", products=400)
    measured = only(trace.history, 4, "pretrain/hessian", "trace").value
    assert abs(measured - estimate.value) < 4 * estimate.stderr + 1e-6


def test_the_default_is_the_training_step_of_the_pretrained_module():
    class Plain(Classifier):
        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self(batch[0]), batch[1])

    pretrained = Plain()
    batch = next(iter(images(16, 16, seed=4)))
    update_bn([batch[0]], pretrained)
    with torch.no_grad():
        expected = F.cross_entropy(pretrained.eval()(batch[0]), batch[1])
    pretrained.train()
    loss = PretrainingLoss(pretrained)(Downstream.around(pretrained.backbone).eval(), batch)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_modules_without_the_backbone_are_refused():
    headless = torch.nn.Sequential(torch.nn.Linear(2, 2))
    with pytest.raises(UserError, match="Sequential has no backbone at 'backbone'; it has 0"):
        PretrainingLoss(headless)
    with pytest.raises(UserError, match="Sequential has no backbone"):
        PretrainingLoss(Classifier())(headless, None)


def test_a_pretrained_module_whose_training_step_writes_to_weights():
    """Every call starts from the momentum encoder as it was saved."""
    pretrained = Momentum()
    module, batch = Momentum(), torch.randn(8, 4)
    by_hand = copy.deepcopy(pretrained)
    by_hand.net = copy.deepcopy(module.net)
    expected = float(by_hand.training_step(batch, 0))
    loss = PretrainingLoss(pretrained, backbone="net")
    assert [float(loss(module, batch)) for _ in range(3)] == [pytest.approx(expected, rel=1e-6)] * 3
    estimate = HessianTrace(None, loss_fn=loss, probe=batch, include="^net", on_error="raise", products=4)
    trainer(max_steps=1, callbacks=[estimate]).fit(module, torch.utils.data.DataLoader([batch], batch_size=None))
    assert len(estimate.history) > 0
