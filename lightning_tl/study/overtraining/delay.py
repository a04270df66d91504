"""Does a way of fine-tuning, such as a pull to the pre-trained weights, delay the turn of a curve over budgets?

Springer et al. 2025, Theorem 4.7: with regularised fine-tuning the inflection point comes later. Series that differ in
``transfer`` only start from the same pre-trainings and are fine-tuned on the same draws, so their curves are compared
in pairs. At each budget the two means have the covariance S_seed / seeds + S_draw / draws, where S_seed and S_draw are
the covariances of what is left of a pre-training or a draw once it is taken out what it does to all budgets alike
(pooled over budgets, as in :mod:`lightning_tl.budget_curves`). Pairs of curves are drawn around the measured ones, by
Student's t, and the place where each is lowest is taken from each: its distribution gives the interval of the delay.

A turn outside the budgets is not seen: a curve that is lowest at the last budget turns there or later. The delay of
such pairs is a bound, and is called so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from lightning_tl.budget_curves import Array, Curve, minimum
from lightning_tl.study.overtraining.budget_table import cube, unit_of
from lightning_tl.study.overtraining.results import Delay
from lightning_tl.study.transfer_methods.paired_statistics import holm

_DRAWN = 4000
_REPEATS = ["pretrain_seed", "draw_seed"]


def delay(
    budgets: Sequence[int], reference: Array, other: Array, level: float = 0.95, seed: int = 0
) -> tuple[float, tuple[float, float], float, tuple[float, float]]:
    """Return by which factor of the budget a curve's lowest place comes later than another's.

    Args:
        budgets: Steps, ascending, ``[K]``.
        reference: Values (or their logarithms) ``[K, seeds, draws]``, complete.
        other: Likewise, of the same seeds and draws.
        level: Of the interval.
        seed: Of the simulation.

    Returns:
        The factor, its interval, and the one-sided p-value of a factor of at most 1 (uncorrected), NaN for interval and
        p-value of single runs; and the budgets at which the reference and the other are lowest.
    """
    steps = np.log(np.array(budgets, float))
    pair = np.stack([reference, other], axis=-1)
    means = pair.mean(axis=(1, 2))
    lowest = [float(minimum(steps, means[None, :, which])[0]) for which in (0, 1)]
    places = (float(np.exp(lowest[0])), float(np.exp(lowest[1])))
    factor = float(np.exp(lowest[1] - lowest[0]))
    covariance, dof = np.zeros((2, 2)), []
    for axis, count in ((1, pair.shape[1]), (2, pair.shape[2])):
        if count > 1:
            cell = pair.mean(axis=3 - axis)
            rest = cell - cell.mean(axis=1, keepdims=True) - cell.mean(axis=0) + cell.mean(axis=(0, 1))
            own = (len(steps) - 1) * (count - 1)
            covariance += np.einsum("ksi,ksj->ij", rest, rest) / own / count
            dof.append(own)
    if not dof:
        return factor, (float("nan"), float("nan")), float("nan"), places
    rng = np.random.default_rng(seed)
    scale = np.sqrt(min(dof) / rng.chisquare(min(dof), (_DRAWN, 1, 1)))
    root = np.linalg.cholesky(covariance + 1e-18 * (1 + np.trace(covariance)) * np.eye(2))
    drawn = means + scale * (rng.standard_normal((_DRAWN, len(steps), 2)) @ root.T)
    first, second = (minimum(steps, drawn[:, :, which]) for which in (0, 1))
    moved = second - first
    low, high = np.quantile(moved, [0.5 - level / 2, 0.5 + level / 2])
    # ties (both lowest at the same end) say nothing of either side
    p = float((np.sum(moved < 0) + 0.5 * np.sum(moved == 0) + 1) / (_DRAWN + 1))
    ends = [float(np.exp(low)), float(np.exp(high))]
    late, early = np.mean(second >= steps[-1]) > 0.5 - level / 2, np.mean(first <= steps[0]) > 0.5 - level / 2
    ends[1] = np.inf if late or early else ends[1]
    soon, lasting = np.mean(second <= steps[0]) > 0.5 - level / 2, np.mean(first >= steps[-1]) > 0.5 - level / 2
    ends[0] = 0.0 if soon or lasting else ends[0]
    return factor, (ends[0], ends[1]), p, places


def delays(
    pairs: Sequence[tuple[str, tuple[str, pd.DataFrame], tuple[str, pd.DataFrame]]],
    columns: dict[str, str],
    curves: Mapping[tuple[str, str], Sequence[Curve]],
    level: float = 0.95,
) -> list[Delay]:
    """Return the delays of pairs of series that differ in ``transfer`` only, at each learning rate that both have.

    Args:
        pairs: What both have in common; the reference's label and rows; the method's.
        columns: Quantity → column of the rows; those compared.
        curves: (common name, label) → all curves of that series, for their inflection points.
        level: Of intervals.
    """
    found = []
    for quantity, column in columns.items():
        family = []
        for name, (reference, first), (method, second) in pairs:
            unit = unit_of(first)
            for lr in sorted(set(first["lr"]) & set(second["lr"])):
                one, two = (_inflection(curves[name, label], quantity, lr) for label in (reference, method))
                item = _at_rate(
                    first[first["lr"] == lr], second[second["lr"] == lr], column, quantity != "error", level
                )
                if item is not None:
                    ratio, ends, p, vertex = item
                    family.append(
                        Delay(quantity, lr, name, reference, method, (one, two), vertex, ratio, ends, p, unit)
                    )
        tested = [item for item in family if np.isfinite(item.p)]
        corrected = dict(zip(map(id, tested), holm([item.p for item in tested]), strict=True))
        found += [replace(item, p=corrected.get(id(item), float("nan"))) for item in family]
    return found


def _at_rate(
    first: pd.DataFrame, second: pd.DataFrame, column: str, log: bool, level: float
) -> tuple[float, tuple[float, float], float, tuple[float, float]] | None:
    """Return :func:`delay`; None where they have too few runs in common."""
    keys = ["budget", *_REPEATS]
    means = [rows.groupby(keys)[column].mean() for rows in (first, second)]
    both = pd.concat(means, axis=1, keys=["first", "second"], join="inner").reset_index()
    budgets = sorted(int(budget) for budget in both["budget"].unique())
    values = [cube(both, name, _REPEATS, budgets, [], "lr") for name in ("first", "second")]
    if len(budgets) < 3 or values[0] is None or values[1] is None:
        return None
    logs = log and all((value > 0).all() for value in values if value is not None)
    one, two = (np.log(value) if logs else value for value in (values[0], values[1]))
    return delay(budgets, one, two, level)


def _inflection(curves: Sequence[Curve], quantity: str, lr: float) -> float:
    own = [item for item in curves if item.quantity == quantity and item.by == "lr" and item.value == lr]
    return own[0].inflection if own else float("nan")
