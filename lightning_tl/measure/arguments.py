"""Checks of what a user passes, with one sentence for each mistake."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from lightning_tl.errors import UserError, nearest


def whole(name: str, value: Any, least: int = 1, why: str = "") -> int:
    """Return a whole number.

    Raises:
        UserError: It is none, or smaller than ``least``.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"{name}={_short(value)} must be a whole number ≥ {least}{why}")
    return value


def number(name: str, value: Any, low: float, high: float = math.inf, open_ends: bool = False) -> float:
    """Return a number between two others.

    Raises:
        UserError: It is none, or out of range.
    """
    real = isinstance(value, int | float) and not isinstance(value, bool)
    if not real or not (low < value < high if open_ends else low <= value <= high):
        between = f"between {low:g} and {high:g}" if math.isfinite(high) else f"≥ {low:g}"
        raise UserError(f"{name}={_short(value)} must be a number {between}")
    return float(value)


def flag(name: str, value: Any) -> bool:
    """Return True or False.

    Raises:
        UserError: It is neither.
    """
    if not isinstance(value, bool):
        raise UserError(f"{name}={_short(value)} must be True or False")
    return value


def choice(name: str, value: Any, valid: Iterable[str]) -> str:
    """Return one of some words.

    Raises:
        UserError: It is another one; the message has the nearest.
    """
    valid = list(valid)
    if not isinstance(value, str) or value not in valid:
        raise UserError(f"{name}={_short(value)} is unknown{nearest(value, valid)}")
    return value


def pattern(name: str, value: Any) -> str | None:
    """Return a regular expression, or None.

    Raises:
        UserError: It is neither.
    """
    if value is None:
        return None
    if not isinstance(value, str):
        raise UserError(f"{name}={_short(value)} must be a regular expression of parameter names, such as '^backbone'")
    try:
        re.compile(value)
    except re.error as error:
        raise UserError(f"{name}: {value!r} is not a regular expression ({error})") from None
    return value


def pattern_groups(value: Any) -> Mapping[str, str] | None:
    """Return regular expressions with the names of their groups, or None.

    Raises:
        UserError: It is neither.
    """
    if value is None:
        return None
    texts = isinstance(value, Mapping) and all(isinstance(text, str) for pair in value.items() for text in pair)
    if not texts or not value:
        raise UserError(
            f"groups={_short(value)} must be a mapping of regular expressions to names: {{'^head': 'head'}}"
        )
    for expression in value:
        pattern("groups", expression)
    groups: Mapping[str, str] = value
    return groups


def numbers(name: str, value: Any) -> list[float]:
    """Return positive numbers, each once.

    Raises:
        UserError: They are not, or there are none.
    """
    if isinstance(value, torch.Tensor):
        value = value.flatten().tolist()
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise UserError(f"{name}={_short(value)} must be a list of positive numbers, such as [0.01]")
    values = list(value)
    try:
        floats = [float(item) for item in values if not isinstance(item, str | bool)]
    except (TypeError, ValueError):
        floats = []
    valid = len(floats) == len(values) and all(math.isfinite(f) and f > 0 for f in floats)
    if not values or not valid or len(set(floats)) < len(floats):
        raise UserError(f"{name} must be positive numbers, each once; got {_short(values)}")
    return floats


def loss_function(value: Any) -> Callable[..., Any] | None:
    """Return a loss ``(module, batch) -> scalar tensor``, or None.

    Raises:
        UserError: It is no function, or a criterion of outputs and targets.
    """
    if value is not None and not callable(value):
        raise UserError(f"loss_fn must be a function (module, batch) -> scalar tensor, not {_short(value)}")
    if isinstance(value, type):
        raise UserError(f"loss_fn={value.__name__} is a class; pass a function (module, batch) -> scalar tensor")
    if isinstance(value, nn.modules.loss._Loss):
        raise UserError(
            f"loss_fn={type(value).__name__}() takes outputs and targets; loss_fn must be a function of module and "
            "batch: lambda module, batch: criterion(module(batch[0]), batch[1])"
        )
    function: Callable[..., Any] | None = value
    return function


def _short(value: Any) -> str:
    """Return a value as text of at most 80 characters."""
    text = f"<{type(value).__name__}>" if isinstance(value, nn.Module | torch.Tensor) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
