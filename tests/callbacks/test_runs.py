"""Runs as they occur: short ones, frozen layers, pruning, averaging, several modules, failing measurements."""

import copy
import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import BackboneFinetuning, ModelPruning, StochasticWeightAveraging
from torch import nn
from torch.utils.data import DataLoader

from lightning_tl.callbacks import HessianTrace, ParameterDistance, PerturbationSensitivity, SensitivityStop
from lightning_tl.errors import UserError
from tests.callbacks.modules import Classifier, images, trainer
from tests.measured_values import only, series


def said(run, *arguments):
    """Return the texts of the warnings of a run."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(*arguments)
    return [str(warning.message) for warning in caught]


def test_a_short_run_is_measured_at_its_end():
    trace, off = HessianTrace(), HessianTrace(at_end=False, prefix="off/")
    trainer(max_steps=3, callbacks=[trace, off]).fit(Classifier(), images())
    assert trace.measured_steps == [0, 3]
    assert off.measured_steps == [0]


@pytest.mark.parametrize("steps, expected", [({"max_epochs": 2}, [6, 12]), ({"max_steps": 4}, [4])])
def test_a_probe_of_more_batches_than_there_are(steps, expected):
    """The epoch's six, or the four of a shorter run, with a warning; not the same batch twice."""
    noisy = PerturbationSensitivity([0.1], draws=2, probe_batches=100)
    found = said(trainer(**steps, callbacks=[noisy]).fit, Classifier(), images())
    count = min(6, expected[0])
    assert [text for text in found if f"probe_batches=100, but there are {count}: these are measured on" in text]
    assert noisy.measured_steps == expected
    assert len(noisy.probe.batches) == count


def test_a_loader_with_fewer_batches_than_asked_for():
    trace = HessianTrace(None, probe=images(16, 8), probe_batches=5)
    found = said(trainer(max_steps=1, callbacks=[trace]).fit, Classifier(), images())
    assert [text for text in found if "probe_batches=5, but the loader has 2" in text]
    assert trace.measured_steps == [0, 1]


class Frozen(Classifier):
    """Plain gradient descent, so that what moves is easy to follow."""

    def configure_optimizers(self):
        return torch.optim.SGD(filter(lambda p: p.requires_grad, self.parameters()), 0.3)


def test_a_backbone_that_is_unfrozen_later_counts():
    module = Frozen()
    start = {name: p.detach().clone() for name, p in module.named_parameters()}
    distance = ParameterDistance(every_n_steps=6)
    unfreeze = BackboneFinetuning(unfreeze_backbone_at_epoch=1, backbone_initial_lr=0.3)
    found = said(trainer(max_epochs=3, callbacks=[distance, unfreeze]).fit, module, images())
    by_hand = {name: float((p.detach() - start[name]).norm()) for name, p in module.named_parameters()}
    assert by_hand["backbone.0.weight"] > 0.01
    total = sum(value**2 for value in by_hand.values()) ** 0.5
    last = distance.measured_steps[-1]
    assert only(distance.history, last, "param_distance", "total").value == pytest.approx(total, rel=1e-5)
    backbone = sum(value**2 for name, value in by_hand.items() if name.startswith("backbone")) ** 0.5
    assert only(distance.history, last, "param_distance", "backbone").value == pytest.approx(backbone, rel=1e-5)
    assert not [text for text in found if "reference lacks" in text]


def test_callbacks_that_are_used_for_a_second_module():
    """As fresh ones would measure."""
    used = [ParameterDistance(every_n_steps=2), PerturbationSensitivity([0.1], draws=2), HessianTrace(products=4)]
    trainer(max_epochs=1, callbacks=used).fit(Classifier(), images())
    fresh = [ParameterDistance(every_n_steps=2), PerturbationSensitivity([0.1], draws=2), HessianTrace(products=4)]
    histories = []
    for callbacks in (fresh, used):
        torch.manual_seed(9)
        trainer(max_epochs=1, callbacks=callbacks).fit(Classifier(), images())
        histories.append([callback.history for callback in callbacks])
    assert histories[0] == histories[1]
    assert only(used[0].history, 0, "param_distance", "total").value == 0
    assert only(used[0].history, 2, "param_distance", "total").value < 1


def test_a_fit_that_goes_on_keeps_its_reference():
    distance, module = ParameterDistance(every_n_steps=None), Classifier()
    run = trainer(max_epochs=1, callbacks=[distance])
    run.fit(module, images())
    run.fit_loop.max_epochs = 2
    run.fit(module, images())
    assert distance.measured_steps == [0, 6, 12]
    values = [value for _, value in series(distance.history, "param_distance", "total")]
    assert 0 == values[0] < values[1] < values[2]


def test_the_pass_of_weight_averaging_is_no_step():
    distance = ParameterDistance(every_n_steps=1)
    average = StochasticWeightAveraging(0.01, swa_epoch_start=1)
    trainer(max_epochs=3, callbacks=[distance, average]).fit(Classifier(), images())
    assert distance.steps == 18
    assert distance.measured_steps == list(range(19))


def test_pruned_parameters_are_compared_with_their_masks():
    module = Classifier()
    start = {name: p.detach().clone() for name, p in module.named_parameters()}
    prune = ModelPruning("l1_unstructured", amount=0.5, parameters_to_prune=[(module.head, "weight")])
    distance = ParameterDistance(every_n_steps=None, on_error="raise")
    trainer(max_epochs=2, callbacks=[prune, distance]).fit(module, images())
    moved = float((module.head.weight.detach() - start["head.weight"]).norm())
    bias = float((module.head.bias.detach() - start["head.bias"]).norm())
    assert bool((module.head.weight == 0).any())
    at_end = only(distance.history, 12, "param_distance", "head").value
    assert at_end == pytest.approx(math.hypot(moved, bias), rel=1e-5)


def failing(module, batch):
    raise RuntimeError(f"no loss here, in {type(module).__name__}")


def fitted(callbacks, steps=6):
    torch.manual_seed(4)
    module = Classifier()
    run = trainer(max_steps=steps, callbacks=callbacks)
    texts = said(run.fit, module, images())
    return module, run, texts


def test_a_measurement_that_fails_does_not_end_the_run():
    module, _, _ = fitted([])
    trace = HessianTrace(1, loss_fn=failing)
    measured, run, texts = fitted([trace])
    assert run.global_step == 6
    assert all(torch.equal(t, measured.state_dict()[n]) for n, t in module.state_dict().items())
    texts = [text for text in texts if text.startswith("HessianTrace")]
    assert texts == [
        "HessianTrace could not measure at step 0, training goes on: RuntimeError: no loss here, in Classifier",
        "HessianTrace failed 3 times in a row and measures no more in this run",
    ]
    assert trace.history == []
    with pytest.raises(RuntimeError, match="no loss here"):
        fitted([HessianTrace(1, loss_fn=failing, on_error="raise")])
    with pytest.raises(UserError, match="on_error='rise' is unknown; did you mean 'raise'"):
        HessianTrace(on_error="rise")


def test_it_measures_again_when_it_can():
    def sometimes(module, batch):
        if module.trainer.global_step in (0, 2):
            raise RuntimeError("not now")
        return F.cross_entropy(module(batch[0]), batch[1])

    trace = HessianTrace(1, loss_fn=sometimes, products=4)
    fitted([trace])
    assert trace.measured_steps == [1, 3, 4, 5, 6]


def test_other_failures_do_not_end_the_run_either(tmp_path):
    """Parameters that disappear, and an initialisation that is not known."""

    class Renaming(Classifier):
        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                self.other, self.head = self.head, nn.Identity()

        def forward(self, x):
            return getattr(self, "other", self.head)(self.drop(self.backbone(x)))

    distance = ParameterDistance(include="^head", every_n_steps=None, at_epoch_end=True)
    texts = said(trainer(max_epochs=2, callbacks=[distance]).fit, Renaming(), images())
    assert [t for t in texts if "ParameterDistance could not measure at step 12, training goes on: no parameter" in t]
    assert distance.measured_steps == [0, 6]

    class Bare(Classifier):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return self.scale * super().forward(x)

    noisy = PerturbationSensitivity([0.1])
    texts = said(trainer(max_steps=1, callbacks=[noisy]).fit, Bare(), images())
    assert [t for t in texts if "PerturbationSensitivity could not measure at step 0" in t and "(top) (Bare)" in t]


class Diverging(LightningModule):
    def __init__(self, at=3):
        super().__init__()
        self.weight, self.at = nn.Parameter(torch.ones(5)), at

    def training_step(self, batch, batch_idx):
        return self.weight.square().sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_a_loss_that_is_not_a_number():
    def loss(module, batch):
        return module.weight.square().sum() * (float("nan") if module.trainer.global_step >= module.at else 1.0)

    measuring = [
        HessianTrace(1, loss_fn=loss),
        PerturbationSensitivity([0.1], draws=2, every_n_steps=1, loss_fn=loss, noise="isotropic"),
    ]
    stop = SensitivityStop(patience=3)
    run = trainer(max_steps=20, callbacks=[*measuring, stop])
    texts = said(run.fit, Diverging(), DataLoader(range(20)))
    assert len([t for t in texts if "HessianTrace: not finite at step 3: hessian/trace" in t]) == 1
    assert len([t for t in texts if "HessianTrace: not finite" in t]) == 1
    assert len([t for t in texts if "not finite at step 3; it counts as above the lowest one" in t]) == 1
    trace = only(measuring[0].history, 4, "hessian", "trace")
    assert math.isnan(trace.value)
    assert math.isnan(trace.stderr)
    assert only(measuring[0].history, 2, "hessian", "trace").stderr == 0
    assert math.isnan(only(measuring[1].history, 4, "sensitivity", gamma=0.1).stderr)
    assert run.global_step == stop.turned_at == 5  # the third measurement that is not finite


def test_a_rise_below_the_resolution_of_the_numbers_is_flagged():
    """The loss is 1 + w² of tiny w: the rise is lost in rounding."""

    def loss(module, batch):
        return 1 + (module.weight * 1e-4).square().sum()

    noisy = PerturbationSensitivity([1e-3, 1e3], draws=4, noise="isotropic", loss_fn=loss, every_n_steps=None)
    texts = said(trainer(max_steps=1, callbacks=[noisy]).fit, Diverging(), DataLoader(range(4)))
    assert [t for t in texts if "at gamma 0.001 the rise" in t and "measure at larger gammas" in t]
    tiny, large = (only(noisy.history, 0, "sensitivity", gamma=gamma) for gamma in (1e-3, 1e3))
    assert abs(tiny.value - 5 * 1e-14) < 2 * tiny.stderr
    assert tiny.stderr == pytest.approx(2**-23, rel=0.5)
    assert large.stderr > 100 * tiny.stderr


def test_the_cost_is_told_once(caplog):
    with caplog.at_level("INFO"):
        trainer(max_epochs=4, callbacks=[HessianTrace(500, products=2)]).fit(Classifier(), images())
    told = [record.message for record in caplog.records if "a measurement takes" in record.message]
    assert len(told) == 1
    assert "training steps; every 500 steps that adds" in told[0]


def test_frequent_costly_measurements_are_warned_of():
    found = said(
        trainer(max_epochs=3, callbacks=[HessianTrace(2, products=60, method="matvec")]).fit, Classifier(), images()
    )
    (text,) = [t for t in found if "a measurement takes" in t]
    assert "measure less often (every_n_steps=), or limit it by overhead=0.05" in text


def test_a_long_measurement_says_that_it_goes_on(monkeypatch, capfd):
    """With a limit of 50 ms instead of ten seconds."""
    import threading

    from lightning_tl.measure import recorder

    monkeypatch.setattr(recorder, "_SECONDS_TO_PROGRESS", 0.05)
    waiting = threading.Event()

    def slow(module, batch):
        waiting.wait(0.12)
        return F.cross_entropy(module(batch[0]), batch[1])

    trainer(max_steps=1, callbacks=[HessianTrace(None, loss_fn=slow, at_end=False)]).fit(Classifier(), images())
    assert "HessianTrace: measuring hessian at step 0, 0 s so far" in capfd.readouterr().err


def test_callbacks_can_be_copied_in_the_middle_of_a_run():
    distance = ParameterDistance(every_n_steps=1)
    trainer(max_steps=2, callbacks=[distance]).fit(Classifier(), images())
    assert copy.deepcopy(distance).history == distance.history
