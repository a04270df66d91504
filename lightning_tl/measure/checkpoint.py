"""Weights read from a checkpoint file, of the layouts that training loops write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from lightning_tl._io.files import check_regular
from lightning_tl.checkpoint_files import read_checkpoint
from lightning_tl.errors import UserError
from lightning_tl.measure.params import clean_name, listed

#: Keys under which training loops keep the weights, the first that is there counts: Lightning and timm, the tutorials
#: of PyTorch, plain loops, DeepSpeed.
LAYOUTS = ("state_dict", "model_state_dict", "model", "net", "module")
_STEPS = ("global_step", "step", "iteration")


class Checkpoint(NamedTuple):
    """What a checkpoint file holds.

    Attributes:
        weights: Name → tensor, on the CPU.
        step: Optimiser steps done when it was written; None if the file does not say.
    """

    weights: dict[str, Tensor]
    step: int | None


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read the weights of a checkpoint, and its step where it has one (``global_step``, ``step``, ``iteration``).

    The weights stand under one of :data:`LAYOUTS`, or the file itself is a state dict.

    Raises:
        UserError: The file is missing, is no checkpoint of plain types, or holds no weights.
    """
    content = read_checkpoint_file(path)
    under = next((key for key in LAYOUTS if _tensors(content.get(key))), None)
    weights = _tensors(content if under is None else content[under])
    if not weights:
        raise UserError(
            f"{path}: holds no weights, neither at the top nor under {', '.join(LAYOUTS)}; it has the keys "
            f"{listed(map(str, content))}"
        )
    steps = [content[key] for key in _STEPS if isinstance(content.get(key), int)]
    return Checkpoint(weights, steps[0] if steps and under is not None else None)


def read_checkpoint_file(path: str | Path) -> Mapping[str, Any]:
    """Return the content of a checkpoint file, ``.safetensors`` or written by ``torch.save``, on the CPU.

    Nothing in the file is executed.

    Raises:
        UserError: As :func:`~lightning_tl.checkpoint_files.read_checkpoint`; a ``.safetensors`` file is damaged.
    """
    if Path(path).suffix != ".safetensors":
        return read_checkpoint(path)
    from safetensors import SafetensorError  # a package of timm's, which only such files need
    from safetensors.torch import load_file

    check_regular(Path(path), f"checkpoint {path}")
    try:
        content: Mapping[str, Any] = load_file(path)
    except SafetensorError as error:
        raise UserError(f"checkpoint {path}: damaged or not a checkpoint ({error})") from error
    return content


def fit_names(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under the names that a module has for them.

    The names may have a prefix in front, from a wrapper in which the network was saved (``module.`` of
    DataParallel, ``model.`` of a LightningModule), or may lack one. Of all such prefixes the one counts with which most
    tensors fit in name and shape; none, where that fits as many. What a prefix excludes is left out.

    Args:
        weights: Name → tensor, of a checkpoint.
        expected: Name → tensor, as the module's ``state_dict()``.

    Raises:
        UserError: Two prefixes fit equally well, as where an averaged copy of the network is saved beside it.
    """

    def fitting(renamed: Mapping[str, Tensor]) -> int:
        return sum(name in renamed and renamed[name].shape == tensor.shape for name, tensor in expected.items())

    as_they_are = {clean_name(name): tensor for name, tensor in weights.items()}
    best, most, prefixes = as_they_are, fitting(as_they_are), [""]
    if most == len(expected):
        return best
    for prefix in _prefixes(as_they_are, expected):
        taken = {name[len(prefix) :]: tensor for name, tensor in as_they_are.items() if name.startswith(prefix)}
        count = fitting(taken)
        if count > most:
            best, most, prefixes = taken, count, [prefix]
        elif count == most and prefixes != [""]:
            prefixes.append(prefix)
    for prefix in _prefixes(expected, as_they_are):
        longer = {prefix + name: tensor for name, tensor in as_they_are.items()}
        if (count := fitting(longer)) > most:
            best, most, prefixes = longer, count, [""]
    if len(prefixes) > 1:
        raise UserError(
            f"the checkpoint holds several networks that fit, under {listed(prefixes)}; save the one that is meant in "
            "a file of its own"
        )
    return best


def _prefixes(longer: Iterable[str], shorter: Iterable[str]) -> list[str]:
    """Return by what the first names would have to begin for some of the second, ``model.`` or ``a.b.``."""
    names = list(longer)
    found = {
        name.removesuffix(ending)
        for ending in list(shorter)[:8]
        for name in names
        if name.endswith(f".{ending}") and name != ending
    }
    return sorted(found, key=lambda prefix: (len(prefix), prefix))


def _tensors(state: Any) -> dict[str, Tensor]:
    if not isinstance(state, Mapping):
        return {}
    return {clean_name(str(name)): value for name, value in state.items() if isinstance(value, Tensor)}
