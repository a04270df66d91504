"""Batches of many types: a run with checkpoints is saved and resumed, on the same probe where it can be kept."""

import warnings
from collections import UserDict, namedtuple
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from lightning_tl.callbacks import HessianTrace
from lightning_tl.measure.batch_types import NotPlainError, plain, rebuilt
from tests.callbacks.modules import trainer

Pair = namedtuple("Pair", ["x", "y"])


@dataclass
class Item:
    x: torch.Tensor
    y: torch.Tensor
    path: Path = Path("a/b")


class Opaque:
    """As a batch of PyTorch Geometric: no mapping, no sequence."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def to(self, device):
        return Opaque(self.x.to(device), self.y.to(device))


KINDS = {
    "tuple": lambda x, y: (x, y),
    "named tuple": Pair,
    "dataclass": Item,
    "array": lambda x, y: (x.numpy(), y),
    "number of numpy": lambda x, y: {"x": x, "y": y, "scale": np.float64(1.5)},
    "path": lambda x, y: {"x": x, "y": y, "path": [Path("a"), Path("b")]},
    "encoding": lambda x, y: transformers.BatchEncoding({"x": x, "y": y}),
    "opaque": Opaque,
    "user's mapping": lambda x, y: UserDict({"x": x, "y": y}),
}


class Regression(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def training_step(self, batch, batch_idx):
        if isinstance(batch, (Pair, Item, Opaque, transformers.BatchEncoding)):
            x, y = (batch.x, batch.y) if not hasattr(batch, "data") else (batch.data["x"], batch.y)
        else:
            x, y = (batch["x"], batch["y"]) if not isinstance(batch, tuple) else batch
        if isinstance(x, np.ndarray):
            x = torch.from_numpy(x)
        return F.mse_loss(self.layer(x), y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def loader(kind, seed):
    generator = torch.Generator().manual_seed(seed)
    pairs = [(torch.randn(3, 4, generator=generator), torch.randn(3, 2, generator=generator)) for _ in range(4)]
    return DataLoader([KINDS[kind](*pair) for pair in pairs], batch_size=None, collate_fn=lambda batch: batch)


def fit(folder, kind, seed, epochs, ckpt=None):
    torch.manual_seed(1)
    module, trace = Regression(), HessianTrace(None, at_epoch_end=True, on_error="raise")
    keep = ModelCheckpoint(folder, every_n_epochs=1, save_top_k=-1, filename="{epoch}")
    run = trainer(max_epochs=epochs, callbacks=[trace, keep], enable_checkpointing=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run.fit(module, loader(kind, seed), ckpt_path=ckpt)
    texts = [str(warning.message) for warning in caught]
    return trace, [text for text in texts if "probe batch holds" in text or "saved probe" in text]


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_resumed(tmp_path, kind):
    first, said = fit(tmp_path, kind, 1, 1)
    state = torch.load(tmp_path / "epoch=0.ckpt", weights_only=True)  # as others will read it
    assert "state_dict" in state
    # other data than before: the probe is the old one if it was kept
    again, said_again = fit(tmp_path, kind, 2, 2, ckpt=str(tmp_path / "epoch=0.ckpt"))
    assert again.measured_steps == [0, 4, 8]
    assert again.history[: len(first.history)] == first.history
    old, new = first.probe.batches[0], again.probe.batches[0]
    assert type(old) is type(new)
    if kind == "opaque":
        assert "callbacks.test_batch_types.Opaque, which a checkpoint cannot keep" in said[0]
        assert "pass probe=" in said[0]
        assert not torch.equal(old.x, new.x)
    else:
        assert not said
        assert not said_again
        assert repr(plain(old)) == repr(plain(new))
    if kind == "number of numpy":
        assert type(new["scale"]) is np.float64
    if kind == "path":
        assert new["path"] == [Path("a"), Path("b")]


def test_a_saved_probe_that_does_not_fit_is_not_used(tmp_path):
    fit(tmp_path, "encoding", 1, 1)
    again, said = fit(tmp_path, "path", 2, 2, ckpt=str(tmp_path / "epoch=0.ckpt"))
    assert "the saved probe does not fit the batches of this run" in said[0]
    assert again.probe.batches[0]["path"] == [Path("a"), Path("b")]


def test_lists_of_another_length_get_the_types_of_the_first_item():
    saved = plain([Path("a"), Path("b"), Path("c")])
    assert rebuilt(saved, [Path("z")]) == [Path("a"), Path("b"), Path("c")]
    with pytest.raises(NotPlainError, match="expected a tensor, found a str"):
        rebuilt({"x": "text"}, {"x": torch.zeros(1)})
    with pytest.raises(NotPlainError, match="keys"):
        rebuilt({"x": torch.zeros(1)}, {"y": torch.zeros(1)})
