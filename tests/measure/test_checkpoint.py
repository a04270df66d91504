"""Reading weights from files that Lightning or torch wrote, and from others."""

import pytest
import torch
from torch import nn

from lightning_tl.errors import UserError
from lightning_tl.measure.checkpoint import load_checkpoint


def test_a_checkpoint_and_a_bare_state_dict(tmp_path):
    module = nn.Linear(2, 3)
    torch.save({"state_dict": module.state_dict(), "global_step": 7, "epoch": 1}, tmp_path / "run.ckpt")
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    torch.save({"state_dict": torch.compile(module).state_dict()}, tmp_path / "compiled.ckpt")
    for name, step in (("run.ckpt", 7), ("weights.pt", None), ("compiled.ckpt", None)):
        checkpoint = load_checkpoint(tmp_path / name)
        assert checkpoint.step == step
        assert checkpoint.weights.keys() == {"weight", "bias"}
        assert torch.equal(checkpoint.weights["weight"], module.weight)


class Unsafe:
    """Not a plain type: torch.load(weights_only=True) refuses it."""


@pytest.mark.parametrize(
    "content, message",
    [
        ("hello", r"weights.ckpt: not a checkpoint that torch.load\(weights_only=True\) reads"),
        ({"state_dict": {}, "hyper_parameters": Unsafe()}, "weights.ckpt: not a checkpoint"),
        ({"epoch": 3}, "weights.ckpt: holds no weights, neither under 'state_dict' nor at the top"),
        ([torch.ones(1)], "weights.ckpt: holds no weights"),
        ({"state_dict": [1]}, "weights.ckpt: holds no weights"),
    ],
)
def test_files_that_are_no_checkpoints(tmp_path, content, message):
    path = tmp_path / "weights.ckpt"
    path.write_text(content) if isinstance(content, str) else torch.save(content, path)
    with pytest.raises(UserError, match=message):
        load_checkpoint(path)


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(UserError, match=r"absent.ckpt: no such file"):
        load_checkpoint(tmp_path / "absent.ckpt")
