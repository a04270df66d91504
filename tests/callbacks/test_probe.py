"""Which batches a run is measured on."""

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_tl.callbacks import HessianTrace, PerturbationSensitivity
from lightning_tl.errors import UserError
from tests.callbacks.modules import Classifier, images, trainer
from tests.measured_values import series


def plain_loss(module, batch):
    images, targets = batch
    return F.cross_entropy(module(images), targets)


class AtEnd(Callback):
    """The loss of the first validation batches, computed without the callbacks, after the last validation."""

    def __init__(self, batches):
        self.batches, self.loss = batches, None

    def on_validation_end(self, trainer, pl_module):
        pl_module.eval()
        with torch.no_grad():
            self.loss = sum(float(plain_loss(pl_module, batch)) for batch in self.batches) / len(self.batches)


def held_out(count=24):
    loader = images(count, seed=9)
    return torch.utils.data.DataLoader(loader.dataset, batch_size=8)


def sensitivity(**options):
    return PerturbationSensitivity(
        [0.1], draws=2, every_n_steps=None, at_start=False, at_validation=True, loss_fn=plain_loss, **options
    )


@pytest.mark.parametrize("count", [1, 2])
def test_val_is_the_first_batches_of_the_validation_loader(count):
    val = held_out()
    expected, noisy = AtEnd(list(val)[:count]), sensitivity(probe="val", probe_batches=count)
    trainer(max_epochs=2, callbacks=[expected, noisy]).fit(Classifier(), images(), val)
    assert series(noisy.history, "perturbed_loss", gamma=0)[-1] == (12, pytest.approx(expected.loss, rel=1e-5))


def test_val_leaves_training_as_it_is():
    weights = []
    for callbacks in ([], [sensitivity(probe="val")]):
        torch.manual_seed(0)
        module = Classifier()
        trainer(max_epochs=2, callbacks=callbacks).fit(module, images(), held_out())
        weights.append(module.state_dict())
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_val_is_read_again_on_resuming(tmp_path):
    torch.manual_seed(0)
    first = sensitivity(probe="val")
    keep = ModelCheckpoint(tmp_path, every_n_epochs=1, save_top_k=-1, filename="{epoch}")
    trainer(max_epochs=2, callbacks=[first, keep], enable_checkpointing=True).fit(Classifier(), images(), held_out())
    again = sensitivity(probe="val")
    path = str(tmp_path / "epoch=1.ckpt")
    trainer(max_epochs=3, callbacks=[again]).fit(Classifier(), images(), held_out(), ckpt_path=path)
    assert again.measured_steps == [6, 12, 18]
    assert all(torch.equal(a, b) for a, b in zip(again.probe.batches[0], next(iter(held_out())), strict=True))


def test_under_validate_val_is_what_is_validated():
    val = held_out()
    expected, noisy = AtEnd(list(val)[:1]), sensitivity(probe="val")
    trainer(callbacks=[expected, noisy]).validate(Classifier(), val, verbose=False)
    assert series(noisy.history, "perturbed_loss", gamma=0) == [(0, pytest.approx(expected.loss, rel=1e-5))]


def test_val_without_a_validation_loader():
    with pytest.raises(UserError, match="probe='val': this run has no validation batches; give it a validation loader"):
        trainer(max_epochs=1, callbacks=[sensitivity(probe="val")]).fit(Classifier(), images())


def test_another_name_than_val():
    with pytest.raises(UserError, match="probe='train': a name can only be 'val'"):
        sensitivity(probe="train")


def test_probe_of_the_users_own():
    loader = images(24, 6, seed=9)
    trace = HessianTrace(None, probe=loader, probe_batches=2)
    before = torch.get_rng_state()
    batch = next(iter(images(5, 5)))
    torch.set_rng_state(before)
    single = PerturbationSensitivity([0.1], draws=2, every_n_steps=None, probe=batch)
    trainer(max_steps=1, callbacks=[trace, single]).fit(Classifier(), images())
    assert [len(b[0]) for b in trace.probe.batches] == [6, 6]
    assert len(single.probe.batches[0][0]) == 5
    assert trace.recorder.state_dict()["probe"] is None
    late = HessianTrace(None, probe_batches=3)
    trainer(max_steps=4, callbacks=[late]).fit(Classifier(), images())
    assert late.measured_steps == [2, 4]
