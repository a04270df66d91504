"""Every method in mixed precision: the weights stay in float32, and move as in full precision."""

from __future__ import annotations

import pytest
import torch
from transferred import data, fit, task

import lightning_tl.transfer as ways
from lightning_tl.transfer import TransferMethod, evaluation

pytestmark = pytest.mark.filterwarnings("ignore")

METHODS = {
    "Adapter": {"width": 4},
    "Average": {"ema": 0.5},
    "BNOnly": {},
    "BitFit": {},
    "EWC": {"strength": 1.0, "images": 4},
    "FreezeStages": {"stages": 1},
    "Full": {},
    "L2SP": {"strength": 1.0},
    "LPFT": {"probe_steps": 1},
    "Layerwise": {"decay": 0.5},
    "LinearProbe": {},
    "LoRA": {"rank": 2},
    "Partial": {"share": 0.5},
    "Replay": {"share": 0.5},
    "SAM": {},
    "Unfreeze": {"schedule": [0, 1]},
    "WiSEFT": {"alphas": [0, 1], "take": 0.5},
}


def test_all_methods_are_here():
    kinds = [getattr(ways, name) for name in ways.__all__]
    names = {kind.__name__ for kind in kinds if issubclass(kind, TransferMethod) and kind is not TransferMethod}
    assert names == METHODS.keys()


def moved(start, renders, folder, name, precision):
    method = getattr(ways, name)(**METHODS[name])
    if hasattr(method, "use_pretraining"):
        network = task(None, seed=0)
        network.load_state_dict(torch.load(start, weights_only=True)["state_dict"])
        method.use_pretraining(network, data(renders, seed=3))
    module = task(start, method)
    before = {key: value.detach().clone() for key, value in module.named_parameters()}
    fit(module, data(renders), folder / precision, max_steps=2, precision=precision)
    assert {value.dtype for value in module.parameters()} == {torch.float32}
    return torch.cat([(value.detach() - before[key]).flatten() for key, value in module.named_parameters()])


def difference(start, renders, folder, name):
    """Return how far both trainings end apart, over how far the one in full precision went."""
    whole, half = (moved(start, renders, folder, name, precision) for precision in ("32-true", "bf16-mixed"))
    return float((whole - half).norm() / whole.norm())


@pytest.fixture(scope="module")
def rounding(start, renders, tmp_path_factory):
    """The difference of full fine-tuning: a fifth, as BatchNorm divides by the spread of eight images."""
    found = difference(start, renders, tmp_path_factory.mktemp("full"), "Full")
    assert 0 < found < 0.3
    return found


@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"Full"}))
def test_half_precision_trains_as_full(start, renders, tmp_path, monkeypatch, rounding, name):
    monkeypatch.setattr(evaluation, "IMAGES", 8)
    assert 0 < difference(start, renders, tmp_path, name) < 2 * rounding
