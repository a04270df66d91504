"""A task that is trained a second time in one process: what its methods remember, and what begins anew."""

from __future__ import annotations

import copy

import pytest
import torch
from lightning.pytorch import Callback
from transferred import data, different, fit, state, task

from lightning_tl.transfer import EWC, L2SP, LPFT, Average, WiSEFT, evaluation

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setattr(evaluation, "IMAGES", 16)


def ewc(start, renders):
    method, network = EWC(3.0, 4), task(None, seed=0)
    network.load_state_dict(torch.load(start, weights_only=True)["state_dict"])
    method.use_pretraining(network, data(renders, seed=5))
    return method


@pytest.mark.parametrize("make", [lambda *_: L2SP(3.0), ewc, lambda *_: [LPFT(probe_steps=1), L2SP(3.0)]])
def test_the_pull_is_to_the_pretrained_weights(start, renders, tmp_path, make):
    module = task(start, make(start, renders))
    before = torch.load(start, weights_only=True)["state_dict"]
    fit(module, data(renders), tmp_path / "first", max_steps=2)
    between = {name: value.detach().clone() for name, value in module.named_parameters()}
    assert not torch.equal(between["backbone.conv1.weight"], before["backbone.conv1.weight"])
    fit(module, data(renders), tmp_path / "second", max_steps=2)
    pull = module.transfer.methods[-1]
    reference = pull.state_dict()["start"]
    assert reference.keys() == {name for name in between if name.startswith("backbone.")}
    assert all(torch.equal(value, before[name]) for name, value in reference.items())


def test_interpolations_are_with_the_pretrained_weights(start, renders, tmp_path):
    method = WiSEFT([0, 1], take=0)
    module = task(start, method)
    before = torch.load(start, weights_only=True)["state_dict"]
    for name in ("first", "second"):
        fit(module, data(renders), tmp_path / name, max_steps=2)
        assert all(torch.equal(value, before[name]) for name, value in module.named_parameters() if "backbone" in name)


@pytest.mark.parametrize("arguments", [{"last_k": 2}, {"ema": 0.7}])
def test_an_average_begins_anew(start, renders, tmp_path, arguments):
    """The second training is one from the network that the first left, by a method that has seen nothing."""
    module = task(start, Average(**arguments))
    fit(module, data(renders), tmp_path / "first")
    other = task(start, Average(**arguments))
    other.load_state_dict(copy.deepcopy(module.state_dict()))
    for number, each in enumerate((module, other)):
        fit(each, data(renders), tmp_path / str(number))
    assert not different(state(module), state(other))


class Noted(Callback):
    def __init__(self):
        self.weights = []

    def on_train_batch_end(self, trainer, module, *_):
        self.weights.append({name: value.detach().double().clone() for name, value in module.named_parameters()})


def test_an_average_with_the_same_trainer_begins_anew(start, renders, tmp_path):
    """Its steps count on there; the average is over the new ones."""
    module = task(start, Average(ema=0.5))
    made = fit(module, data(renders), tmp_path, max_steps=2)
    noted = Noted()
    made.callbacks.insert(0, noted)
    made.should_stop = False
    made.fit_loop.epoch_loop.max_steps = 5
    made.fit(module, data(renders))
    assert len(noted.weights) == 3
    shares = torch.tensor([0.25, 0.5, 1.0]).double()
    for name, value in module.named_parameters():
        mean = sum(w * each[name] for w, each in zip(shares / shares.sum(), noted.weights, strict=True))
        torch.testing.assert_close(value.detach().double(), mean, rtol=1e-5, atol=1e-7)
