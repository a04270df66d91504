"""Each group's fit with what surrounds it: the power law, the scratch baseline, the fit without the largest sizes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_tl.errors import UserError
from lightning_tl.laws.bootstrap import Bootstrap, bootstrap
from lightning_tl.laws.clusters import Cells, cells, half_width, widened
from lightning_tl.laws.fitted_law import FittedLaw
from lightning_tl.laws.fitting import fit_cells, points_of
from lightning_tl.laws.forms import Array, Form, FullLaw, Loss, PowerLaw, ResidualSpace, TransferLaw
from lightning_tl.laws.results_table import Group
from lightning_tl.laws.shared_coefficient import CoefficientMode, Settings, fit_together

_SAME = 1e-4  # of the logarithm of errors that differ in nothing


@dataclass(frozen=True)
class Method:
    """How a table is fitted: all of it goes into the manifest.

    Attributes:
        coefficient: D (delta): a number or one of :data:`~.shared_coefficient.MODES` (see :mod:`~.shared_coefficient`).
        share_by: Where groups have D in common: only groups that agree in these columns have D in common.
        space: ``"log"`` or ``"linear"``.
        loss: ``"squares"`` or ``"huber"``.
        level: Confidence level of intervals.
        resamples: Bootstrap resamples for each group; 0: none.
        seed: Seed of the bootstrap.
        hold_out_from: Sizes from here on are predicted from the smaller ones; ``None``: each group's largest.
    """

    coefficient: CoefficientMode | float = "free"
    share_by: tuple[str, ...] = ()
    space: ResidualSpace = "log"
    loss: Loss = "squares"
    level: float = 0.95
    resamples: int = 0
    seed: int = 0
    hold_out_from: float | None = None

    @property
    def settings(self) -> Settings:
        """What :func:`~.shared_coefficient.fit_together` needs."""
        return Settings(self.space, self.loss, self.level)

    def to_dict(self) -> dict[str, Any]:
        """Return plain types."""
        return asdict(self)


@dataclass(frozen=True)
class HoldOut:
    """How well the smaller sizes predict the larger ones that were held out.

    Attributes:
        law: The law fitted to the smaller sizes.
        power_law: The power law fitted to them; ``None`` for the full law.
        n: Sizes held out, ascending, shape (h,).
        s: Their fine-tuning sizes, shape (h,).
        observed: Errors there (geometric means over runs), shape (h,).
        predicted: Errors predicted, shape (h,).
        low: Lower ends of prediction intervals that hold all outcomes together (Bonferroni), shape (h,).
        high: Upper ends, shape (h,).
        power: Errors that the power law predicts, shape (h,); nan for the full law.
        asked: The sizes were named, so that this is what the fit was for.
    """

    law: FittedLaw
    power_law: FittedLaw | None
    n: Array
    s: Array
    observed: Array
    predicted: Array
    low: Array
    high: Array
    power: Array
    asked: bool = False

    @property
    def rmse(self) -> float:
        """Root mean square of predicted less observed error."""
        return float(np.sqrt(np.mean((self.predicted - self.observed) ** 2)))

    @property
    def power_rmse(self) -> float:
        """The same for the power law."""
        return float(np.sqrt(np.mean((self.power - self.observed) ** 2)))

    @property
    def off(self) -> float:
        """Observed over predicted error at the largest size, less 1."""
        return float(self.observed[-1] / self.predicted[-1] - 1)

    @property
    def inside(self) -> bool:
        """Whether every outcome lies in its prediction interval."""
        return bool(np.all((self.low <= self.observed) & (self.observed <= self.high)))


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
    """A group with its law and what surrounds it.

    Attributes:
        group: The group.
        law: Its law.
        power: The power law, the baseline (``None`` for the full law).
        scratch: Its runs without pre-training; ``None`` where there are none, and for the full law.
        hold_out: How well smaller sizes predict larger ones; ``None`` where too few points remain.
        boot: Refits of resampled runs; ``None`` where none were asked for.
        notes: What to know of its points.
    """

    group: Group
    law: FittedLaw
    power: FittedLaw | None = None
    scratch: Scratch | None = None
    hold_out: HoldOut | None = None
    boot: Bootstrap | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The group's label."""
        return self.group.label

    @property
    def largest(self) -> float:
        """Largest pre-training size measured."""
        return float(self.group.runs["n"].max())

    @property
    def s(self) -> float | None:
        """Fine-tuning size at which the law is evaluated (the largest measured), for laws that use it."""
        return float(self.law.cells.s.max()) if self.law.form.uses_s else None


@dataclass
class UnfittedGroup:
    """A group that no law could be fitted to.

    Attributes:
        group: The group.
        reason: Why there is no law.
    """

    group: Group
    reason: str

    @property
    def label(self) -> str:
        """The group's label."""
        return self.group.label

    @property
    def notes(self) -> list[str]:
        """What to know of its points."""
        return self.group.notes


GroupResult = GroupFit | UnfittedGroup


def fitted(results: Iterable[GroupResult]) -> list[GroupFit]:
    """Return the groups that have a law, in their order."""
    return [result for result in results if isinstance(result, GroupFit)]


def analyse(groups: Sequence[Group], form: Form | None = None, method: Method | None = None) -> list[GroupResult]:
    """Fit every group; one that cannot be fitted gets its reason, and the others are fitted all the same.

    Args:
        groups: The groups of a table.
        form: The law, default :class:`TransferLaw`.
        method: How they are fitted.

    Returns:
        One result per group, in their order.

    Raises:
        UserError: The method does not fit the form.
    """
    form, method = form or TransferLaw(), method or Method()
    points: dict[int, Cells] = {}
    results: dict[int, GroupResult] = {}
    for i, group in enumerate(groups):
        try:
            points[i] = _points(group, form)
        except UserError as error:
            results[i] = UnfittedGroup(group, str(error))
    for members in _families(groups, list(points), method.share_by):
        family = [points[i] for i in members]
        laws = fit_together(form, family, method.coefficient, method.settings)
        for i, law, hold_out in zip(members, laws, _hold_outs(form, family, method), strict=True):
            results[i] = _surrounded(groups[i], law, hold_out, method)
    return [results[i] for i in range(len(groups))]


def _surrounded(group: Group, law: FittedLaw, hold_out: HoldOut | None, method: Method) -> GroupFit:
    """Return a group's law with its baselines and the bootstrap."""
    power = scratch = boot = None
    if not law.form.uses_s:
        power = fit_cells(PowerLaw(), law.cells, **vars(method.settings))
        scratch = None if group.scratch.empty else scratch_contrast(group, law)
    if method.resamples and len(law.cells.n) > len(law.form.parameters):
        boot = bootstrap(law, method.resamples, method.seed)
    notes = [*group.notes, *filter(None, [_rising(law)])]
    return GroupFit(group, law, power, scratch, hold_out, boot, notes)


def _families(groups: Sequence[Group], usable: list[int], share_by: tuple[str, ...]) -> list[list[int]]:
    """Return the groups that are fitted together: those that agree in the columns of ``share_by``."""
    families: dict[tuple[str, ...], list[int]] = {}
    for i in usable:
        families.setdefault(tuple(groups[i].keys.get(name, "") for name in share_by), []).append(i)
    return list(families.values())


def _points(group: Group, form: Form) -> Cells:
    if group.runs.empty:
        line = f" (line {group.dropped[0]['line']}: {group.dropped[0]['reason']})" if group.dropped else ""
        raise UserError(f"no usable row{line}")
    runs = group.runs
    if runs["n"].nunique() > 2 and np.ptp(np.log(runs["error"].to_numpy(float))) < _SAME:
        raise UserError(
            f"all {len(runs)} runs have the same error, {runs['error'].iloc[0]:.4g}: none has learnt what it measures, "
            "or it is too coarse; fine-tune longer, or at another learning rate"
        )
    s = runs["s"].to_numpy(float) if "s" in runs else None
    return points_of(form, runs["n"], runs["error"], s, group.labels("pretrain"), group.labels("draw"))


def _rising(law: FittedLaw) -> str | None:
    """Return a note where the error rises with n by more than noise: no law here can follow that."""
    sizes = np.unique(law.cells.n)
    if law.form.uses_s or len(sizes) < 3 or not np.isfinite(law.noise):
        return None
    means = np.array([law.cells.log_error[law.cells.n == size].mean() for size in sizes])
    rise = means - np.minimum.accumulate(means)
    worst = int(np.argmax(rise))
    if rise[worst] < 3 * law.log_noise or rise[worst] < 0.02:
        return None
    lowest = sizes[int(np.argmin(means[: worst + 1]))]
    return (
        f"The error rises from n = {lowest:,.0f} to n = {sizes[worst]:,.0f} by {100 * np.expm1(rise[worst]):.0f} %, "
        "more than the scatter; the law only falls, so look at those runs (a learning rate, too few iterations?)."
    )


def _hold_outs(form: Form, groups: Sequence[Cells], method: Method) -> list[HoldOut | None]:
    """Fit without the largest sizes, the groups together as asked, and compare with what was measured there."""
    cut = [points.n.max() if method.hold_out_from is None else method.hold_out_from for points in groups]
    rests = [points.n < limit for points, limit in zip(groups, cut, strict=True)]
    # A floor of one degree of freedom: a curve through all its points predicts with no interval.
    usable = [
        i
        for i, (points, rest) in enumerate(zip(groups, rests, strict=True))
        if rest.sum() > len(form.parameters) and (~rest).any() and len(np.unique(points.n[rest])) > 2
    ]
    result: list[HoldOut | None] = [None] * len(groups)
    if form.uses_s:
        usable = [i for i in usable if len(np.unique(groups[i].s[rests[i]])) > 1]
    before = [groups[i].where(rests[i]) for i in usable]
    if before:
        for i, law in zip(usable, fit_together(form, before, method.coefficient, method.settings), strict=True):
            result[i] = _hold_out(law, groups[i].where(~rests[i]), method)
    return result


def _hold_out(law: FittedLaw, after: Cells, method: Method) -> HoldOut:
    pairs = np.unique(np.stack([after.n, after.s], axis=1), axis=0)
    observed = [np.exp(after.log_error[(after.n == n) & (after.s == s)].mean()) for n, s in pairs]
    # All outcomes at once: of six, one would often lie outside intervals that hold each by itself.
    level = 1 - (1 - method.level) / len(pairs)
    low, high = law.predict_interval(pairs[:, 0], pairs[:, 1], level, same_draws=True)
    power = None if isinstance(law.form, FullLaw) else fit_cells(PowerLaw(), law.cells, **vars(method.settings))
    return HoldOut(
        law=law,
        power_law=power,
        n=pairs[:, 0],
        s=pairs[:, 1],
        observed=np.array(observed),
        predicted=law.predict(pairs[:, 0], pairs[:, 1]),
        low=low,
        high=high,
        power=np.full(len(pairs), np.nan) if power is None else power.predict(pairs[:, 0]),
        asked=method.hold_out_from is not None,
    )


def scratch_contrast(group: Group, law: FittedLaw) -> Scratch:
    """Compare the law with the runs without pre-training, paired by draw where both have the same draws.

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
    extra = half_width(variance, dof, law.level)
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
