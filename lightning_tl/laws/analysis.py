"""Each group's fit with what surrounds it: the power law, the scratch baseline, the fit without the largest size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_tl.errors import UserError
from lightning_tl.laws.fit import fit
from lightning_tl.laws.fitted import FittedLaw, Interval
from lightning_tl.laws.forms import Array, Form, PowerLaw, TransferLaw
from lightning_tl.laws.pairing import cells, half_width, widened
from lightning_tl.laws.table import Group


@dataclass(frozen=True)
class HoldOut:
    """How well the sizes below the largest predicted it.

    Attributes:
        n: The largest size.
        observed: Error there (geometric mean over the runs).
        predicted: Error predicted from the smaller sizes.
        interval: Its 95 % prediction interval.
        power: Error that a power law predicts.
    """

    n: float
    observed: float
    predicted: float
    interval: Interval
    power: float

    @property
    def off(self) -> float:
        """Observed error against the predicted one, as a relative difference."""
        return self.observed / self.predicted - 1

    @property
    def inside(self) -> bool:
        """Whether the outcome lies in the prediction interval."""
        return self.interval[0] <= self.observed <= self.interval[1]


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


@dataclass
class GroupFit:
    """A group with its fit, or the reason why it has none."""

    group: Group
    law: FittedLaw | None = None
    power: FittedLaw | None = None
    reason: str | None = None
    scratch: Scratch | None = None
    hold_out: HoldOut | None = None

    @property
    def label(self) -> str:
        """The group's label."""
        return self.group.label

    @property
    def largest(self) -> float:
        """Largest pre-training size measured."""
        return float(self.group.runs["n"].max())


def analyse(found: Sequence[Group], form: Form | None = None, level: float = 0.95) -> list[GroupFit]:
    """Fit every group; one that cannot be fitted keeps its reason and the others go on.

    Args:
        found: The groups of a table.
        form: The law, default :class:`TransferLaw`.
        level: Confidence level of intervals.
    """
    return [analyse_group(group, form or TransferLaw(), level) for group in found]


def analyse_group(group: Group, form: Form, level: float = 0.95) -> GroupFit:
    """Fit one group."""
    result = GroupFit(group)
    if group.runs.empty:
        result.reason = f"no usable row ({_first_reason(group)})"
        return result
    try:
        result.law = _fit(group, form, level)
    except UserError as error:
        result.reason = str(error)
        return result
    result.power = _fit(group, PowerLaw(), level)
    if not group.scratch.empty:
        result.scratch = scratch_contrast(group, result.law)
    result.hold_out = hold_out(result.law)
    return result


def _first_reason(group: Group) -> str:
    return f"line {group.dropped[0]['line']}: {group.dropped[0]['reason']}" if group.dropped else "none given"


def _fit(group: Group, form: Form, level: float) -> FittedLaw:
    s = group.runs["s"] if form.uses_s and "s" in group.runs else None
    return fit(
        form,
        n=group.runs["n"].to_numpy(float),
        error=group.runs["error"].to_numpy(float),
        s=None if s is None else s.to_numpy(float),
        pretrain=group.labels("pretrain"),
        draw=group.labels("draw"),
        level=level,
    )


def hold_out(law: FittedLaw) -> HoldOut | None:
    """Fit without the largest size and compare what it predicts there; ``None`` where too few sizes are left."""
    points = law.cells
    largest = points.n.max()
    rest = points.n < largest
    if len(np.unique(points.n[rest])) < 2 or rest.sum() <= len(law.form.parameters) or law.form.uses_s:
        return None
    before = points.where(rest)
    smaller = FittedLaw(law.form, before, law.level)
    power = FittedLaw(PowerLaw(), before, law.level)
    low, high = smaller.predict_interval([largest], same_draws=True)
    return HoldOut(
        n=float(largest),
        observed=float(np.exp(points.log_error[~rest].mean())),
        predicted=float(smaller.predict([largest])[0]),
        interval=(float(low[0]), float(high[0])),
        power=float(power.predict([largest])[0]),
    )


def scratch_contrast(group: Group, law: FittedLaw) -> Scratch:
    """Compare the law with the runs without pre-training, paired by draw where both have the same draws.

    The law's own uncertainty comes from its fit. Scratch adds its residual: with paired draws the variance of a run
    once sizes and draws are accounted for, or the scatter over draws of (scratch - pre-trained) where that is larger
    (draws may matter less once pre-trained).
    """
    y = np.log(group.scratch["error"].to_numpy(float))
    pooled_level, variance, freedom = float(y.mean()), np.nan, 0
    stderr = float(np.exp(y.mean()) * y.std(ddof=1) / np.sqrt(len(y))) if len(y) > 1 else np.nan
    if "draw" in group.runs and len(law.cells.offsets) > 1:
        shared = group.scratch["draw"].isin(set(group.runs["draw"])).to_numpy()
        if shared.sum() > 1:
            pooled_level, variance, freedom = _paired_scratch(group, y, shared)
    if not freedom and len(y) > 1:
        variance, freedom = float(np.var(y, ddof=1) / len(y)), len(y) - 1
    if not freedom:  # one scratch run: its noise is taken to be a pre-training run's
        variance, freedom = law.noise**2, law.freedom
    sizes = np.unique(law.cells.n)
    extra = half_width(variance, freedom, law.level)
    rows = []
    for size in sizes:
        estimate, (low, high) = law.log_level(float(size), float(law.cells.s.min()))
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
    pooled = both.residual_variance / count * (1 + 1 / max((~at_zero).sum(), 1)) if both.residual_freedom else np.nan
    gaps = []
    for draw in dict.fromkeys(group.scratch["draw"][shared]):
        mine = np.array([label == draw for label in draws])
        if (mine & (n > 0)).any():
            gaps.append(values[mine & (n == 0)].mean() - values[mine & (n > 0)].mean())
    own = float(np.var(gaps, ddof=1) / len(gaps)) if len(gaps) > 1 else 0.0
    return float(both.log_error[at_zero].mean()), float(np.fmax(pooled, own)), both.residual_freedom
