"""Reading weights from files that Lightning or torch wrote, and from others."""

from argparse import Namespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lightning_tl.errors import UserError
from lightning_tl.measure.checkpoint import fit_names, load_checkpoint


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


@pytest.mark.parametrize(
    "layout, step",
    [
        (lambda state: {"model_state_dict": state, "optimizer_state_dict": {"state": {}}, "step": 5}, 5),
        (lambda state: {"model": state, "epoch": 2, "iteration": 6}, 6),
        (lambda state: {"net": state, "acc": 0.5}, None),
        (lambda state: {"state_dict": state, "hyper_parameters": Namespace(lr=0.1), "global_step": 4}, 4),
        (lambda state: {"module": state, "args": Namespace(sizes=[1, 2])}, None),
    ],
)
def test_layouts_of_training_loops(tmp_path, layout, step):
    module = nn.Linear(2, 3)
    torch.save(layout(module.state_dict()), tmp_path / "a.pt")
    checkpoint = load_checkpoint(tmp_path / "a.pt")
    assert checkpoint.step == step
    assert checkpoint.weights.keys() == {"weight", "bias"}
    assert torch.equal(checkpoint.weights["weight"], module.weight)


def test_safetensors(tmp_path):
    module = nn.Linear(2, 3)
    save_file(module.state_dict(), tmp_path / "a.safetensors")
    assert torch.equal(load_checkpoint(tmp_path / "a.safetensors").weights["bias"], module.bias)
    (tmp_path / "b.safetensors").write_text("hello")
    with pytest.raises(UserError, match=r"b.safetensors: damaged or not a checkpoint"):
        load_checkpoint(tmp_path / "b.safetensors")


def network():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def test_names_with_a_prefix_and_without_one():
    """As of DataParallel, of a LightningModule around the network, and of the network inside a LightningModule."""
    own = network().state_dict()
    wrapped = nn.Module()
    wrapped.net = nn.Module()
    wrapped.net.encoder = network()
    for weights, expected in [
        (nn.DataParallel(network()).state_dict(), own),
        ({**wrapped.state_dict(), "criterion.weight": torch.ones(2)}, own),
        ({f"net.encoder._orig_mod.{name}": tensor for name, tensor in own.items()}, own),
        (own, wrapped.state_dict()),
        (own, own),
    ]:
        fitted = fit_names(weights, expected)
        assert fitted.keys() == expected.keys()
        assert {name: tensor.shape for name, tensor in fitted.items()} == {n: t.shape for n, t in expected.items()}


def test_names_that_fit_in_part_stay():
    """A network with another head: it is the caller who says what is missing."""
    state = network().state_dict() | {"head.weight": torch.ones(4, 3)}
    assert fit_names(state, network().state_dict() | {"head.weight": torch.ones(2, 3)}) == state


def test_two_networks_in_one_checkpoint():
    state = network().state_dict()
    both = {f"{prefix}.{name}": tensor for prefix in ("ema", "model") for name, tensor in state.items()}
    with pytest.raises(UserError, match=r"several networks that fit, under ema., model.; save the one"):
        fit_names(both, state)


class Unsafe:
    """Not a plain type: torch.load(weights_only=True) refuses it."""


@pytest.mark.parametrize(
    "content, message",
    [
        ("hello", "weights.ckpt: damaged or not a checkpoint"),
        ({"state_dict": {}, "hyper_parameters": Unsafe()}, "trust the file, write its weights"),
        (
            {"epoch": 3},
            "weights.ckpt: holds no weights, neither at the top nor under state_dict, model_.*has the keys epoch",
        ),
        ([torch.ones(1)], "weights.ckpt: holds a list, not a state dict; write one"),
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
