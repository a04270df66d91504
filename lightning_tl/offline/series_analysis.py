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
from lightning_tl.offline.loss_tables import LossTables
from lightning_tl.offline.series import Result


@dataclass(frozen=True)
class Family:
    """Curves over the checkpoints that differ in the strength of one modification.

    Attributes:
        quantity: ``perturbed_loss``, ``sensitivity`` and others like these.
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
    """

    unit: str
    budgets: tuple[int, ...]
    families: tuple[Family, ...]
    plain: Curve
    level: float

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
    for name, rise, values in _modified(tables):
        families.append(_family(name, budgets, values, level))
        families.append(_family(rise, budgets, {key: value - plain for key, value in values.items()}, level))
    return SeriesAnalysis(
        "steps" if known[0].revision.tokens is None else "tokens",
        tuple(budgets),
        tuple(families),
        _curve("loss", budgets, plain, None, level),
        level,
    )


def _modified(tables: Sequence[LossTables]) -> list[tuple[str, str, dict[float, Array]]]:
    """Return by modification names of loss and rise, and by strength losses ``[checkpoints, draws, batches]``."""
    noise = {gamma: np.array([table.noise[gamma] for table in tables]) for gamma in sorted(tables[0].noise)}
    return [("perturbed_loss", "sensitivity", noise)] if noise else []


def _family(quantity: str, budgets: Sequence[int], values: dict[float, Array], level: float) -> Family:
    sampled = [_curve(quantity, budgets, cube, strength, level) for strength, cube in values.items()]
    return Family(
        quantity,
        tuple(judged([with_fluctuation(item) for item in sampled], level)),
        tuple(judged(sampled, level)),
    )


def _curve(quantity: str, budgets: Sequence[int], values: Array, strength: float | None, level: float) -> Curve:
    by = "" if strength is None else "gamma"
    return curve(quantity, budgets, values, by, strength, bool((values > 0).all()), level)
