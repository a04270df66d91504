"""From runs to independent points: runs that share a pre-training run, or a draw of few shots, are not independent.

The model of log error is ``law(n, s) + draw + pretraining + residual``. Draws that stand at every size (a paired
design) shift the whole curve: they leave alpha alone and make the level (D, C, predictions) uncertain. Runs on one
pre-training run share its luck, so they are one point. Draw offsets are therefore removed by least squares, the runs
of each pre-training run are averaged into a *cell*, and the law is fitted to the cells, whose scatter about it measures
the pre-training noise. What the draws add to the level's uncertainty is put back afterwards (:func:`widened`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from lightning_tl.laws.forms import Array


@dataclass(frozen=True)
class Cells:
    """Independent points, one a pre-training run (and fine-tuning size), and what the draws say of the level.

    Attributes:
        n: Pre-training sizes, shape (m,).
        s: Fine-tuning sizes, shape (m,); ones where unknown.
        log_error: Mean log error over the cell's runs, draw offsets removed, shape (m,).
        runs: Runs in each cell, shape (m,).
        draws: Labels of the draws found at several sizes, in the order of ``offsets``.
        offsets: Offset of each draw in log error, mean 0.
        residual_variance: Variance of log error within cells once draws are removed; nan where none is left over.
        residual_freedom: Its degrees of freedom.
    """

    n: Array
    s: Array
    log_error: Array
    runs: Array
    draws: tuple[Any, ...]
    offsets: Array
    residual_variance: float
    residual_freedom: int

    @property
    def draw_variance(self) -> float:
        """Variance of the mean draw offset in log error; 0 where no draw is shared between sizes."""
        count = len(self.offsets)
        return float(np.var(self.offsets, ddof=1) / count) if count > 1 else 0.0

    @property
    def draw_freedom(self) -> int:
        """Degrees of freedom of ``draw_variance``."""
        return max(len(self.offsets) - 1, 0)


def _codes(labels: Sequence[Any] | None, count: int) -> tuple[NDArray[np.int64] | None, list[str]]:
    if labels is None:
        return None, []
    text = [str(label) for label in list(labels)]
    names = sorted(set(text))
    return np.array([names.index(label) for label in text]), names


def cells(
    n: Array,
    log_error: Array,
    s: Array | None = None,
    pretrain: Sequence[Any] | None = None,
    draw: Sequence[Any] | None = None,
) -> Cells:
    """Average runs into independent points.

    Args:
        n: Pre-training size of each run, shape (runs,).
        log_error: Log of its test error, shape (runs,).
        s: Its fine-tuning size, shape (runs,).
        pretrain: Label of its pre-training run, for instance the seed; the same label at two sizes names two runs.
            Without labels, runs of one draw are taken to have pre-trainings of their own, and runs of several draws at
            one size to share one.
        draw: Label of its draw of fine-tuning data; the same label at several sizes is the same draw.

    Returns:
        The cells in order of size.
    """
    count = len(n)
    sizes = np.ones(count) if s is None else s
    draws, names = _codes(draw, count)
    labelled, _ = _codes(pretrain, count)
    unlabelled = np.arange(count) if draws is None else np.zeros(count, np.int64)
    seeds = unlabelled if labelled is None else labelled
    keys, cell = np.unique(np.stack([n, sizes, seeds], axis=1), axis=0, return_inverse=True)
    cell = np.asarray(cell).ravel()
    member = np.eye(len(keys))[cell]
    runs = member.sum(axis=0)
    offsets = np.zeros(0)
    shared: list[Any] = []
    level = member.T @ log_error / runs
    rank = len(keys)
    if draws is not None:
        found = [[len(np.unique(n[draws == code])), code] for code in range(len(names))]
        if sum(sizes_seen > 1 for sizes_seen, _ in found) > 1:
            of = np.eye(len(names))[draws]
            # Sum-to-zero coding, so that a cell's value is its level for the mean draw.
            contrast = np.vstack([np.eye(len(names) - 1), -np.ones(len(names) - 1)])
            design = np.hstack([member, of @ contrast])
            solution, _, found_rank, _ = np.linalg.lstsq(design, log_error, rcond=None)
            level, offsets, shared = solution[: len(keys)], contrast @ solution[len(keys) :], names
            rank = int(found_rank)
            rest = log_error - design @ solution
        else:
            rest = log_error - level[cell]
    else:
        rest = log_error - level[cell]
    freedom = count - rank
    variance = float(rest @ rest / freedom) if freedom > 0 else np.nan
    return Cells(keys[:, 0], keys[:, 1], level, runs, tuple(shared), offsets, variance, freedom)


def half_width(variance: float, freedom: int, level: float) -> float:
    """Return the half-width of a two-sided t interval; infinite where the variance has no degrees of freedom."""
    return float(stdtrit(freedom, (1 + level) / 2)) * np.sqrt(variance) if freedom > 0 else np.inf


def widened(low: float, centre: float, high: float, extra: float) -> tuple[float, float]:
    """Return an interval widened by an independent source of half-width ``extra``.

    The half-widths are added in quadrature, side by side (the method of variance estimates recovery, Zou & Donner,
    Statistics in Medicine 2008): it keeps asymmetry, and unlike a pooled degree of freedom it needs no approximation
    when one source dominates.
    """
    return centre - float(np.hypot(centre - low, extra)), centre + float(np.hypot(high - centre, extra))
