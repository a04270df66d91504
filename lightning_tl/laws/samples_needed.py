"""How many fine-tuning images s a given error takes, and how that number falls with the model's size or with n.

Each curve (one method, model and pre-training size n) has a law over s: ``error = D s^-beta + C`` with four or more
sizes, ``D s^-beta`` with two or three. Runs at one s that share a draw of images are one point; the luck of a
pre-training, which moves its whole curve, plays the part that a draw plays in a law over n (see
:mod:`lightning_tl.laws.clusters`).

The exponent is the slope of log s over log x (x: parameters, or n) by least squares over the curves measured, with its
sign turned. Each curve's log s is a function of its points; to first order its error is a weighted sum of theirs,
d log s = h · d log error. Curves that were fine-tuned on the same draws have correlated points, so the slope's variance
is the sum over points and pairs of curves of w_a w_b h_a h_b cov_ab, with the covariance estimated from the residuals
about the laws. What the whole curve shares, by its pre-training, is added. The slope describes the curves measured; it
is no claim that log s is linear in log x beyond them.

Source of the question: arXiv 2602.04233, with larger pre-trained models fewer target samples are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from lightning_tl.laws.fitted_law import FittedLaw, Interval
from lightning_tl.laws.fitting import fit_cells, points_of
from lightning_tl.laws.forms import Array, Form, PowerLaw, TransferLaw
from lightning_tl.laws.image_sampling import ImageSampling, Replicates, of_runs, paired

#: Sizes beyond this factor of the largest or smallest s measured are not taken for known.
REACH = 2.0
#: From so many sizes on, the law has a floor.
LEAST_SIZES_FOR_FLOOR = 4

Reached = Literal["reached", "not reached", "already reached"]


@dataclass(frozen=True)
class SampleCurve:
    """Errors over fine-tuning sizes, and their law.

    Attributes:
        label: What the curve is of.
        x: Values that curves are ordered by: ``parameters`` and ``n``.
        law: The law over s; its size is s.
        points: Log error at each size and draw, the mean over pre-trainings: index (s, draw).
        images: What the choice of the test images does to the level; None where it is not known.
    """

    label: str
    x: dict[str, float]
    law: FittedLaw
    points: pd.Series
    images: ImageSampling | None = None


@dataclass(frozen=True)
class Samples:
    """Fine-tuning images at which a curve reaches an error.

    Attributes:
        curve: The curve.
        target: The error.
        estimate: Images; infinite where the law stays above.
        interval: Of them; infinite where the data do not bound it.
        state: ``reached`` within :data:`REACH` times the sizes measured; ``not reached`` there; ``already reached``
            with fewer images than that.
    """

    curve: SampleCurve
    target: float
    estimate: float
    interval: Interval
    state: Reached


@dataclass(frozen=True)
class Exponent:
    """With which power of x the samples needed fall: s ∝ x^-value.

    Attributes:
        by: ``parameters`` or ``n``.
        value: The exponent, positive where s falls; NaN where a curve has no s.
        interval: Of it; an end is infinite where a curve's s is only bounded.
        curves: Curves it is from.
        bounded: Those of them whose s is only bounded, as they do not reach the error, or do so at the smallest s.
    """

    by: str
    value: float
    interval: Interval
    curves: int
    bounded: int


def sample_curve(
    label: str,
    runs: pd.DataFrame,
    x: dict[str, float],
    level: float = 0.95,
    replicates: Replicates | None = None,
) -> SampleCurve | None:
    """Return the curve of some fine-tunings; None where there are fewer than two sizes, or too few points for a law.

    Args:
        label: What to call it.
        runs: Columns ``s``, ``error`` (above 0), ``draw`` and ``pretrain`` (labels); with ``replicates`` also
            ``run_id`` and ``test_set``.
        x: See :class:`SampleCurve`.
        level: Of intervals.
        replicates: Run → error on bootstrap samples of the test images.
    """
    runs = runs[(runs["error"] > 0) & (runs["error"] <= 1) & (runs["s"] > 0)]
    sizes = runs["s"].nunique()
    points = np.log(runs["error"]).groupby([runs["s"], runs["draw"]]).mean()
    form: Form = TransferLaw() if sizes >= LEAST_SIZES_FOR_FLOOR else PowerLaw()
    if sizes < 2 or len(points) <= len(form.parameters):
        return None
    # the pre-training is to a law over s what a draw is to one over n, and the other way round
    starts = list(runs["pretrain"]) if runs["pretrain"].nunique() > 1 else None
    cells = points_of(form, runs["s"], runs["error"], None, list(runs["draw"]), starts)
    images = of_runs(runs, replicates or {})
    if images is not None:
        cells = replace(cells, image_variance=images.variance)
    return SampleCurve(label, x, fit_cells(form, cells, level=level), points, images)


def samples_needed(curve: SampleCurve, target: float) -> Samples:
    """Return how many fine-tuning images a curve needs for an error, with the interval of the law.

    Args:
        curve: The curve.
        target: Target error, in (0, 1).

    Raises:
        UserError: The target is not in (0, 1).
    """
    needed = curve.law.images_needed(target)
    sizes = curve.law.cells.n
    state: Reached = "reached"
    if needed.estimate > REACH * sizes.max():
        state = "not reached"
    elif needed.estimate < sizes.min() / REACH:
        state = "already reached"
    return Samples(curve, target, needed.estimate, (needed.low, needed.high), state)


def exponent(samples: Sequence[Samples], by: str, level: float = 0.95) -> Exponent | None:
    """Return with which power of x the samples needed fall; None for fewer than two values of x.

    A curve that does not reach the error has an s above the lower end of its interval, and one that reaches it at once
    has one below the upper end: the exponent is then bounded on one side only.

    Args:
        samples: Of the curves, all for one error.
        by: Key of x.
        level: Of the interval.
    """
    x = np.log([item.curve.x[by] for item in samples])
    if len(set(x)) < 2:
        return None
    weight = -(x - x.mean()) / float(np.sum((x - x.mean()) ** 2))  # the sign turned: s falls as x grows
    known = np.array([item.state == "reached" for item in samples])
    logs = np.array([_log_bound(item) for item in samples])
    value = float(weight @ logs) if known.all() else float("nan")
    variance, dof = _variance([item for item, ok in zip(samples, known, strict=True) if ok], weight[known])
    half = float(stdtrit(dof, (1 + level) / 2) * np.sqrt(variance)) if dof > 0 else (0.0 if not known.any() else np.inf)
    low = high = float(weight @ logs)
    low, high = low - half, high + half
    for item, factor in zip(samples, weight, strict=True):
        if item.state == "reached":
            continue
        grows = (item.state == "not reached") == (factor > 0)  # the true value is beyond the bound on this side
        low, high = (low, np.inf) if grows else (-np.inf, high)
    low = low if np.isfinite(low) else -np.inf
    return Exponent(by, value, (low, high), len(samples), int((~known).sum()))


def _log_bound(item: Samples) -> float:
    """Return log s; of a curve that does not reach the error the least it can be, of one that has the most."""
    sizes = item.curve.law.cells.n
    if item.state == "not reached":
        return float(np.log(max(item.interval[0], sizes.max()))) if np.isfinite(item.interval[0]) else np.log(1e12)
    if item.state == "already reached":
        return float(np.log(min(item.interval[1], sizes.min())))
    return float(np.log(item.estimate))


def _variance(samples: Sequence[Samples], weight: Array) -> tuple[float, float]:
    """Return the variance of the weighted sum of log s, and its degrees of freedom (Satterthwaite)."""
    if not samples:
        return 0.0, 0.0
    index = sorted(set().union(*(item.curve.points.index for item in samples)))
    moves = np.zeros((len(samples), len(index)))  # weight times d log s / d log error, by curve and point
    residuals = np.full_like(moves, np.nan)
    parts: list[tuple[float, float]] = []
    levels: list[float] = []  # weight times d log s / d level
    parameters = 0
    for row, (item, factor) in enumerate(zip(samples, weight, strict=True)):
        law = item.curve.law
        sizes = np.array([size for size, _ in item.curve.points.index], float)
        own = [index.index(point) for point in item.curve.points.index]
        gradient, free = _gradient(law, sizes, item.estimate)
        parameters = max(parameters, free)
        moves[row, own] = factor * gradient
        residuals[row, own] = item.curve.points.to_numpy(float) - np.log(law.predict(sizes))
        if law.cells.draw_variance > 0:  # of pre-trainings, which move the whole curve
            parts.append(((factor * gradient.sum()) ** 2 * law.cells.draw_variance, float(law.cells.draw_dof)))
        levels.append(factor * gradient.sum())
    there = ~np.isnan(residuals)
    filled = np.where(there, residuals, 0.0)
    common = there.astype(float) @ there.T
    covariance = filled @ filled.T / np.maximum(common - parameters, 1)
    variance = max(float(np.sum(covariance * (moves @ moves.T))), 0.0)
    parts.append((variance, float(common.max() - parameters)))
    if (of_images := _image_variance([item.curve for item in samples], levels)) > 0:
        parts.append((of_images, np.inf))
    if any(dof <= 0 for _, dof in parts):
        return np.inf, 1.0
    total = sum(part for part, _ in parts)
    dof = total**2 / sum(part**2 / own for part, own in parts) if total > 0 else parts[-1][1]
    return total, float(dof)


def _image_variance(curves: Sequence[SampleCurve], levels: Sequence[float]) -> float:
    """Return the variance of a weighted sum of levels by the choice of the test images, which all share if they can."""
    images = [curve.images for curve in curves]
    known = [(item, level) for item, level in zip(images, levels, strict=True) if item is not None]
    if len(known) == len(curves) and all(paired(known[0][0], item) for item, _ in known):
        moved = np.sum([level * item.shift for item, level in known if item.shift is not None], axis=0)
        own = sum(level**2 * item.own for item, level in known)
        return max(float(moved.var(ddof=1)) - own, 0.0)
    return float(sum(level**2 * item.variance for item, level in known))


def _gradient(law: FittedLaw, sizes: Array, s: float) -> tuple[Array, int]:
    """Return d log s / d log error at each point, for the s at which the law has one error; and the free parameters."""
    params = law.params
    form: Form = law.form
    if params.get("C", 1.0) <= 0:  # at its bound C stays where it is
        form, params = PowerLaw(), {"D": params["D"], "alpha": params["alpha"]}
    ones = np.ones_like(sizes)
    jacobian = form.jacobian(params, sizes, ones)
    at = form.jacobian(params, np.array([s]), np.ones(1))[0]
    scale = np.abs(jacobian).max(axis=0)
    step = 1e-4
    ends = form.predict(params, s * np.exp(np.array([-step, step])), np.ones(2))
    slope = float(np.log(ends[1] / ends[0]) / (2 * step))
    return -(at / scale) @ np.linalg.pinv(jacobian / scale) / slope, len(law.form.parameters)


def common_target(curves: Sequence[SampleCurve]) -> float | None:
    """Return the error that most curves reach within the sizes measured; None where there is no curve.

    Of the errors that equally many reach, the middle one, rounded as far as that changes nothing.
    """
    if not curves:
        return None
    spans = []
    for curve in curves:
        low, high = curve.law.predict([curve.law.cells.n.max(), curve.law.cells.n.min()])
        spans.append((float(low), float(high)))
    grid = np.geomspace(min(low for low, _ in spans), max(high for _, high in spans), 400)
    count = np.sum([(grid >= low) & (grid <= high) for low, high in spans], axis=0)
    best = grid[count == count.max()]
    middle = float(np.sqrt(best[0] * best[-1]))
    rounded = (float(f"{middle:.{digits}g}") for digits in (1, 2, 3))
    return next((value for value in rounded if best[0] <= value <= best[-1]), middle)
