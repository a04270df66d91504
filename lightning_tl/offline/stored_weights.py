"""Weights on a disk, read one tensor at a time: distances between checkpoints that do not fit into memory together."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from lightning_tl.errors import UserError
from lightning_tl.measure.distance import Distance
from lightning_tl.measure.params import clean_name


class StoredWeights(Mapping[str, Tensor]):
    """The weights of a saved model (``save_pretrained``): a tensor is read when it is looked up.

    Args:
        folder: With ``model.safetensors``, its parts and their index, or the same as ``pytorch_model.bin``.

    Raises:
        UserError: The folder holds no weights.
    """

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, Path] = {}
        for file in _weight_files(folder):
            self._files |= dict.fromkeys(_names(file), file)

    def __getitem__(self, name: str) -> Tensor:
        """Read a tensor onto the CPU."""
        file = self._files[name]
        if file.suffix != ".safetensors":
            return _mapped(file)[name]
        from safetensors import safe_open

        with safe_open(file, framework="pt") as content:
            tensor: Tensor = content.get_tensor(name)
            return tensor

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._files)

    def __len__(self) -> int:
        """Return the number of tensors."""
        return len(self._files)


def streamed_distance(params: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> Distance:
    """Return the distance between parameters and stored weights, with one stored tensor in memory at a time.

    Sums are in float64. A prefix that only one side has, such as ``model.``, is seen through.

    Args:
        params: Name → parameter, on any device.
        stored: Name → tensor.

    Returns:
        The distance over parameters that have a counterpart of their name and shape; ``missing`` names the others.
    """
    names = _pairs(params, list(stored))
    moved = now = then = 0.0
    missing = []
    with torch.no_grad():
        for name, parameter in params.items():
            other = stored[names[name]] if name in names else None
            if other is None or other.shape != parameter.shape:
                missing.append(name)
                continue
            mine = parameter.detach().double() if parameter.dtype == torch.float64 else parameter.detach().float()
            other = other.to(mine.device, mine.dtype)
            moved += float((mine - other).square().sum(dtype=torch.float64))
            now += float(mine.square().sum(dtype=torch.float64))
            then += float(other.square().sum(dtype=torch.float64))
    cosine = (now + then - moved) / (2 * (now * then) ** 0.5) if now and then else 0.0
    relative = (moved / then) ** 0.5 if then else float("inf")
    return Distance(moved**0.5, relative, max(-1.0, min(1.0, cosine)), missing=tuple(missing))


def _pairs(params: Mapping[str, Tensor], stored: list[str]) -> dict[str, str]:
    """Return parameter's name → stored name, the prefix chosen with which most are found."""
    known = {clean_name(name): name for name in stored}
    best: dict[str, str] = {}
    firsts = {""} | {name.split(".", 1)[0] + "." for name in (*params, *known)}
    for prefix in sorted(firsts, key=len):
        for added in (True, False):
            renamed = {name: prefix + name if added else name.removeprefix(prefix) for name in params}
            matching = {name: known[other] for name, other in renamed.items() if other in known}
            if len(matching) > len(best):
                best = matching
    return best


def holds_weights(folder: Path) -> bool:
    """Return whether a folder holds all files of a saved model's weights."""
    try:
        return all(file.is_file() for file in _weight_files(folder))
    except UserError:
        return False


def _weight_files(folder: Path) -> list[Path]:
    for stem, ending in (("model", "safetensors"), ("pytorch_model", "bin")):
        index = folder / f"{stem}.{ending}.index.json"
        if index.is_file():
            parts = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            return [folder / name for name in sorted(set(parts))]
        if (folder / f"{stem}.{ending}").is_file():
            return [folder / f"{stem}.{ending}"]
    raise UserError(
        f"{folder}: holds no weights (model.safetensors or pytorch_model.bin, or their parts with an index)"
    )


def _names(file: Path) -> list[str]:
    if not file.is_file():
        raise UserError(f"{file}: no such file, but the index beside it names it; is the download complete?")
    try:
        if file.suffix != ".safetensors":
            return list(_mapped(file))
        from safetensors import safe_open

        with safe_open(file, framework="pt") as content:
            return list(content.keys())
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{file}: cannot be read ({' '.join(str(error).split())[:160]})") from error


def _mapped(file: Path) -> dict[str, Tensor]:
    """Return the content of a torch file, of which pages are read when they are used."""
    content: dict[str, Tensor] = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    return content
