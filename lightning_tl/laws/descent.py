"""Least squares from many starts at once: damped Gauss-Newton steps (Levenberg-Marquardt) inside a box."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lightning_tl.laws.forms import Array

#: Residuals (b, m) at places (b, d) of the starts whose numbers are given, shape (b,).
Residual = Callable[[Array, Any], Array]
#: Step of the differences that slopes are taken from.
_STEP = 3e-7
#: Tolerance under which slopes are taken by central differences.
_EXACT = 1e-10
#: Damping at which a start gives up: no step, however short, lowers its sum of squares.
_STUCK = 1e6


def slopes(residual: Residual, place: Array, which: Any, here: Array, box: tuple[Array, Array], exact: bool) -> Array:
    """Return d residual / d place by differences, shape (b, m, d).

    Args:
        residual: Residuals.
        place: Places, shape (b, d).
        which: Numbers of the starts they belong to.
        here: Residuals there, shape (b, m).
        box: Least and largest place, each of shape (d,).
        exact: Take central differences inside the box: in a long, narrow valley the error of one-sided ones, a
            millionth, moves the minimum.
    """
    columns = []
    for i in range(place.shape[1]):
        step = np.where(place[:, i] + _STEP > box[1][i], -_STEP, _STEP)
        aside, other = place.copy(), place.copy()
        aside[:, i] += step
        column = (residual(aside, which) - here) / step[:, None]
        if exact:
            inside = (place[:, i] - _STEP > box[0][i]) & (place[:, i] + _STEP < box[1][i])
            other[:, i] -= np.where(inside, step, 0.0)
            back = (here - residual(other, which)) / step[:, None]
            column = np.where(inside[:, None], (column + back) / 2, column)
        columns.append(column)
    return np.stack(columns, axis=2)


def descend(
    residual: Residual,
    place: Array,
    low: Array,
    high: Array,
    reach: Callable[[Array], tuple[Array, Array]],
    steps: int = 60,
    tolerance: float = 1e-13,
) -> tuple[Array, Array]:
    """Follow each start down to a minimum of its sum of squares.

    Args:
        residual: Residuals, a function of places and of the numbers of the starts they belong to.
        place: Starts, shape (b, d).
        low: Least place, shape (d,).
        high: Largest place, shape (d,).
        reach: The box that one step may not leave, as a function of places (b, d): a long step ends in another valley.
        steps: Most steps.
        tolerance: A start has settled where a step is expected to lower its sum of squares by less than this share.

    Returns:
        Places (b, d) and their sums of squares (b,).
    """
    place, count = place.copy(), place.shape[1]
    active = np.arange(len(place))
    here = residual(place, active)
    rss = np.einsum("bm,bm->b", here, here)
    if not count:
        return place, rss
    damping = np.full(len(place), 1e-8)
    diagonal = np.arange(count)
    for _ in range(steps):
        at, rest = place[active], here[active]
        jacobian = slopes(residual, at, active, rest, (low, high), tolerance < _EXACT)
        gradient = np.einsum("bmi,bm->bi", jacobian, rest)
        square = np.einsum("bmi,bmj->bij", jacobian, jacobian)
        square[:, diagonal, diagonal] *= 1 + damping[active, None]
        square[:, diagonal, diagonal] += np.where(square[:, diagonal, diagonal] > 0, 0.0, 1.0)
        nearest, furthest = np.maximum(low, reach(at)[0]), np.minimum(high, reach(at)[1])
        trial, promised = _inside(at, gradient, square, nearest, furthest)
        there = residual(trial, active)
        after = np.einsum("bm,bm->b", there, there)
        better = after < rss[active]
        # A step that is damped much promises little wherever it starts.
        free = (promised >= 0) & (damping[active] <= 1)
        settled = (free & (promised <= tolerance * rss[active])) | (damping[active] > _STUCK)
        # As much as was promised: less damping; much less, as in a valley that is more bent than the model knows: more.
        kept = (rss[active] - after) / np.maximum(promised, 1e-300)
        more = np.where(better, 4.0, 10.0) * np.maximum(damping[active], 1e-6)
        damping[active] = np.where(kept > 0.75, damping[active] / 10, np.where(kept < 0.25, more, damping[active]))
        moved = active[better]
        place[moved], here[moved], rss[moved] = trial[better], there[better], after[better]
        active = active[~settled]
        if not len(active):
            break
    return place, rss


def _inside(at: Array, gradient: Array, square: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """Return the places that one step leads to, and by how much the quadratic model says that it lowers the RSS.

    Coordinates that the step takes out of the box stop at its bound, one after the other, and the rest are solved anew.
    """
    step = _solved(square, gradient)
    stopped, rows = np.zeros(at.shape, bool), np.arange(len(at))
    for _ in range(at.shape[1]):
        trial = at - step
        beyond = np.where(stopped, 0.0, np.abs(trial - np.clip(trial, low, high)))
        part = np.divide(beyond, np.abs(step), out=np.zeros_like(step), where=beyond > 0)
        if not part.any():
            break
        first = np.argmax(part, axis=1)  # the bound that the step meets first
        stopped[rows, first] |= part[rows, first] > 0
        at_bound = np.where(stopped, at - np.clip(trial, low, high), 0.0)
        rest = np.where(stopped, at_bound, gradient - np.einsum("bij,bj->bi", square, at_bound))
        reduced = np.where(stopped[:, :, None] | stopped[:, None, :], 0.0, square)
        reduced[:, np.arange(at.shape[1]), np.arange(at.shape[1])] += stopped
        step = _solved(reduced, rest)
    trial = np.clip(at - step, low, high)
    step = at - trial
    promised = np.einsum("bi,bi->b", step, 2 * gradient - np.einsum("bij,bj->bi", square, step))
    return trial, promised


def _solved(square: Array, gradient: Array) -> Array:
    """Solve small symmetric systems (b, d, d); a singular one moves along its gradient."""
    try:
        return np.linalg.solve(square, gradient[..., None])[..., 0].astype(float)
    except np.linalg.LinAlgError:
        ridge = 1e-9 * np.einsum("bii->bi", square)[..., None] * np.eye(square.shape[1])
        singular = np.linalg.det(square) == 0
        square = np.where(singular[:, None, None], square + ridge, square)
        return np.linalg.solve(square, gradient[..., None])[..., 0].astype(float)
