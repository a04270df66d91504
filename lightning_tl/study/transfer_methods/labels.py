"""The labels of ``transfer`` in results.csv: method and strength, such as ``lora(rank=4)``."""

from __future__ import annotations

import re
from dataclasses import dataclass

FULL = "full"
#: What stands for training from random weights beside the methods.
WITHOUT = "no pre-training"
_ALPHA = ", α = "
_LABEL = re.compile(r"\s*([a-z_0-9]+)\s*(?:\((.*)\))?\s*", re.DOTALL)


@dataclass(frozen=True)
class Label:
    """A method with its strength.

    Attributes:
        name: Of the method, such as ``partial``.
        setting: Name of its setting, such as ``share``; empty where it has none or several.
        value: The setting's value; None where it is not a number.
    """

    name: str
    setting: str = ""
    value: float | None = None


def parse_label(label: str) -> Label | None:
    """Return the parts of a label; None for several methods joined by ``+``, and for a text that is no label."""
    match = _LABEL.fullmatch(label)
    if match is None or " + " in label:
        return None
    name, inside = match.group(1), match.group(2)
    setting, equals, text = (inside or "").partition("=")
    if not equals or "=" in text:
        return Label(name)
    try:
        value: float | None = float(text)
    except ValueError:
        value = None
    return Label(name, setting.strip(), value)


def order(label: str) -> tuple[int, str, float, str]:
    """Return a key that sorts labels: ``full`` first, then by name, then by strength."""
    parts = parse_label(label) or Label(label)
    return int(label != FULL), parts.name, parts.value or 0.0, label


def interpolation_label(label: str, alpha: float) -> str:
    """Return the label of a network between the pre-trained one and that of a method: ``full, α = 0.5``."""
    return f"{label}{_ALPHA}{alpha:g}"


def is_interpolation(label: str) -> bool:
    """Return whether a label is that of an interpolation."""
    return _ALPHA in label


def without_alpha(label: str) -> str:
    """Return the label of the method that an interpolation belongs to; other labels as they are."""
    return label.partition(_ALPHA)[0]
