"""The coefficient D (delta in the full law): free, a number, held as in the paper, shared by groups, or partly pooled.

D and alpha trade off within one curve, so what several curves say of D together sharpens each one's alpha and C:

* ``free``: each group its own (the default).
* a number: held at that value.
* ``auto``: one value for all, by the alternation of Mikami et al., App. D: medians of D and of alpha over the groups.
* ``median``: one value for all, the median of the groups' own. That alternation ends there if each group's D is fitted
  at its own alpha instead of at the median; it predicts better than ``auto``.
* ``shared``: one value for all, by one least-squares fit to all groups; its uncertainty stays in every interval.
* ``pooled``: each group its own, drawn towards a common one as far as that predicts the held-out largest sizes best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from lightning_tl.errors import UserError
from lightning_tl.laws.clusters import Cells
from lightning_tl.laws.fitted_law import FittedLaw
from lightning_tl.laws.fitting import fit_cells, fit_many
from lightning_tl.laws.forms import Array, Form, Loss, ResidualSpace
from lightning_tl.laws.least_squares import FIXED, Prior, Problem
from lightning_tl.laws.parameter_space import Space, lowest

CoefficientMode = Literal["free", "auto", "median", "shared", "pooled"]
MODES: tuple[CoefficientMode, ...] = get_args(CoefficientMode)
#: Least and largest coefficient that groups can have in common.
_COEFFICIENT_RANGE = (1e-3, 1e5)
#: Spreads of log D between groups that ``pooled`` chooses from: none (shared) to any (free).
SPREADS = (0.0, 0.1, 0.2, 0.4, 0.8, np.inf)


@dataclass(frozen=True)
class Settings:
    """How groups are fitted.

    Attributes:
        space: ``"log"`` or ``"linear"``.
        loss: ``"squares"`` or ``"huber"``.
        level: Confidence level of intervals.
    """

    space: ResidualSpace = "log"
    loss: Loss = "squares"
    level: float = 0.95


def fit_together(
    form: Form, groups: Sequence[Cells], coefficient: CoefficientMode | float = "free", settings: Settings | None = None
) -> list[FittedLaw]:
    """Fit the same form to several groups, its coefficient treated as asked.

    Args:
        form: The law; its first parameter is the coefficient.
        groups: The independent points of each group.
        coefficient: A value, or one of :data:`MODES`.
        settings: Space, loss and level.

    Returns:
        A fitted law for each group.

    Raises:
        UserError: No such mode, a value that is not over 0, or a mode that linear space does not offer.
    """
    settings = settings or Settings()
    name = form.parameters[0]
    check_coefficient(form, coefficient, settings.space)
    if isinstance(coefficient, (int, float)):
        return _with_coefficient(form, groups, float(coefficient), settings)
    if coefficient == "free" or (coefficient != "auto" and len(groups) < 2):
        return fit_many(form, groups, **vars(settings))
    if coefficient == "auto":
        value = alternate(form, groups, settings.space)[0]
        return _with_coefficient(form, groups, value, settings)
    if coefficient == "median":
        own = [law.params[name] for law in fit_many(form, groups, **vars(settings))]
        value = float(np.exp(np.median(np.log(np.clip(own, *_COEFFICIENT_RANGE)))))
        return _with_coefficient(form, groups, value, settings)
    spread = 0.0 if coefficient == "shared" else choose_spread(form, groups, settings)
    return _pooled(form, groups, spread, settings, _curves(form, groups))


def check_coefficient(form: Form, coefficient: CoefficientMode | float, space: ResidualSpace) -> None:
    """Refuse a treatment of the coefficient that the form or the space does not offer.

    Raises:
        UserError: No such mode, a value that is not over 0, or a mode that linear space does not offer.
    """
    name = form.parameters[0]
    if isinstance(coefficient, (int, float)):
        if not np.isfinite(coefficient) or coefficient <= 0:
            raise UserError(f"{name} is fixed at {coefficient:g}; it must be over 0")
    elif coefficient not in MODES:
        raise UserError(f"'{coefficient}' is no way to treat {name}; give a number or one of {', '.join(MODES)}")
    elif space == "linear" and coefficient in ("shared", "pooled"):
        raise UserError(f"{name} {coefficient} needs --space log; in linear space it is free, auto, median or a number")


def _with_coefficient(form: Form, groups: Sequence[Cells], value: float, settings: Settings) -> list[FittedLaw]:
    return fit_many(form, groups, priors=[(Prior(form.parameters[0], value),)] * len(groups), **vars(settings))


# ---- the paper's alternation -----------------------------------------------------------------------------------------


def alternate(
    form: Form, groups: Sequence[Cells], space: ResidualSpace = "log", start: float = 0.5
) -> tuple[float, float]:
    """Return the common coefficient and alpha by the alternation of Mikami et al., App. D.

    From D = 0.5: with D held, fit each group's alpha, and take the median over all groups; with alpha held at that for
    all of them, fit each group's D, and take the median; until it settles. What is returned is the limit; rounds that
    end earlier would leave the result nearer to its start. Medians are of logs, which matters where groups are even in
    number: then it is the geometric mean of the middle two.

    Args:
        form: The law; it needs alpha as a nonlinear parameter (the transfer law and the full law).
        groups: The points of each group.
        space: ``"log"`` or ``"linear"``.
        start: First value.

    Returns:
        The medians of D and of alpha.

    Raises:
        UserError: The form has nothing to alternate with.
    """
    if "alpha" not in form.outer:
        raise UserError(f"{form.formula} has no alpha to alternate with; fit {form.parameters[0]} free")
    free = fit_many(form, groups, space=space)
    # Along the valley of alpha and D a round moves little, so there are thousands of them: both halves are tabulated,
    # over everything first, then again around where the rounds have led.
    ends = [float(np.log(end)) for end in form.outer["alpha"]]
    logs, ats = (
        np.linspace(np.log(_COEFFICIENT_RANGE[0]), np.log(_COEFFICIENT_RANGE[1]), 121),
        np.linspace(ends[0], ends[1], 121),
    )
    log, median = _settled(free, float(np.log(start)), logs, ats)
    for width in (0.2, 0.02):
        for _ in range(20):  # until the rounds end inside the table
            centre = log
            logs = np.linspace(centre - width, centre + width, 9)
            ats = np.linspace(max(median - width, ends[0]), min(median + width, ends[1]), 9)
            log, median = _settled(free, centre, logs, ats)
            if abs(log - centre) < 0.9 * width:
                break
    return float(np.exp(log)), float(np.exp(median))


def _settled(free: Sequence[FittedLaw], log: float, logs: Array, ats: Array) -> tuple[float, float]:
    """Return log D and log alpha where the rounds from log D end, from tables over ``logs`` and log alphas ``ats``.

    With a larger D held every alpha is larger, and with a larger alpha every D: so the rounds move in one direction, to
    the first D that a round leaves as it is.
    """
    from scipy.interpolate import PchipInterpolator

    fine = np.linspace(logs[0], logs[-1], 4001)
    log_alphas = np.array([PchipInterpolator(logs, np.log(held_profile(law, logs)[1]))(fine) for law in free])
    median = np.clip(np.median(log_alphas, axis=0), ats[0], ats[-1])
    coefficients = [PchipInterpolator(ats, _coefficient_by_alpha(law, np.exp(ats)))(median) for law in free]
    moved = np.clip(np.median(coefficients, axis=0), *np.log(_COEFFICIENT_RANGE)) - fine
    start = int(np.clip(np.searchsorted(fine, log), 0, len(fine) - 1))
    upwards = moved[start] > 0
    way = np.arange(start, len(fine)) if upwards else np.arange(start, -1, -1)
    turned = np.flatnonzero((moved[way] > 0) != upwards)
    if len(turned) and turned[0]:
        before, after = way[turned[0] - 1], way[turned[0]]
        part = moved[before] / (moved[before] - moved[after])
        log = float(fine[before] + part * (fine[after] - fine[before]))
    elif not len(turned):
        log = float(fine[way[-1]])
    return log, float(np.interp(log, fine, median))


def _coefficient_by_alpha(law: FittedLaw, alphas: Array) -> Array:
    """Return the log coefficient of the best fit with alpha held at each of ``alphas``, shape (a,)."""
    search, form = law.search, law.search.problem.form
    if len(search.box) == 1:
        outer = alphas[:, None]
        plateau = search.profiled(outer)[0]
    else:  # the other outer parameters follow: from those of every minimum, and of its neighbours over a grid
        starts = np.concatenate([search.minima, search.starts(search.grid(5))])
        place = np.repeat(starts, len(alphas), axis=0)
        place[:, 0] = np.tile(alphas, len(starts))
        place, rss = search.down(place, steps=60, held=1)
        best = np.argmin(rss.reshape(len(starts), -1), axis=0)
        outer, plateau = search.unplaced(place.reshape(len(starts), len(alphas), -1)[best, np.arange(len(alphas))])
    linear = search.problem.residual(outer, plateau)[1]
    offset, coefficients = form.quantity(form.parameters[0], search.problem.sizes)(outer, plateau)
    return np.maximum(offset + linear @ coefficients, np.log(1e-9))


def held_profile(law: FittedLaw, logs: Array) -> tuple[Array, Array]:
    """Return the RSS and alpha of the best fit with the log coefficient held at each of ``logs``, shapes (j,).

    Args:
        law: A fitted law whose coefficient is free; what else it holds stays.
        logs: Log coefficients, ascending.
    """
    problem, name = law.search.problem, law.form.parameters[0]
    held = Problem(law.form, problem.points, law.space, (Prior(name, 1.0), *law.priors))
    values = [np.log(p.value) if p.name in law.form.scales else p.value for p in law.priors]
    goal = held.aims(held.target)
    aims = np.array([[*goal, log, *values] for log in logs])
    place = lowest(Space(held), aims)
    outer, plateau = Space(held).unplaced(place)
    return np.sum(held.residual(outer, plateau, aims)[0] ** 2, axis=-1), outer[:, 0]


def profile_coefficient(law: FittedLaw, alphas: Array, logs: Array) -> Array:
    """Return the RSS with alpha and the log coefficient held, all else at its best, shape (logs, alphas).

    Args:
        law: A fitted law whose only outer parameter is alpha.
        alphas: Values of alpha, shape (a,).
        logs: Values of log D, shape (d,).
    """
    name, problem = law.form.parameters[0], law.search.problem
    held = [Problem(law.form, problem.points, law.space, (Prior(name, float(np.exp(log))),)) for log in logs]
    return np.array([Space(problem).profiled(alphas[:, None])[1] for problem in held])


# ---- shared and partially pooled -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Curves:
    """Each group's RSS as a function of the log coefficient, and the noise they have together.

    Attributes:
        free: Each group's fit with a coefficient of its own.
        logs: Log coefficients, shape (j,).
        rss: RSS, shape (groups, j).
        variance: Residual variance over all groups, each with a coefficient of its own.
        dof: Its degrees of freedom.
    """

    free: list[FittedLaw]
    logs: Array
    rss: Array
    variance: float
    dof: int


def _curves(form: Form, groups: Sequence[Cells]) -> _Curves:
    """Tabulate each group's RSS around where their sum is least."""
    from scipy.interpolate import PchipInterpolator

    if "alpha" not in form.outer:
        raise UserError(f"{form.formula} shares no coefficient; use free or a number")
    free = fit_many(form, groups)
    if "beta" in form.log_linear:
        priors = _common_beta(free)
        free = fit_many(form, groups, priors=[(prior,) for prior in priors])
    dof = sum(max(law.dof, 0) for law in free)
    variance = max(sum(law.search.rss for law in free) / max(dof, 1), 1e-12)
    guesses = [np.log(law.params[form.parameters[0]]) for law in free]
    low, high = np.clip([min(guesses) - 3, max(guesses) + 3], np.log(1e-6), np.log(1e9))
    for _ in range(3):
        logs = np.linspace(low, high, 41)
        rss = np.array([held_profile(law, logs)[0] for law in free])
        total = rss.sum(axis=0)
        inside = np.flatnonzero(total <= total.min() + 25 * variance)
        if len(inside) > 12:
            break
        low, high = logs[max(inside[0] - 1, 0)], logs[min(inside[-1] + 1, len(logs) - 1)]
    fine = np.linspace(logs[0], logs[-1], 2001)
    return _Curves(free, fine, np.array([PchipInterpolator(logs, row)(fine) for row in rss]), variance, dof)


def _common_beta(free: Sequence[FittedLaw]) -> list[Prior]:
    """Return what all groups say of beta, which log error is linear in: a mean weighted by precision."""
    precision = np.array([1 / law.stderr["beta"] ** 2 if law.stderr["beta"] > 0 else 0.0 for law in free])
    if not precision.sum() > 0:
        return [Prior("beta", float(np.median([law.params["beta"] for law in free]))) for _ in free]
    common = float(precision @ [law.params["beta"] for law in free] / precision.sum())
    others = precision.sum() - precision
    return [
        Prior("beta", common, min(max(w * law.noise**2, 1e-3), FIXED / 2)) for w, law in zip(others, free, strict=True)
    ]


def _pooled(
    form: Form, groups: Sequence[Cells], spread: float, settings: Settings, curves: _Curves | None
) -> list[FittedLaw]:
    """Fit every group with its log coefficient spread around a common one (0: equal, infinite: free)."""
    if curves is None or np.isinf(spread):
        return fit_many(form, groups, **vars(settings))
    name, logs = form.parameters[0], curves.logs
    if spread == 0:
        return _equal(groups, curves, name, settings)
    weight, grid = curves.variance / spread**2, logs[::20]
    away = weight * (logs[None] - grid[:, None]) ** 2
    penalised = np.sum([np.min(row[None] + away, axis=1) for row in curves.rss], axis=0)
    prior = Prior(name, float(np.exp(grid[int(np.argmin(penalised))])), min(weight, FIXED / 2))
    return fit_many(form, groups, priors=[(prior, *law.priors) for law in curves.free], **vars(settings))


def _equal(groups: Sequence[Cells], curves: _Curves, name: str, settings: Settings) -> list[FittedLaw]:
    """Fit every group with the coefficient that is best for all together.

    What the others say of it enters each group's fit as a parabola in its log: their curvature over the range that the
    data leave, and a centre that makes the group's own fit lie at the joint optimum. Where a group's own curve has
    another valley that the parabola does not rule out though the others do, the parabola is made steeper.
    """
    total = curves.rss.sum(axis=0)
    best, tiny = float(curves.logs[int(np.argmin(total))]), 0.01
    for _ in range(3):  # Newton steps on the exact sums of squares
        near = np.array([held_profile(law, best + tiny * np.array([-1.0, 0.0, 1.0]))[0] for law in curves.free])
        slope, bend = (near[:, 2] - near[:, 0]) / (2 * tiny), (near[:, 2] + near[:, 0] - 2 * near[:, 1]) / tiny**2
        if bend.sum() > 0:
            best += float(np.clip(-slope.sum() / bend.sum(), -0.05, 0.05))
    # One parameter is common: all groups but one have a degree of freedom more.
    dof = curves.dof + len(groups) - 1
    pooled = (float(max(near[:, 1].sum() / max(dof, 1), 1e-12)), dof)
    inside = total <= total.min() + 9 * curves.variance
    laws = []
    for points, free, own, pull in zip(groups, curves.free, curves.rss, slope, strict=True):
        others = (total - own)[inside]
        weight = float(np.polyfit(curves.logs[inside] - best, others, 2)[0]) if inside.sum() > 5 else FIXED
        weight = float(np.clip(weight, 1e-3 * pooled[0], FIXED / 2))
        for _ in range(20):
            centre = float(np.exp(best + np.clip(pull / (2 * weight), -20, 20)))
            priors = (Prior(name, centre, weight), *free.priors)
            law = fit_cells(free.form, points, priors=priors, pooled=pooled, **vars(settings))
            if abs(np.log(law.params[name]) - best) < 0.01 or weight >= FIXED / 2:
                break
            weight = min(4 * weight, FIXED / 2)
        laws.append(law)
    return laws


def choose_spread(form: Form, groups: Sequence[Cells], settings: Settings) -> float:
    """Return the spread of log D under which the smaller sizes predict the held-out largest ones best."""
    errors = held_out(form, groups, SPREADS, settings)
    return float(min(errors, key=lambda spread: errors[spread]))


def held_out(form: Form, groups: Sequence[Cells], spreads: Sequence[float], settings: Settings) -> dict[float, float]:
    """Return the root mean square log error of predictions of each group's largest size, by spread.

    Groups whose smaller sizes are too few for the form are left out.
    """
    before, after = [], []
    for points in groups:
        rest = points.n < points.n.max()
        if rest.sum() > len(form.parameters) and len(np.unique(points.n[rest])) > 2:
            before.append(points.where(rest))
            after.append(points.where(~rest))
    if len(before) < 2:
        return {np.inf: np.nan}
    curves, result = _curves(form, before), {}
    for spread in spreads:
        laws = _pooled(form, before, spread, settings, curves)
        missed = [
            points.log_error - np.log(law.predict(points.n, points.s)) for law, points in zip(laws, after, strict=True)
        ]
        result[spread] = float(np.sqrt(np.mean(np.concatenate(missed) ** 2)))
    return result
