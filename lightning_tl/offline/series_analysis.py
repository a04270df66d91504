"""What a series of checkpoints shows: does the loss of a changed network turn upward while training goes on?

Checkpoints are compared on the same batches under the same draws of noise. Both are crossed with the checkpoints, so
the analysis of variance is that of :mod:`~lightning_tl.budget_curves`, draws in the place of seeds and batches in that
of draws of images. As all checkpoints are of one run, every claim has to hold against the fluctuation between
neighbouring checkpoints too (:mod:`~lightning_tl.offline.fluctuation`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightning_tl.budget_curves import LEAST_BUDGETS, Array, Curve, curve, judged
from lightning_tl.offline.fluctuation import with_fluctuation
from lightning_tl.offline.loss_records import MODIFIED, STRENGTHS
from lightning_tl.offline.series import Result


@dataclass(frozen=True)
class Family:
    """Curves over the checkpoints that differ in the strength of one modification.

    Attributes:
        quantity: Of a loss or a rise, one of :data:`~lightning_tl.offline.loss_records.MODIFIED`.
        curves: By strength, ascending; their verdicts hold for all of them together and against fluctuation.
        sampled: The same with the verdicts of batches and draws only: what differs between these very checkpoints.
    """

    quantity: str
    curves: tuple[Curve, ...]
    sampled: tuple[Curve, ...]


@dataclass(frozen=True)
class SeriesAnalysis:
    """The analysis of a series.

    Attributes:
        unit: ``tokens`` or ``steps``.
        budgets: Training that the checkpoints have seen, ascending; one with none is left out.
        families: By quantity.
        plain: The loss of the unchanged network.
        level: Of intervals and verdicts.
        target: Its loss on the text for fine-tuning; None where none was given.
        diverged: Learning rates that are left out, as a fine-tuning at them gave no finite loss.
    """

    unit: str
    budgets: tuple[int, ...]
    families: tuple[Family, ...]
    plain: Curve
    level: float
    target: Curve | None = None
    diverged: tuple[float, ...] = ()

    def family(self, quantity: str) -> Family | None:
        """Return the family of a quantity, None where it was not measured."""
        return next((item for item in self.families if item.quantity == quantity), None)


def analyse_series(results: Sequence[Result], level: float = 0.95) -> SeriesAnalysis | None:
    """Analyse a series; None where fewer than three trained checkpoints have a loss, or two the same step.

    Args:
        results: Of :func:`~lightning_tl.offline.series.measured_series`, in any order.
        level: Of intervals and verdicts.
    """
    known = [result for result in results if result.revision.budget and result.tables is not None]
    known = sorted(known, key=lambda result: result.revision.budget or 0)
    tables = [result.tables for result in known if result.tables is not None]
    budgets = [int(result.revision.budget or 0) for result in known]
    if len(known) < LEAST_BUDGETS or len(set(budgets)) < len(budgets):
        return None
    plain = np.array([table.plain for table in tables])[:, None, :]
    families = []
    lost: set[float] = set()
    for name, (loss, rise) in MODIFIED.items():
        values = {
            strength: np.array([getattr(table, name)[strength] for table in tables])
            for strength in getattr(tables[0], name)
        }
        if STRENGTHS[name] == "lr":
            lost |= {lr for lr, cube in values.items() if not np.isfinite(cube).all()}
            values = {lr: cube for lr, cube in values.items() if lr not in lost}
        if values:
            families.append(_family(loss, STRENGTHS[name], budgets, values, level))
        if values and rise:
            rises = {strength: cube - plain for strength, cube in values.items()}
            families.append(_family(rise, STRENGTHS[name], budgets, rises, level))
    target = np.array([table.target for table in tables])[:, None, :]
    return SeriesAnalysis(
        "steps" if known[0].revision.tokens is None else "tokens",
        tuple(budgets),
        tuple(families),
        _curve("loss", "", budgets, plain, None, level),
        level,
        _curve("target loss", "", budgets, target, None, level) if target.size else None,
        tuple(sorted(lost)),
    )


def _family(quantity: str, by: str, budgets: Sequence[int], values: dict[float, Array], level: float) -> Family:
    sampled = [_curve(quantity, by, budgets, values[strength], strength, level) for strength in sorted(values)]
    return Family(
        quantity,
        tuple(judged([with_fluctuation(item) for item in sampled], level)),
        tuple(judged(sampled, level)),
    )


def _curve(
    quantity: str, by: str, budgets: Sequence[int], values: Array, strength: float | None, level: float
) -> Curve:
    return curve(quantity, budgets, values, by, strength, bool((values > 0).all()), level)
