"""The runs without pre-training, against a law."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_tl.laws.clusters import cells, level_half_width, widened
from lightning_tl.laws.fitted_law import FittedLaw
from lightning_tl.laws.forms import Array
from lightning_tl.laws.image_sampling import variance_of_difference
from lightning_tl.laws.results_table import Group


@dataclass(frozen=True)
class Scratch:
    """The runs without pre-training, against the law.

    Attributes:
        error: Their error (geometric mean).
        stderr: Standard error of it over runs; nan for one run.
        runs: How many.
        sizes: The sizes measured, ascending.
        ratio: log(law(n) / scratch) at each size.
        low: Lower ends of its intervals.
        high: Upper ends.
        measured: log(measured error / scratch) at each size.
    """

    error: float
    stderr: float
    runs: int
    sizes: Array
    ratio: Array
    low: Array
    high: Array
    measured: Array

    @property
    def helps_from(self) -> float | None:
        """Smallest measured size from which on pre-training is below scratch with the interval's confidence."""
        helping = self.high < 0
        if not helping[-1]:
            return None
        return float(self.sizes[len(helping) - int(np.argmin(helping[::-1])) if not helping.all() else 0])

    @property
    def harmful(self) -> Array:
        """Measured sizes at which the law is above scratch with the interval's confidence: negative transfer."""
        return self.sizes[self.low > 0]

    @property
    def above(self) -> Array:
        """Measured sizes whose error is above scratch, noise or not."""
        return self.sizes[self.measured > 0]


def scratch_contrast(group: Group, law: FittedLaw) -> Scratch:
    """Compare the law with the runs without pre-training, paired by draw and test image where both have the same.

    The law's own uncertainty comes from its fit. Scratch adds its residual: with paired draws the variance of a run
    once sizes and draws are accounted for, or the scatter over draws of (scratch - pre-trained) where that is larger
    (draws may matter less once pre-trained).
    """
    y = np.log(group.scratch["error"].to_numpy(float))
    pooled_level, variance, dof = float(y.mean()), np.nan, 0
    stderr = float(np.exp(y.mean()) * y.std(ddof=1) / np.sqrt(len(y))) if len(y) > 1 else np.nan
    if "draw" in group.runs and len(law.cells.offsets) > 1:
        shared = group.scratch["draw"].isin(set(group.runs["draw"])).to_numpy()
        if shared.sum() > 1:
            pooled_level, variance, dof = _paired_scratch(group, y, shared)
    if not dof and len(y) > 1:
        variance, dof = float(np.var(y, ddof=1) / len(y)), len(y) - 1
    if not dof:  # one scratch run: its noise is taken to be a pre-training run's
        variance, dof = law.log_noise**2, law.dof
    sizes = np.unique(law.cells.n)
    images = variance_of_difference(group.images, group.scratch_images)
    extra = level_half_width(variance, dof, images, law.level)
    rows = []
    for size in sizes:
        estimate, (low, high) = law.log_level(float(size))
        low, high = widened(low, estimate, high, extra)
        measured = law.cells.log_error[law.cells.n == size].mean()
        rows.append([value - pooled_level for value in (estimate, low, high, measured)])
    ratio, lows, highs, measures = np.array(rows).T
    return Scratch(float(np.exp(pooled_level)), stderr, len(y), sizes, ratio, lows, highs, measures)


def _paired_scratch(group: Group, y: Array, shared: NDArray[np.bool_]) -> tuple[float, float, int]:
    """Return scratch's level for the mean draw, its variance relative to the law, and degrees of freedom."""
    draws = [*group.runs["draw"], *group.scratch["draw"][shared]]
    n = np.concatenate([group.runs["n"].to_numpy(float), np.zeros(int(shared.sum()))])
    values = np.concatenate([np.log(group.runs["error"].to_numpy(float)), y[shared]])
    seeds = None
    if "pretrain" in group.runs:  # scratch runs share nothing but their draw: one cell of their own
        seeds = [*group.runs["pretrain"], *["scratch"] * int(shared.sum())]
    both = cells(n, values, pretrain=seeds, draw=draws)
    at_zero = both.n == 0
    count = float(both.runs[at_zero].sum())
    pooled = both.residual_variance / count * (1 + 1 / max((~at_zero).sum(), 1)) if both.residual_dof else np.nan
    gaps = []
    for draw in dict.fromkeys(group.scratch["draw"][shared]):
        same = np.array([label == draw for label in draws])
        if (same & (n > 0)).any():
            gaps.append(values[same & (n == 0)].mean() - values[same & (n > 0)].mean())
    own = float(np.var(gaps, ddof=1) / len(gaps)) if len(gaps) > 1 else 0.0
    return float(both.log_error[at_zero].mean()), float(np.fmax(pooled, own)), both.residual_dof
