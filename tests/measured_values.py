"""Looking up values among records of what was measured."""

from __future__ import annotations

from collections.abc import Iterable

from lightning_tl.measured_value import Measured


def series(
    records: Iterable[Measured], quantity: str, group: str = "", gamma: float | None = None
) -> list[tuple[int, float]]:
    """Return step and value of one quantity, in the order in which it was measured."""
    key = (quantity, group, gamma)
    return [(record.step, record.value) for record in records if (record.quantity, record.group, record.gamma) == key]


def only(
    records: Iterable[Measured], step: int, quantity: str, group: str = "", gamma: float | None = None
) -> Measured:
    """Return the record of one quantity at one step."""
    key = (step, quantity, group, gamma)
    (record,) = [item for item in records if (item.step, item.quantity, item.group, item.gamma) == key]
    return record
