"""What the overtraining analysis gives: numbers only; the sentences about them are made in ``words``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lightning_tl.budget_curves import Curve

#: What budgets are counted in.
Unit = Literal["steps", "tokens"]
#: A rise is called quadratic where it is within this share of its quadratic approximation.
QUADRATIC = 0.2


@dataclass(frozen=True)
class Tuned:
    """The best learning rate at each budget, chosen on validation images.

    Attributes:
        budgets: Of the pre-trainings.
        lr: With the lowest mean fine-tuning loss on validation images.
        interval: By budget, of the best rate of curves drawn around the measured one.
        slope: Of log lr over log budget.
        slope_interval: Of it.
        scenario: ``constant``, ``slowly decreasing``, ``quickly decreasing``, ``increasing`` or ``undecided``.
        at_edge: Budgets whose best rate is the smallest or largest that was tried.
        curves: ``tuned forgotten`` (pre-training loss), ``tuned finetune_loss`` and ``tuned error`` (both of test
            images), each draw at the rate that is best on the others.
    """

    budgets: tuple[int, ...]
    lr: tuple[float, ...]
    interval: tuple[tuple[float, float], ...]
    slope: float
    slope_interval: tuple[float, float]
    scenario: str
    at_edge: tuple[int, ...]
    curves: tuple[Curve, ...]

    def curve(self, quantity: str) -> Curve:
        """Return the curve of ``forgotten``, ``finetune_loss`` or ``error``."""
        return next(item for item in self.curves if item.quantity == f"tuned {quantity}")


@dataclass(frozen=True)
class NoiseApproximation:
    """Rises under noise against ½γ²Tr(ΣH) with the measured trace (Springer et al. 2025, App. D, Fig. 9).

    Attributes:
        noise: Prefix of the measurement, ``""`` (by initialisation) or such as ``relative/``.
        budgets: Of the pre-trainings.
        gammas: The scales, ascending.
        measured: Δ(γ) by budget and γ, the mean over pre-trainings.
        predicted: ½γ²Tr(ΣH) by budget and γ, likewise.
        up_to: By budget, the largest γ up to which the two agree within ``QUADRATIC``; 0 where they never do.
        deviations: At the smallest γ, by pre-training: (Δ − ½γ²Tr(ΣH)) over its standard error.
    """

    noise: str
    budgets: tuple[int, ...]
    gammas: tuple[float, ...]
    measured: tuple[tuple[float, ...], ...]
    predicted: tuple[tuple[float, ...], ...]
    up_to: tuple[float, ...]
    deviations: tuple[float, ...]


@dataclass(frozen=True)
class LineApproximation:
    """Rises from the pre-trained to the fine-tuned weights against gᵀd + ½dᵀHd (their App. D, Fig. 10).

    BatchNorm normalises by the batch, so that gradient and Hessian include what the weights do to its statistics.

    Attributes:
        budgets: Of the pre-trainings.
        lrs: Learning rates, ascending.
        measured: L(θ + d) − L(θ) by budget and learning rate, the mean over seeds and draws.
        predicted: gᵀd + ½dᵀHd, likewise.
        first_order: gᵀd, likewise.
        up_to: By budget, the largest learning rate up to which the two agree within ``QUADRATIC``; 0 where they never
            do.
    """

    budgets: tuple[int, ...]
    lrs: tuple[float, ...]
    measured: tuple[tuple[float, ...], ...]
    predicted: tuple[tuple[float, ...], ...]
    first_order: tuple[tuple[float, ...], ...]
    up_to: tuple[float, ...]


@dataclass(frozen=True)
class MissingRuns:
    """Runs that a complete table of budgets, seeds and draws lacks.

    Attributes:
        quantity: What the table is of: a key of :data:`~lightning_tl.study.overtraining.words.TABLES`.
        value: Of the learning rate or the scale of noise; None where the quantity has neither.
        runs: How many are missing.
        seeds: Seeds that remain once the incomplete ones are left out; 0 where nothing remains.
        draws: Likewise draws.
    """

    quantity: str
    value: float | None
    runs: int
    seeds: int
    draws: int


@dataclass(frozen=True)
class RateOutsideWindow:
    """A learning rate that is left out because its pre-training loss after fine-tuning leaves the window.

    Attributes:
        lr: The rate.
        loss: Lowest and highest mean loss over the budgets.
        window: The window.
    """

    lr: float
    loss: tuple[float, float]
    window: tuple[float, float]


Exclusion = MissingRuns | RateOutsideWindow


@dataclass(frozen=True)
class Series:
    """Pre-trainings that differ only in budget and seed, and what was measured on them.

    Attributes:
        name: What distinguishes it from the other series; empty where there is only one.
        budgets: Of the pre-trainings.
        passes: How often each image was seen, by budget; 1: all fresh. NaN where it is not known.
        curves: All curves.
        tuned: The best learning rate; None where only one was tried.
        noise: Quadratic approximations, one per kind of noise.
        line: The approximation along fine-tuning; None where it was not measured.
        exclusions: Runs and learning rates that were left out.
        unit: What budgets are counted in.
    """

    name: str
    budgets: tuple[int, ...]
    passes: tuple[float, ...]
    curves: tuple[Curve, ...]
    tuned: Tuned | None = None
    noise: tuple[NoiseApproximation, ...] = ()
    line: LineApproximation | None = None
    exclusions: tuple[Exclusion, ...] = ()
    unit: Unit = "steps"

    def family(self, quantity: str, by: str = "") -> list[Curve]:
        """Return a quantity's curves in ascending order of γ or learning rate."""
        family = [item for item in self.curves if item.quantity == quantity and item.by == by]
        return sorted(family, key=lambda item: item.value or 0.0)


@dataclass(frozen=True)
class Delay:
    """The turn of a quantity with a method, against that without.

    Attributes:
        quantity: A key of :data:`~lightning_tl.study.overtraining.analysis.BY_LR`.
        lr: Learning rate of fine-tuning.
        series: What both series have in common; empty where there are no others.
        reference: Label of the method compared with.
        method: Label of the method.
        inflection: Inflection points of Def. 4.2 (in the unit of the budgets), of the reference and of the method; NaN
            where none is significant.
        vertex: Where each is lowest (in the unit of the budgets).
        ratio: Of the second to the first.
        ratio_interval: Of it; an infinite end: the method's curve is lowest at the last budget (the turn may come
            later), likewise 0 at the first.
        p: How likely so late a turn is where the method delays none (one-sided), corrected over all comparisons of the
            quantity; NaN for single runs.
        unit: What budgets are counted in.
    """

    quantity: str
    lr: float
    series: str
    reference: str
    method: str
    inflection: tuple[float, float]
    vertex: tuple[float, float]
    ratio: float
    ratio_interval: tuple[float, float]
    p: float
    unit: Unit = "steps"


@dataclass(frozen=True)
class Overtraining:
    """The analysis.

    Attributes:
        series: By kind of pre-training.
        level: Of all intervals and verdicts.
        delays: Where ways of fine-tuning differ: whether one delays the turn of a curve.
    """

    series: tuple[Series, ...]
    level: float
    delays: tuple[Delay, ...] = ()
