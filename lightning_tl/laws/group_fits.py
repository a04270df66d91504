"""Each group's fit with what surrounds it: the power law, the scratch baseline, the fit without the largest sizes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from lightning_tl.errors import UserError
from lightning_tl.laws.bootstrap import Bootstrap, bootstrap
from lightning_tl.laws.clusters import Cells
from lightning_tl.laws.fitted_law import WIDE, FittedLaw, Interval, prepare_regions
from lightning_tl.laws.fitting import fit_many, points_of
from lightning_tl.laws.forms import Array, Form, Loss, PowerLaw, ResidualSpace, TransferLaw
from lightning_tl.laws.identification import IDENTIFIED
from lightning_tl.laws.image_weights import weighted_by_images
from lightning_tl.laws.results_table import Group
from lightning_tl.laws.rising import rising_note
from lightning_tl.laws.scratch import Scratch, scratch_contrast
from lightning_tl.laws.shared_coefficient import CoefficientMode, Settings, fit_together

#: For every curve: what would this many times the images change?
FACTOR = 10.0
#: Groups whose confidence regions are in memory at once.
_AT_ONCE = 64
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
class Outlook:
    """What :data:`FACTOR` times the largest size would change.

    Attributes:
        change: log(law there / law at the largest size).
        interval: Its interval.
        confidence: Confidence that it lowers the error by what is worthwhile (:attr:`.terms.Terms.worthwhile`) or
            more; nan where nothing is known.
        model_change: The same change for :data:`FACTOR` times the largest model, in a law of model size; else ``None``.
        model_interval: Its interval.
    """

    change: float
    interval: Interval
    confidence: float
    model_change: float | None = None
    model_interval: Interval = (-np.inf, np.inf)


@dataclass
class GroupFit:
    """A group with its law and what surrounds it.

    Attributes:
        group: The group.
        law: Its law.
        outlook: What many more images would change.
        power: The power law, the baseline (``None`` for the full law).
        scratch: Its runs without pre-training; ``None`` where there are none, and for the full law.
        hold_out: How well smaller sizes predict larger ones; ``None`` where too few points remain.
        boot: Refits of resampled runs; ``None`` where none were asked for.
        notes: What to know of its points.
    """

    group: Group
    law: FittedLaw
    outlook: Outlook
    power: FittedLaw | None = None
    scratch: Scratch | None = None
    hold_out: HoldOut | None = None
    boot: Bootstrap | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The group's label."""
        return self.group.label

    @cached_property
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
    if method.space == "log":
        points = dict(zip(points, weighted_by_images(form, list(points.values())), strict=True))
    for members in _families(groups, list(points), method.share_by):
        family = [points[i] for i in members]
        laws = fit_together(form, family, method.coefficient, method.settings)
        held = _hold_outs(form, family, method)
        powers = (
            [None] * len(laws)
            if form.uses_s
            else fit_many(PowerLaw(), [law.cells for law in laws], **vars(method.settings))
        )
        for start in range(0, len(members), _AT_ONCE):
            chunk = range(start, min(start + _AT_ONCE, len(members)))
            prepare_regions(
                (laws[i], level) for i in chunk for level in (method.level, IDENTIFIED, WIDE) if laws[i].dof > 0
            )
            prepare_regions((held[i].law, held[i].level) for i in chunk if i in held)
            for i in chunk:
                hold_out = _hold_out(held[i], method) if i in held else None
                results[members[i]] = _surrounded(groups[members[i]], laws[i], powers[i], hold_out, method)
    return [results[i] for i in range(len(groups))]


def _surrounded(
    group: Group, law: FittedLaw, power: FittedLaw | None, hold_out: HoldOut | None, method: Method
) -> GroupFit:
    """Return a group's law with its baselines and the bootstrap.

    What every report asks of the law's regions is asked here, so that they need not stay in memory.
    """
    scratch = scratch_contrast(group, law) if not (law.form.uses_s or group.scratch.empty) else None
    boot = None
    if method.resamples and len(law.cells.n) > len(law.form.parameters):
        boot = bootstrap(law, method.resamples, method.seed)
    notes = [*group.notes, *filter(None, [rising_note(law, group.terms.measured)])]
    item = GroupFit(group, law, _outlook(group, law), power, scratch, hold_out, boot, notes)
    for name in law.form.parameters:
        law.interval(name)
        law.unidentified(name)
    law.forget_regions()
    return item


def _outlook(group: Group, law: FittedLaw) -> Outlook:
    largest = float(group.runs["n"].max())
    s = float(law.cells.s.max()) if law.form.uses_s else None
    law.log_level(largest, s)
    law.log_level(FACTOR * largest, s)
    change, interval = law.log_ratio(largest, FACTOR * largest, s)
    confidence = law.probability_of_reduction(largest, FACTOR * largest, group.terms.worthwhile, s)
    if s is None or law.form.second_size != "model size":
        return Outlook(change, interval, confidence)
    return Outlook(change, interval, confidence, *law.log_ratio(largest, largest, s, other_s=FACTOR * s))


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
            f"all {len(runs)} runs have the same {group.terms.measured}, {runs['error'].iloc[0]:.4g}: none has "
            "learnt what it measures, or it is too coarse; fine-tune longer, or at another learning rate"
        )
    s = runs["s"].to_numpy(float) if "s" in runs else None
    images = group.images
    each = None if images is None else images.each
    labels = group.labels("pretrain"), group.labels("draw")
    measured = group.terms.measured
    points = points_of(form, runs["n"], runs["error"], s, *labels, own_image_variance=each, measured=measured)
    return points if images is None else replace(points, image_variance=images.variance)


@dataclass(frozen=True)
class _Held:
    """A law fitted to the smaller sizes, its power law, and what it is compared with.

    Attributes:
        law: The law.
        power: The power law of the same points; ``None`` for the full law.
        after: The points held out.
        pairs: Their sizes n and s, shape (h, 2).
        level: Level of intervals that hold all outcomes together.
    """

    law: FittedLaw
    power: FittedLaw | None
    after: Cells
    pairs: Array
    level: float


def _hold_outs(form: Form, groups: Sequence[Cells], method: Method) -> dict[int, _Held]:
    """Fit without the largest sizes, the groups together as asked; by number of group, where enough remain."""
    cut = [points.n.max() if method.hold_out_from is None else method.hold_out_from for points in groups]
    rests = [points.n < limit for points, limit in zip(groups, cut, strict=True)]
    # A floor of one degree of freedom: a curve through all its points predicts with no interval.
    usable = [
        i
        for i, (points, rest) in enumerate(zip(groups, rests, strict=True))
        if rest.sum() > len(form.parameters) and (~rest).any() and len(np.unique(points.n[rest])) > 2
    ]
    if form.uses_s:
        usable = [i for i in usable if len(np.unique(groups[i].s[rests[i]])) > 1]
    before = [groups[i].where(rests[i]) for i in usable]
    if not before:
        return {}
    laws = fit_together(form, before, method.coefficient, method.settings)
    powers = (
        [None] * len(laws)
        if form.uses_s
        else fit_many(PowerLaw(), [law.cells for law in laws], **vars(method.settings))
    )
    held = {}
    for i, law, power in zip(usable, laws, powers, strict=True):
        after = groups[i].where(~rests[i])
        pairs = np.unique(np.stack([after.n, after.s], axis=1), axis=0)
        # All outcomes at once: of six, one would often lie outside intervals that hold each by itself.
        held[i] = _Held(law, power, after, pairs, 1 - (1 - method.level) / len(pairs))
    return held


def _hold_out(held: _Held, method: Method) -> HoldOut:
    """Compare the prediction with what was measured."""
    law, after, (n, s) = held.law, held.after, held.pairs.T
    observed = [np.exp(after.log_error[(after.n == size) & (after.s == other)].mean()) for size, other in held.pairs]
    low, high = law.predict_interval(n, s, held.level, same_draws=True)
    law.forget_regions()
    return HoldOut(
        law=law,
        power_law=held.power,
        n=n,
        s=s,
        observed=np.array(observed),
        predicted=law.predict(n, s),
        low=low,
        high=high,
        power=np.full(len(n), np.nan) if held.power is None else held.power.predict(n),
        asked=method.hold_out_from is not None,
    )
