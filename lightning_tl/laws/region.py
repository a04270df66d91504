"""Best fit and confidence region of a law, by profiling on a grid that zooms in: no start values, no local minima.

In log space a law is ``y = shape(outer, plateau) + columns @ linear`` (see :mod:`lightning_tl.laws.forms`). The linear
part is solved exactly, the plateau is profiled for each outer point, and the outer parameters (alpha) lie on a grid
that zooms into the region where the residual sum of squares stays under a threshold. Intervals of anything,
parameters and predictions alike, are the extremes over that region, so they need neither symmetry nor a curvature at
the optimum.

With m points, p parameters and residual variance s2 = RSS / (m - p), the threshold is RSS + s2 F(1, m - p): the
classical interval for a linear model and holds its level for few points; a chi-square threshold does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.special import stdtrit

from lightning_tl.laws.forms import Array, Form, Functional, Sizes

#: Plateau grid: dense at both ends, where the law is a pure power law (0) and flat (1).
_PLATEAUS = np.concatenate(
    [[0.0], np.geomspace(1e-4, 0.03, 12), np.linspace(0.06, 0.94, 30), 1 - np.geomspace(0.03, 1e-6, 14), [1.0]]
)
#: Outer grid points by number of outer parameters.
_GRID = {0: 1, 1: 97, 2: 33, 3: 15}
#: Noise in log error under this is taken for rounding: no measured error rate is known to one part in a million.
_NOISE_FLOOR = 1e-6


@dataclass(frozen=True)
class Points:
    """What a law is fitted to: sizes, log errors and weights, one for each independent point."""

    sizes: Sizes
    log_error: Array
    weight: Array


@dataclass(frozen=True)
class Region:
    """Grid points inside a confidence region.

    Attributes:
        outer: Outer parameters, shape (g, k).
        plateau: Plateau, shape (g,).
        linear: Solved linear parameters, shape (g, q).
        rss: Residual sum of squares, shape (g,).
        covariance: Unscaled covariance of the linear parameters, shape (q, q).
        threshold: Largest RSS inside.
    """

    outer: Array
    plateau: Array
    linear: Array
    rss: Array
    covariance: Array
    threshold: float

    def extent(self, functional: Functional, extra: float = 0.0) -> tuple[float, float]:
        """Return the smallest and largest value of a functional over the region.

        For a fixed grid point the RSS is quadratic in the linear part, so what is left under the threshold is a known
        half-width around the solved value; the extremes over the grid are then the profile-likelihood limits.

        Args:
            functional: Offset at each grid point, and coefficients of the linear parameters.
            extra: Variance of a new observation in units of the residual variance; 0 for the law itself.
        """
        offset, coefficients = functional
        centre = offset + self.linear @ coefficients
        spread = coefficients @ self.covariance @ coefficients + extra
        half = np.sqrt(np.maximum(self.threshold - self.rss, 0) * spread)
        return float(np.min(centre - half)), float(np.max(centre + half))

    def least_rss(self, functional: Functional, value: float) -> float:
        """Return the least RSS with the functional at ``value`` or beyond it, seen from the best fit.

        "Or beyond" makes it monotone in the value also where a profile has two valleys; inf is out of reach.
        """
        offset, coefficients = functional
        miss = value - (offset + self.linear @ coefficients)
        away = miss * np.sign(miss[np.argmin(self.rss)])
        spread = coefficients @ self.covariance @ coefficients
        with np.errstate(divide="ignore", invalid="ignore"):
            rise = np.where(away <= 0, 0.0, away**2 / spread)
        return float(np.min(self.rss + rise))


class Profile:
    """A form's sum of squares over its grid, for one set of points."""

    def __init__(self, form: Form, points: Points) -> None:
        self.form, self.points = form, points
        root = np.sqrt(points.weight)
        self._root = root
        self._columns = form.columns(points.sizes) * root[:, None]
        self.covariance: Array = np.linalg.pinv(self._columns.T @ self._columns).astype(float)
        self._solve = self.covariance @ self._columns.T
        lower, upper = (np.log([limits[i] for limits in form.outer.values()]) for i in (0, 1))
        self._box = np.stack([lower, upper], axis=1)
        self.best_outer, self.best_plateau = self._minimise()
        self._polish()
        linear, rss = self.solve(self.best_outer[None], self.best_plateau[None])
        self.best_linear, self.best_rss = linear[0], float(rss[0])

    def solve(self, outer: Array, plateau: Array) -> tuple[Array, Array]:
        """Return the linear parameters (..., q) and the RSS (...) at grid points outer (..., k), plateau (...)."""
        residual = (self.points.log_error - self.form.shape(outer, plateau, self.points.sizes)) * self._root
        linear = residual @ self._solve.T
        return linear, np.sum((residual - linear @ self._columns.T) ** 2, axis=-1)

    def _rss(self, outer: Array, plateau: Array) -> Array:
        return self.solve(np.broadcast_to(outer[:, None, :], (*plateau.shape, outer.shape[1])), plateau)[1]

    def _plateau(self, outer: Array) -> tuple[Array, Array]:
        """Return the best plateau and its RSS for each outer point, shapes (p,)."""
        count = len(outer)
        if not self.form.has_plateau:
            plateau = np.zeros(count)
            return plateau, self.solve(outer, plateau)[1]
        grid = np.broadcast_to(_PLATEAUS, (count, len(_PLATEAUS)))
        rows = np.arange(count)
        for zoom in range(6):
            rss = self._rss(outer, grid)
            best = np.argmin(rss, axis=1)
            if zoom == 5:
                break
            low = grid[rows, np.maximum(best - 1, 0)]
            high = grid[rows, np.minimum(best + 1, grid.shape[1] - 1)]
            grid = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, 13)
        return grid[rows, best], rss[rows, best]

    def _lattice(self, box: Array) -> Array:
        if not len(box):
            return np.empty((1, 0))
        count = _GRID[len(box)]
        axes = [np.exp(np.linspace(low, high, count)) for low, high in box]
        return np.array(list(product(*axes))).reshape(-1, len(box))

    def _zoomed(self, box: Array, inside: Array) -> Array:
        """Return the bounding box of the outer points ``inside``, a grid step wider, within the bounds."""
        step = (box[:, 1] - box[:, 0]) / max(_GRID[len(box)] - 1, 1)
        logs = np.log(inside)
        low = np.maximum(logs.min(axis=0) - step, self._box[:, 0])
        return np.stack([low, np.minimum(logs.max(axis=0) + step, self._box[:, 1])], axis=1)

    def _minimise(self) -> tuple[Array, Array]:
        box = self._box
        for _ in range(6 if len(box) else 1):
            outer = self._lattice(box)
            plateau, rss = self._plateau(outer)
            best = int(np.argmin(rss))
            box = self._zoomed(box, outer[[best]]) if len(box) else box
        return outer[best], plateau[best]

    def _polish(self) -> None:
        """Finish the minimum with Gauss-Newton steps on (log outer, plateau), the linear part projected out."""
        count = len(self._box)
        low = np.append(self._box[:, 0], 0.0)[: count + self.form.has_plateau]
        high = np.append(self._box[:, 1], 1.0)[: count + self.form.has_plateau]
        if not len(low):
            return

        def residual(place: Array) -> Array:
            plateau = place[:, count] if self.form.has_plateau else np.zeros(len(place))
            value = self.points.log_error - self.form.shape(np.exp(place[:, :count]), plateau, self.points.sizes)
            value = value * self._root
            return value - (value @ self._solve.T) @ self._columns.T

        place = np.append(np.log(self.best_outer), self.best_plateau)[: len(low)]
        for _ in range(8):
            free = np.flatnonzero((place > low) & (place < high))
            if not len(free):
                break
            step = np.zeros((len(free), len(low)))
            step[np.arange(len(free)), free] = 1e-6 * np.minimum(1, np.minimum(place - low, high - place)[free])
            here = residual(place[None])[0]
            slope = (residual(place + step) - residual(place - step)) / (2 * step.sum(axis=1)[:, None])
            move = np.zeros(len(low))
            move[free] = -np.linalg.lstsq(slope.T, here, rcond=1e-8)[0]
            trial = np.clip(place + move, low, high)
            if not np.sum(residual(trial[None]) ** 2) < here @ here:
                break
            place = trial
        self.best_outer = np.exp(place[:count])
        if self.form.has_plateau:
            self.best_plateau = place[count]

    def region(self, threshold: float) -> Region:
        """Return the grid points whose RSS is at most ``threshold``."""
        box = self._box
        outer, plateau = self.best_outer[None][:0], self.best_plateau[None][:0]
        for _ in range(7 if len(box) else 0):
            outer = self._lattice(box)
            plateau, rss = self._plateau(outer)
            inside = rss <= threshold
            outer, plateau = outer[inside], plateau[inside]
            known = np.concatenate([outer, self.best_outer[None]])
            smaller = self._zoomed(box, known)
            if np.all(smaller[:, 1] - smaller[:, 0] > 0.9 * (box[:, 1] - box[:, 0])):
                break
            box = smaller
        outer = np.concatenate([outer, self.best_outer[None]])
        plateau = np.concatenate([plateau, self.best_plateau[None]])
        if len(self._box) == 1:
            ends, end_plateau = self._ends(outer[:, 0], threshold)
            outer, plateau = np.concatenate([outer, ends]), np.concatenate([plateau, end_plateau])
        if self.form.has_plateau:
            outer, plateau = self._filled(outer, plateau, threshold)
        linear, rss = self.solve(outer, plateau)
        # Rounding at the rim must not drop the points that define it.
        keep = rss <= threshold * (1 + 1e-9) + 1e-30
        return Region(outer[keep], plateau[keep], linear[keep], rss[keep], self.covariance, threshold)

    def _ends(self, inside: Array, threshold: float) -> tuple[Array, Array]:
        """Return the two ends of a one-dimensional region by bisection, with their plateaus."""
        step = (np.log(inside.max()) - np.log(inside.min())) / 20 + 0.02
        good = np.log([inside.min(), inside.max()])
        bad = np.clip(good + np.array([-step, step]), self._box[0, 0], self._box[0, 1])
        for _ in range(40):
            middle = np.where(self._plateau(np.exp(bad)[:, None])[1] <= threshold, bad, (good + bad) / 2)
            fits = self._plateau(np.exp(middle)[:, None])[1] <= threshold
            good, bad = np.where(fits, middle, good), np.where(fits, bad, middle)
            if np.all(np.abs(good - bad) < 1e-4 * np.ptp(good) + 1e-9):
                break
        return np.exp(good)[:, None], self._plateau(np.exp(good)[:, None])[0]

    def _filled(self, outer: Array, plateau: Array, threshold: float, count: int = 31) -> tuple[Array, Array]:
        """Return outer points repeated, with plateaus that fill the range under the threshold for each."""
        limits = []
        for end in (0.0, 1.0):
            good, bad = plateau.copy(), np.full_like(plateau, end)
            at_end = self._rss(outer, bad[:, None])[:, 0] <= threshold
            good = np.where(at_end, end, good)
            for _ in range(40):
                middle = (good + bad) / 2
                fits = self._rss(outer, middle[:, None])[:, 0] <= threshold
                good, bad = np.where(fits, middle, good), np.where(fits, bad, middle)
            limits.append(good)
        low, high = limits
        # Denser towards both ends, where extremes of C and of predictions lie.
        steps = (1 - np.cos(np.linspace(0, np.pi, count))) / 2
        filled = np.concatenate([low[:, None] + (high - low)[:, None] * steps, plateau[:, None]], axis=1)
        return np.repeat(outer, count + 1, axis=0), filled.ravel()


def threshold(rss: float, freedom: int, level: float) -> float:
    """Return the largest RSS inside a two-sided region of this level; infinite with no degrees of freedom."""
    if freedom < 1:
        return np.inf
    quantile = float(stdtrit(freedom, (1 + level) / 2))
    return rss + noise_variance(rss, freedom) * quantile**2


def noise_variance(rss: float, freedom: int) -> float:
    """Return the residual variance of log error, with a floor under which noise is rounding."""
    return max(rss / freedom, _NOISE_FLOOR**2) if freedom > 0 else np.nan
