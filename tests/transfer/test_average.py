"""Averages of the weights, against averages of the checkpoints of every step."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping
from transferred import data, different, every_step, fit, resumed_differs, state, task

from lightning_tl.errors import UserError
from lightning_tl.transfer import Average, FreezeStages, evaluation

pytestmark = pytest.mark.filterwarnings("ignore")

STEPS = 7


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setattr(evaluation, "IMAGES", 32)


def stepwise(start, renders, folder, target):
    """Return the weights after each step of a training without averages."""
    kept = {"callbacks": [every_step(folder / "kept")], "enable_checkpointing": True}
    fit(task(start, target=target), data(renders, target), folder / "plain", max_steps=STEPS, **kept)
    return [torch.load(folder / f"kept/step={n + 1}.ckpt", weights_only=True)["state_dict"] for n in range(STEPS)]


@pytest.mark.parametrize("target", ["mulclass", "semseg"])
@pytest.mark.parametrize("arguments", [{"last_k": 3}, {"ema": 0.7}])
def test_the_mean_of_the_checkpoints(start, renders, tmp_path, target, arguments):
    steps = stepwise(start, renders, tmp_path, target)
    # epochs of two steps end after steps 2, 4, 6, and the training after 7
    weights = [0, 0, 0, 1, 0, 1, 1] if "last_k" in arguments else [0.7 ** (STEPS - 1 - n) for n in range(STEPS)]
    module = task(start, Average(**arguments), target)
    images = data(renders, target)
    made = fit(module, images, tmp_path / "run", max_steps=STEPS)
    for name, found in module.named_parameters():
        mean = sum(w * each[name].double() for w, each in zip(weights, steps, strict=True)) / sum(weights)
        torch.testing.assert_close(found.double(), mean, rtol=1e-5, atol=1e-6)
    error = float(made.callback_metrics["val/error"])
    assert made.validate(module, images, verbose=False)[0]["val/error"] == pytest.approx(error)
    assert torch.equal(
        module.state_dict()["backbone.bn1.num_batches_tracked"], steps[-1]["backbone.bn1.num_batches_tracked"]
    )
    assert not torch.equal(module.state_dict()["backbone.bn1.running_mean"], steps[-1]["backbone.bn1.running_mean"])


@pytest.mark.parametrize("arguments", [{"last_k": 2}, {"ema": 0.9}])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_resumed_equals_uninterrupted(start, renders, tmp_path, arguments, at):
    assert not resumed_differs(lambda: task(start, Average(**arguments)), renders, tmp_path, at=at)


def test_what_is_saved_is_the_average(start, renders, tmp_path):
    module = task(start, [FreezeStages(1), Average(ema=0.5)])
    fit(module, data(renders), tmp_path, callbacks=[every_step(tmp_path / "kept")], enable_checkpointing=True)
    saved = torch.load(tmp_path / "kept/step=4.ckpt", weights_only=True)["state_dict"]
    assert not different(state(module), saved)
    before = torch.load(start, weights_only=True)["state_dict"]
    frozen = [name for name in before if name.startswith(("backbone.conv1", "backbone.bn1", "backbone.layer1"))]
    assert all(torch.equal(before[name], saved[name]) for name in frozen)


def test_a_pretraining_that_ends_within_an_epoch_and_one_that_ends_by_epochs(renders, tmp_path):
    by_epochs, by_steps = (task(None, Average(last_k=2)) for _ in range(2))
    fit(by_epochs, data(renders), tmp_path / "a", max_epochs=2, max_steps=-1)
    fit(by_steps, data(renders), tmp_path / "b", max_steps=4)
    assert not different(state(by_epochs), state(by_steps))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "Average: give either last_k or ema"),
        ({"last_k": 2, "ema": 0.9}, "Average: give either last_k or ema"),
        ({"last_k": 1}, "Average: last_k is 1; it must be at least 2"),
        ({"ema": 1.0}, "Average: ema is 1; it must be above 0 and below 1"),
    ],
)
def test_arguments(arguments, message):
    with pytest.raises(UserError, match=message):
        Average(**arguments)


def test_a_training_that_its_last_validation_ends_is_warned_of(start, renders, tmp_path):
    class Stop(Callback):
        def on_validation_end(self, trainer, *_):
            trainer.should_stop = True

    kept = [every_step(tmp_path / "kept"), Stop()]
    module = task(start, Average(last_k=2))
    with pytest.warns(match="Average: the training was ended by its last validation, so the checkpoints that were"):
        fit(module, data(renders), tmp_path, callbacks=kept, enable_checkpointing=True, max_steps=8)
    saved = torch.load(tmp_path / "kept/step=2.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(saved["head.weight"], state(module)["head.weight"])  # one epoch: no other weights to average
    assert not torch.equal(saved["backbone.bn1.running_mean"], state(module)["backbone.bn1.running_mean"])


def test_what_is_refused(start, renders, tmp_path):
    with pytest.raises(UserError, match="Average and WiSEFT cannot be combined: both change the average"):
        task(start, [Average(ema=0.9), "WiSEFT"])
    with pytest.raises(UserError, match="Average changes the network before its last validation, and EarlyStopping"):
        fit(task(start, Average(ema=0.9)), data(renders), tmp_path, callbacks=[EarlyStopping("val/loss")])
    with pytest.warns(match="last_k is 3, but the training had only 2 epochs"):
        fit(task(start, Average(last_k=3)), data(renders), tmp_path)
