"""Fit a law to errors at several sizes; the fitted law answers with intervals."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
from numpy.typing import ArrayLike

from lightning_tl.errors import UserError, nearest
from lightning_tl.laws.clusters import Cells, cells, shared_variance
from lightning_tl.laws.fitted_law import FittedLaw
from lightning_tl.laws.forms import Array, Form, Loss, Measured, ResidualSpace, TransferLaw
from lightning_tl.laws.least_squares import Prior

#: Residuals over this many robust standard deviations lose weight (Huber's constant: 95 % efficiency if normal).
_HUBER = 1.345
#: Sizes outside are taken for mistakes; powers of their ratios would leave floating point.
LEAST_SIZE, MOST_SIZE = 1e-6, 1e15
LEAST_ERROR = 1e-9
#: Of a loss. A model that guesses at random has log(vocabulary), about 12 nats; more is a mistake or a sum.
MOST_LOSS = 1e6


def fit(
    form: Form | None = None,
    *,
    n: ArrayLike,
    error: ArrayLike,
    s: ArrayLike | None = None,
    pretrain: Collection[Any] | None = None,
    draw: Collection[Any] | None = None,
    weights: ArrayLike | None = None,
    fixed: Mapping[str, float] | None = None,
    space: ResidualSpace = "log",
    loss: Loss = "squares",
    level: float = 0.95,
    measured: Measured = "error",
) -> FittedLaw:
    """Fit a law to test errors or losses, by default by least squares in log-log space.

    As Mikami et al. do, arXiv 2108.11018, §4.1.

    Args:
        form: The law, default :class:`TransferLaw`.
        n: Pre-training sizes in images or tokens, each over 0, shape (runs,).
        error: Test errors (1 - score) in (0, 1], or losses over 0, shape (runs,).
        s: Fine-tuning sizes in images, shape (runs,), for :class:`FullLaw`; parameters of the model for
            :class:`ChinchillaLaw`.
        pretrain: Labels of pre-training runs (a seed), shape (runs,): runs of one size and label share one.
        draw: Labels of the draws of fine-tuning data, shape (runs,): one label at several sizes is one draw.
        weights: Weights of the squared residuals, shape (runs,), each over 0.
        fixed: Parameters held at a value, for instance ``{"D": 0.48}``.
        space: ``"log"``: residuals of log error; ``"linear"``: of error.
        loss: ``"squares"``, or ``"huber"`` where single runs went wrong: residuals over 1.345 robust standard
            deviations lose weight. Intervals then take the weights as given.
        level: Confidence level of intervals.
        measured: ``"error"``, at most 1, or ``"loss"``, of any size; a :class:`ChinchillaLaw` is always of losses.

    Returns:
        The fitted law: ``.params``, ``.stderr``, ``.interval(name)``, ``.predict(n)``, ``.predict_interval(n)``,
        ``.images_needed(target)``.

    Raises:
        UserError: Sizes or errors are out of range, of different lengths, or too few for the form; an unknown option.
    """
    form = form or TransferLaw()
    options = (("space", space, ResidualSpace), ("loss", loss, Loss), ("measured", measured, Measured))
    for name, value, kind in options:
        valid = get_args(kind)
        if value not in valid:
            raise UserError(f"{name} is '{value}'{nearest(value, valid)}")
    points = points_of(form, n, error, s, pretrain, draw, weights, measured=measured)
    return fit_cells(form, points, priors=_fixing_priors(form, fixed or {}, space), space=space, loss=loss, level=level)


def fit_cells(
    form: Form,
    points: Cells,
    *,
    priors: tuple[Prior, ...] = (),
    space: ResidualSpace = "log",
    loss: Loss = "squares",
    level: float = 0.95,
    pooled: tuple[float, int] | None = None,
) -> FittedLaw:
    """Fit a law to points that are already independent; see :func:`fit`."""
    return fit_many(form, [points], priors=[priors], space=space, loss=loss, level=level, pooled=pooled)[0]


def fit_many(
    form: Form,
    groups: Sequence[Cells],
    *,
    priors: Sequence[tuple[Prior, ...]] | None = None,
    space: ResidualSpace = "log",
    loss: Loss = "squares",
    level: float = 0.95,
    pooled: tuple[float, int] | None = None,
) -> list[FittedLaw]:
    """Fit a law to each of many groups at once: the same as one by one, for less; see :func:`fit`.

    Args:
        form: The law.
        groups: The independent points of each group.
        priors: What is known of parameters, for each group.
        space: See :func:`fit`.
        loss: See :func:`fit`.
        level: See :func:`fit`.
        pooled: Residual variance and degrees of freedom taken from several groups.
    """
    known = priors or [()] * len(groups)

    def fits(which: Sequence[int], points: Sequence[Cells], shared: Sequence[float]) -> list[FittedLaw]:
        return FittedLaw.many(form, points, level, space, [known[i] for i in which], shared, pooled)

    laws = fits(range(len(groups)), groups, [0.0] * len(groups))
    if form.uses_s:
        shared = [shared_variance(law.residuals, law.cells.cluster, parameters=3) for law in laws]
        again = [i for i, variance in enumerate(shared) if variance > 0]
        for i, law in zip(again, fits(again, [groups[i] for i in again], [shared[i] for i in again]), strict=True):
            laws[i] = law
    again = list(range(len(groups)))
    for _ in range(20 if loss == "huber" else 0):
        weights = [_huber_weights(laws[i], groups[i], space) for i in again]
        points = [replace(groups[i], weight=weight) for i, weight in zip(again, weights, strict=True)]
        before = [laws[i].cells.weight for i in again]
        for i, law in zip(again, fits(again, points, [laws[i].shared for i in again]), strict=True):
            laws[i] = law
        moved = [not np.allclose(new, old, rtol=1e-3) for new, old in zip(weights, before, strict=True)]
        again = [i for i, on in zip(again, moved, strict=True) if on]
    return laws


def _huber_weights(law: FittedLaw, points: Cells, space: ResidualSpace) -> Array:
    residual = law.residuals * (np.exp(points.log_error) if space == "linear" else 1.0)
    scale = max(1.4826 * float(np.median(np.abs(residual))), 1e-9)
    return points.weight * np.minimum(1.0, _HUBER * scale / np.maximum(np.abs(residual), 1e-300))


def _fixing_priors(form: Form, fixed: Mapping[str, float], space: ResidualSpace) -> tuple[Prior, ...]:
    for name, value in fixed.items():
        if name not in form.parameters:
            raise UserError(f"no parameter '{name}' to fix in {form.formula}{nearest(name, form.parameters)}")
        if name != form.parameters[0] and (space == "linear" or name not in form.log_linear):
            raise UserError(f"only {form.parameters[0]} can be fixed in {form.formula} in {space} space, not {name}")
        if not np.isfinite(value) or (value <= 0 and name in form.scales):
            raise UserError(f"{name} is fixed at {value:g}; it must be over 0")
    return tuple(Prior(name, float(value)) for name, value in fixed.items())


def points_of(
    form: Form,
    n: ArrayLike,
    error: ArrayLike,
    s: ArrayLike | None = None,
    pretrain: Collection[Any] | None = None,
    draw: Collection[Any] | None = None,
    weights: ArrayLike | None = None,
    own_image_variance: Array | None = None,
    measured: Measured = "error",
) -> Cells:
    """Check the runs and average them into independent points; see :func:`fit`."""
    of_losses, second = measured == "loss" or form.of_losses, form.second_size
    sizes, errors = _numbers(n, "n"), _numbers(error, "error")
    others = None if s is None else _numbers(s, "s")
    weight = None if weights is None else _numbers(weights, "weights")
    columns = [("error", errors), ("s", others), ("weights", weight), ("pretrain", pretrain), ("draw", draw)]
    for name, values in columns:
        if values is not None and len(values) != len(sizes):
            raise UserError(f"{name} has {len(values)} values and n has {len(sizes)}; give one per run")
    if not len(sizes):
        raise UserError("no runs to fit")
    low, high = LEAST_SIZE, MOST_SIZE
    for name, values in (("pre-training size n", sizes), (f"{second} s", others)):
        if values is None:
            continue
        wrong = ~((values >= low) & (values <= high))
        if wrong.any():
            bad = values[wrong][0]
            zero = " (n = 0 is the scratch baseline, and no part of a law)" if bad == 0 and values is sizes else ""
            raise UserError(f"{name} = {bad:g} is not in [{low:g}, {high:g}]{zero}")
    if (wrong := ~((errors >= LEAST_ERROR) & (errors <= (MOST_LOSS if of_losses else 1)))).any():
        bad = f"{errors[wrong][0]:g}"
        if of_losses:
            raise UserError(f"loss {bad} is not in [{LEAST_ERROR:g}, {MOST_LOSS:g}]; give losses over 0")
        raise UserError(f"error {bad} is not in (0, 1]; give 1 - score as a fraction (of losses, measured='loss')")
    if weight is not None and not np.all(np.isfinite(weight) & (weight > 0)):
        raise UserError("weights must be over 0; leave a run out instead of giving it no weight")
    if form.uses_s and others is None:
        raise UserError(f"{form.formula} needs the {second}s: fit(..., s=[...])")
    points = cells(sizes, np.log(errors), others if form.uses_s else None, pretrain, draw, weight, own_image_variance)
    points = replace(points, measured="loss" if of_losses else "error")
    if form.second_size == "model size":  # each model is pre-trained by itself
        points = replace(points, cluster=np.arange(len(points.n), dtype=float))
    if len(np.unique(points.n)) < 2:
        raise UserError(f"all runs have n = {sizes[0]:g}; a law needs several sizes")
    if form.uses_s and len(np.unique(points.s)) < 2:
        raise UserError(f"all runs have s = {points.s[0]:g}; {form.formula} needs several {second}s")
    if len(points.n) < len(form.parameters):
        kind = "independent points" if len(points.n) < len(sizes) else "points"
        raise UserError(f"{len(points.n)} {kind} for the {len(form.parameters)} parameters of {form.formula}")
    return points


def _numbers(values: ArrayLike, name: str) -> Array:
    try:
        return np.asarray(values, dtype=float).ravel()
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} must be numbers: {' '.join(str(error).split())}") from error
