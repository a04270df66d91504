"""The standard deviation of each tensor's initialisation, from as few draws as possible."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_tl.measure.params import clean_name

Draw = Callable[[], Mapping[str, Tensor]]
"""Draws an initialisation: parameters by name."""

# From so many normal numbers a variance is known to 2 %, a standard deviation to 1 %.
_ENOUGH = 5_000
# A small tensor of unknown distribution is then known less precisely, but is not drawn for minutes.
_MOST_DRAWS = 64


def spreads(draw: Draw, params: Mapping[str, Tensor], most_draws: int = _MOST_DRAWS) -> dict[str, float]:
    """Return the standard deviation over elements and draws, by parameter name.

    A tensor that is filled by one ``normal_``, ``uniform_``, ``zero_`` or ``fill_`` has the standard deviation of that
    call, exactly. Any other (a truncated normal, an orthogonal matrix) is drawn until its variance is known to 2 %; it
    is 0 if two draws have the same value everywhere. Draws are repeated only while a tensor needs it, and only one is
    in memory.

    Args:
        draw: Draws an initialisation.
        params: Name → parameter. Those that the first draw lacks, has in another shape, or leaves as NaN are left out
            of the result.
        most_draws: Draws at most.
    """
    known: dict[str, float] = {}
    pending: dict[str, _Pool] = {}
    for index in range(most_draws):
        with _Fills() as fills:
            drawn = {clean_name(name): p.detach() for name, p in draw().items()}
        if index == 0:
            pending = {n: _Pool() for n, v in drawn.items() if n in params and v.shape == params[n].shape}
        for name, pool in list(pending.items()):
            recorded = fills.spread(drawn[name])
            if recorded is not None and _agree(drawn[name], recorded):
                known[name] = recorded
            elif not drawn[name].isnan().any():
                pool.add(drawn[name])
                if not pool.enough and index < most_draws - 1:
                    continue
                known[name] = pool.spread
            del pending[name]
        if not pending:
            break
    return known


@dataclass
class _Pool:
    """Mean and sum of squares of all numbers so far (Chan's update)."""

    draws: int = 0
    count: int = 0
    mean: float = 0.0
    square: float = 0.0

    def add(self, tensor: Tensor) -> None:
        values, n = tensor.double(), tensor.numel()
        first = float(values.flatten()[0])
        constant = bool((values == first).all())
        # not by the mean where all are equal: its rounding would make the spread of constants 1e-17 instead of 0
        centre = first if constant else float(values.mean())
        square = 0.0 if constant else float((values - centre).square().sum())
        delta, total = centre - self.mean, self.count + n
        self.square += square + (delta * delta * self.count * n / total if self.count else 0.0)
        self.mean = centre if not self.count else self.mean + delta * n / total
        self.count, self.draws = total, self.draws + 1

    @property
    def spread(self) -> float:
        return math.sqrt(self.square / self.count)

    @property
    def enough(self) -> bool:
        return self.draws > 1 if self.square == 0 else self.count >= _ENOUGH


def _agree(tensor: Tensor, spread: float) -> bool:
    """Return whether numbers (about 100,000 of them at most) have this standard deviation, to six standard errors."""
    values = tensor.flatten()[:: max(1, tensor.numel() // 100_000)]
    pool = _Pool()
    pool.add(values)
    if spread == 0:
        return pool.square == 0
    return abs(pool.square / (pool.count * spread**2) - 1) < 6 * math.sqrt(2 / pool.count) + 1 / pool.count


class _Fills(TorchDispatchMode):
    """Records by which distribution a whole tensor was filled, until anything else reads or writes it.

    A tensor that is read loses its record. That excludes rejection sampling (``trunc_normal_``), which reads its draws.
    """

    _VIEWS = frozenset(
        """aten::detach aten::alias aten::view aten::_unsafe_view aten::t aten::transpose aten::permute aten::expand
        aten::slice aten::select aten::unsqueeze aten::squeeze aten::empty_like aten::new_empty""".split()  # noqa: SIM905
    )

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # the tensor is kept, so that no other gets the same memory
        self._known: dict[int, tuple[Tensor, float]] = {}

    def spread(self, tensor: Tensor) -> float | None:
        """Return the standard deviation of the distribution that filled a tensor, None if that is not known."""
        kept = self._known.get(_address(tensor))
        return kept[1] if kept is not None and kept[0].numel() == tensor.numel() else None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func._schema.name
        if name in self._VIEWS:
            return result
        for tensor in _tensors([*args, *kwargs.values()]):
            self._known.pop(_address(tensor), None)
        spread = _standard_deviation(name, args[1:], kwargs)
        if spread is not None and isinstance(result, Tensor) and _whole(result):
            self._known[_address(result)] = (result.detach(), spread)
        return result


def _standard_deviation(name: str, args: Any, kwargs: Any) -> float | None:
    """Return the standard deviation of the values that an operation fills a tensor with; None for other operations."""
    if name in ("aten::zero_", "aten::fill_", "aten::zeros", "aten::ones", "aten::full"):
        return 0.0
    if name in ("aten::randn", "aten::rand"):
        return 1.0 if name == "aten::randn" else 1 / math.sqrt(12)
    position = dict(enumerate(args))
    if name == "aten::normal_":
        return float(kwargs.get("std", position.get(1, 1.0)))
    if name == "aten::uniform_":
        low, high = kwargs.get("from", position.get(0, 0.0)), kwargs.get("to", position.get(1, 1.0))
        return float(high - low) / math.sqrt(12)
    return None


def _tensors(values: Any) -> list[Tensor]:
    tensors = []
    for value in values:
        if isinstance(value, Tensor):
            tensors.append(value)
        elif isinstance(value, list | tuple):
            tensors.extend(_tensors(value))
    return tensors


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else 0


def _whole(tensor: Tensor) -> bool:
    """Return whether a tensor spans all of its memory; False for empty and meta tensors."""
    strided = tensor.layout == torch.strided and tensor.device.type != "meta" and tensor.numel() > 0
    return strided and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.itemsize
