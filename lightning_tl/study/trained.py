"""What rendering and training a study, or a part of it, leaves."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_tl.study.execution import Records
from lightning_tl.study.plan_items import DataSet, Run


@dataclass(frozen=True)
class Trained:
    """What rendering and training a study, or a part of it, leaves.

    Attributes:
        sets: The data sets.
        runs: All runs, with the trial runs.
        records: Run name → record of the finished runs.
        failures: Run name → error of the failed ones.
        stuck: Whether the failures are of trial runs, without which nothing can be chosen.
    """

    sets: list[DataSet]
    runs: list[Run]
    records: Records
    failures: dict[str, str]
    stuck: bool = False
