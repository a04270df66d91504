"""Batches as plain types, which a checkpoint can hold, and back to the types of the running program."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

_PRIMITIVES = (str, int, float, bool, type(None))


class NotPlainError(TypeError):
    """A batch holds an object that has no equivalent in plain types."""


def clone(batch: Any) -> Any:
    """Copy the tensors of a batch, whatever holds them, so that nothing that follows changes them."""
    if isinstance(batch, Tensor):
        return batch.detach().clone()
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(clone(item) for item in batch))
    if type(batch) in (list, tuple):
        return type(batch)(clone(item) for item in batch)
    if type(batch) is dict:
        return {key: clone(value) for key, value in batch.items()}
    # moving a batch to its own device makes no copy; deepcopy does, of any object
    return copy.deepcopy(batch)


def plain(batch: Any) -> Any:
    """Return a batch as tensors, primitives, lists, tuples and dicts, on the CPU: what a checkpoint may hold.

    Arrays become tensors; numbers of NumPy, paths, named tuples, other mappings and dataclasses become the plain type
    that they resemble. :func:`rebuilt` gives them their types again.

    Raises:
        NotPlainError: It holds something else.
    """
    if isinstance(batch, Tensor):
        return batch.detach().cpu().as_subclass(Tensor)
    if type(batch) in _PRIMITIVES:
        return batch
    if isinstance(batch, np.generic) and not isinstance(batch, np.void):
        return plain(batch.item())
    if isinstance(batch, np.ndarray) and batch.dtype.kind in "biufc":
        return torch.from_numpy(batch.copy())
    if isinstance(batch, PurePath):
        return str(batch)
    if isinstance(batch, Mapping):
        return {_plain_key(key): plain(value) for key, value in batch.items()}
    if type(batch) in (list, tuple) or hasattr(batch, "_fields"):
        items = [plain(item) for item in batch]
        return items if isinstance(batch, list) else tuple(items)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        return {f.name: plain(getattr(batch, f.name)) for f in dataclasses.fields(batch)}
    raise NotPlainError(f"{type(batch).__module__}.{type(batch).__qualname__}")


def is_plain(batch: Any) -> bool:
    """Return whether a batch consists of plain types only, so that :func:`plain` keeps all types."""
    if isinstance(batch, Tensor):
        return type(batch) is Tensor
    if type(batch) is dict:
        return all(map(is_plain, batch.values()))
    if type(batch) in (list, tuple):
        return all(map(is_plain, batch))
    return type(batch) in _PRIMITIVES


def rebuilt(saved: Any, like: Any) -> Any:
    """Return a plain batch with the types of another batch of the same structure.

    The types come from the running program, never from the file. Lists of another length take the types of the other
    batch's first item.

    Args:
        saved: Of :func:`plain`.
        like: The other batch.

    Raises:
        NotPlainError: The structures differ.
    """
    try:
        return _rebuilt(saved, like)
    except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise NotPlainError(f"a {type(like).__name__} cannot be made of what was saved ({error})") from error


def _rebuilt(saved: Any, like: Any) -> Any:
    if isinstance(like, Tensor):
        if not isinstance(saved, Tensor):
            raise TypeError(f"expected a tensor, found a {type(saved).__name__}")
        return saved.to(like.device)
    if type(like) in _PRIMITIVES:
        return saved
    if isinstance(like, np.ndarray):
        return saved.numpy().astype(like.dtype)
    if isinstance(like, np.generic | PurePath):
        return type(like)(saved)
    if isinstance(like, Mapping):
        if like.keys() != saved.keys():
            raise KeyError(f"keys {sorted(map(str, saved))} instead of {sorted(map(str, like))}")
        values = {key: _rebuilt(value, like[key]) for key, value in saved.items()}
        make: Any = type(like)
        return values if make is dict else make(values)
    if isinstance(like, list | tuple):
        samples = list(like) if len(like) == len(saved) else [like[0]] * len(saved)
        items = [_rebuilt(item, sample) for item, sample in zip(saved, samples, strict=True)]
        return type(like)(*items) if hasattr(like, "_fields") else type(like)(items)
    if dataclasses.is_dataclass(like) and not isinstance(like, type):
        return dataclasses.replace(like, **{key: _rebuilt(v, getattr(like, key)) for key, v in saved.items()})
    raise TypeError(f"{type(like).__qualname__} is of no known type")


def _plain_key(key: Any) -> Any:
    if type(key) not in _PRIMITIVES:
        raise NotPlainError(f"{type(key).__module__}.{type(key).__qualname__} as a key")
    return key


def on_meta(batch: Any) -> bool:
    """Return whether a batch holds tensors without values, of the ``meta`` device."""
    if isinstance(batch, Tensor):
        return batch.device.type == "meta"
    if isinstance(batch, Mapping):
        return any(map(on_meta, batch.values()))
    return isinstance(batch, list | tuple) and any(map(on_meta, batch))
