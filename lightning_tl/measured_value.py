"""One record per measured value: what callbacks keep, and what run records and measurements.csv consist of.

Standard library only, so that a study can write its tables without importing torch.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A measured value.

    Attributes:
        step: Optimiser steps done when it was measured.
        quantity: What was measured, such as ``hessian``, after the callback's prefix.
        group: Which part or kind of the quantity, such as ``trace`` or ``trace/backbone``; ``""`` for the whole.
        gamma: The scale of the noise in the weights; None for a quantity without one.
        value: The value.
        stderr: Its standard error: 0 where the value is exact, None where the error was not estimated.
    """

    step: int
    quantity: str
    group: str = ""
    gamma: float | None = None
    value: float
    stderr: float | None = None

    @property
    def key(self) -> str:
        """The name under which the value is logged: ``hessian/trace``, ``sensitivity/gamma_0.02``."""
        gamma = "" if self.gamma is None else f"gamma_{self.gamma:g}"
        return "/".join(filter(None, (self.quantity, self.group, gamma)))

    def row(self) -> dict[str, Any]:
        """Return the fields by name, all of plain types; ``Measured(**row)`` is the same record."""
        return {name: getattr(self, name) for name in _FIELDS}


_FIELDS = tuple(field.name for field in fields(Measured))
#: The columns of ``measurements.csv``.
MEASUREMENT_COLUMNS = ("run_id", *_FIELDS)


def logged(records: Iterable[Measured]) -> dict[str, float]:
    """Return values by logged key; a standard error follows its value as ``<key>_stderr``."""
    values: dict[str, float] = {}
    for record in records:
        values[record.key] = record.value
        if record.stderr is not None:
            values[f"{record.key}_stderr"] = record.stderr
    return values


def measurements_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the text of ``measurements.csv``.

    Args:
        rows: ``run_id`` and the fields of a :class:`Measured`, by name; a cell stays empty where a field is None.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, MEASUREMENT_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
