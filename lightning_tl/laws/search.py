"""Best fit and confidence region of a law, by profiling on a grid that zooms in: no start values, no local minima.

The plateau is profiled for each outer point, and the outer parameters (alpha) lie on a grid that zooms into the region
where the residual sum of squares stays under a threshold. Intervals of anything, parameters and predictions alike, are
the extremes over that region, so they need neither symmetry nor a curvature at the optimum.

With m points, p parameters and residual variance s2 = RSS / (m - p), the threshold is RSS + s2 F(1, m - p): the
classical interval for a linear model, which holds its level for few points; a chi-square threshold does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from lightning_tl.laws.forms import Array, Quantity
from lightning_tl.laws.problem import Problem

#: Plateau grid: dense at both ends, where the law is a pure power law (0) and flat (1).
_PLATEAUS = np.concatenate(
    [[0.0], np.geomspace(1e-4, 0.03, 12), np.linspace(0.06, 0.94, 30), 1 - np.geomspace(0.03, 1e-6, 14), [1.0]]
)
#: Points of the outer grid that zooms in, by number of outer parameters.
_GRID = {0: 1, 1: 97}
#: Noise in log error under this is taken for rounding: no measured error rate is known to one part in a million.
_NOISE_FLOOR = 1e-6


@dataclass(frozen=True)
class Region:
    """Grid points inside a confidence region.

    Attributes:
        search: Where it comes from.
        outer: Outer parameters, shape (g, k).
        plateau: Plateau, shape (g,).
        linear: Solved linear parameters, shape (g, q).
        rss: Residual sum of squares, shape (g,).
        threshold: Largest RSS inside.
    """

    search: Search
    outer: Array
    plateau: Array
    linear: Array
    rss: Array
    threshold: float

    def extent(self, quantity: Quantity, extra: float = 0.0) -> tuple[float, float]:
        """Return the smallest and largest value of a quantity over the region: its profile-likelihood limits.

        Args:
            quantity: The quantity.
            extra: Variance of a new observation in units of the residual variance; 0 for the law itself.
        """
        problem = self.search.problem
        slack = np.maximum(self.threshold - self.rss, 0)
        low, high = problem.reach(quantity, self.outer, self.plateau, self.linear, slack, extra)
        if self.outer.shape[1] < 2:  # one axis is dense enough by itself
            return float(low.min()), float(high.max())
        return self._further(quantity, extra, low, -1), self._further(quantity, extra, high, +1)

    def _further(self, quantity: Quantity, extra: float, values: Array, sign: int) -> float:
        """Follow an extreme beyond the rays: shrinking clouds, shaped as the region is, around the best point."""
        problem, rng = self.search.problem, np.random.default_rng(0)
        points = self.search.places(self.outer, self.plateau)
        low, high = self.search.limits()
        best = int(np.argmax(sign * values))
        value, centre = float(values[best]), points[best]
        shape = np.linalg.cholesky(np.cov(points.T) + 1e-18 * np.eye(len(centre)))
        for spread in 0.7 ** np.arange(14):
            cloud = np.clip(centre + spread * rng.standard_normal((160, len(centre))) @ shape.T, low, high)
            outer, plateau = self.search.unplaced(cloud)
            residual, linear = problem.residual(outer, plateau)
            slack = self.threshold - np.sum(residual**2, axis=-1)
            inside = slack >= 0
            if not inside.any():
                continue
            place = outer[inside], plateau[inside], linear[inside]
            found = problem.reach(quantity, *place, slack[inside], extra)[int(sign > 0)]
            lead = int(np.argmax(sign * found))
            if sign * found[lead] > sign * value:
                value, centre = float(found[lead]), cloud[inside][lead]
        return value

    def least_rss(self, quantity: Quantity, value: float) -> float:
        """Return the least RSS with the quantity at ``value`` or beyond it, seen from the best fit.

        "Or beyond" makes it monotone in the value also where a profile has two valleys; inf is out of reach.
        """
        away = float(np.sign(value - self.search.best(quantity))) or 1.0
        gain = self.search.problem.rise(quantity, self.outer, self.plateau, self.linear, value, away)
        return float(np.min(self.rss + gain))


class Search:
    """The best fit of a problem, and regions around it.

    Args:
        problem: The problem.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._plateau_used = problem.form.has_plateau
        bounds = problem.form.outer.values()
        self._box = np.log(np.array(list(bounds))) if bounds else np.empty((0, 2))
        outer, plateau = self.polish(*(self._minimum() if len(self._box) < 2 else self._candidates()))
        residual, linear = problem.residual(outer, plateau)
        rss = np.sum(residual**2, axis=-1)
        found = int(np.argmin(rss))
        self.outer, self.plateau = outer[found], plateau[found]
        self.linear, self.rss = linear[found], float(rss[found])

    def best(self, quantity: Quantity) -> float:
        """Return a quantity at the best fit."""
        offset, coefficients = quantity(self.outer[None], self.plateau[None])
        return float(offset[0] + self.linear @ coefficients)

    def limits(self) -> tuple[Array, Array]:
        """Return the least and largest place, a place being (log outer, plateau) as far as the form has them."""
        low, high = np.append(self._box[:, 0], 0.0), np.append(self._box[:, 1], 1.0)
        return (low, high) if self._plateau_used else (low[:-1], high[:-1])

    def places(self, outer: Array, plateau: Array) -> Array:
        """Return grid points as places (b, k + 1)."""
        logs = np.log(outer)
        return np.concatenate([logs, plateau[:, None]], axis=1) if self._plateau_used else logs

    def unplaced(self, place: Array) -> tuple[Array, Array]:
        """Return places as outer points and plateaus."""
        count = len(self._box)
        return np.exp(place[:, :count]), place[:, count] if self._plateau_used else np.zeros(len(place))

    def _rss(self, outer: Array, plateau: Array, problem: Problem | None = None) -> Array:
        """Return the RSS for plateaus (p, j) of outer points (p, k)."""
        return (problem or self.problem).rss(
            np.broadcast_to(outer[:, None, :], (*plateau.shape, outer.shape[1])), plateau
        )

    def profiled(self, outer: Array, zooms: int = 5, problem: Problem | None = None) -> tuple[Array, Array]:
        """Return the best plateau and its RSS for each outer point, shapes (p,)."""
        count = len(outer)
        if not self._plateau_used:
            plateau = np.zeros(count)
            return plateau, (problem or self.problem).rss(outer, plateau)
        grid = np.broadcast_to(_PLATEAUS, (count, len(_PLATEAUS)))
        rows = np.arange(count)
        for zoom in range(zooms + 1):
            rss = self._rss(outer, grid, problem)
            best = np.argmin(rss, axis=1)
            if zoom == zooms:
                break
            low = grid[rows, np.maximum(best - 1, 0)]
            high = grid[rows, np.minimum(best + 1, grid.shape[1] - 1)]
            grid = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, 13)
        return grid[rows, best], rss[rows, best]

    def lattice(self, box: Array | None = None, count: int | None = None) -> Array:
        """Return a logarithmic grid of outer points over a box (default: all), shape (p, k)."""
        box = self._box if box is None else box
        if not len(box):
            return np.empty((1, 0))
        axes = [np.exp(np.linspace(low, high, count or _GRID[len(box)])) for low, high in box]
        return np.array(list(product(*axes)))

    def coarse(self, points: int = 60, thin: int = 1) -> tuple[Array, Array]:
        """Return a coarse grid over everything: about ``points`` outer points, every ``thin``-th plateau."""
        outer = self.lattice(count=max(round(points ** (1 / max(len(self._box), 1))), 4))
        plateaus = _PLATEAUS[::thin] if self._plateau_used else np.zeros(1)
        return np.repeat(outer, len(plateaus), axis=0), np.tile(plateaus, len(outer))

    def _zoomed(self, box: Array, inside: Array) -> Array:
        """Return the bounding box of the outer points ``inside``, a grid step wider, within the bounds."""
        step = (box[:, 1] - box[:, 0]) / max(_GRID[len(box)] - 1, 1)
        logs = np.log(inside)
        low = np.maximum(logs.min(axis=0) - step, self._box[:, 0])
        return np.stack([low, np.minimum(logs.max(axis=0) + step, self._box[:, 1])], axis=1)

    def _minimum(self) -> tuple[Array, Array]:
        """Return the minimum over one outer axis by zooming, shapes (1, k) and (1,)."""
        box = self._box
        for _ in range(4 if len(box) else 1):
            outer = self.lattice(box)
            plateau, rss = self.profiled(outer)
            best = int(np.argmin(rss))
            box = self._zoomed(box, outer[[best]]) if len(box) else box
        return outer[[best]], plateau[[best]]

    def _candidates(self, count: int = 40) -> tuple[Array, Array]:
        """Return the best points of a coarse grid over several outer axes."""
        outer, plateau = self.coarse(1500, thin=4)
        best = np.argsort(self.problem.rss(outer, plateau))[:count]
        return outer[best], plateau[best]

    def _slopes(self, place: Array, targets: Array | None = None, problem: Problem | None = None) -> Array:
        """Return d residual / d place by central differences, shape (b, m, d); zero along held bounds."""
        low, high = self.limits()
        free = (place > low) & (place < high)
        slopes = []
        for i in range(place.shape[1]):
            step = np.zeros_like(place)
            step[:, i] = 1e-6 * np.minimum(1, np.minimum(place - low, high - place)[:, i]) + 1e-14
            sides = (place + step, place - step)
            above, below = ((problem or self.problem).residual(*self.unplaced(side), targets)[0] for side in sides)
            slopes.append(np.where(free[:, i : i + 1], (above - below) / (2 * step[:, i : i + 1]), 0.0))
        return np.stack(slopes, axis=2)

    def polish(
        self,
        outer: Array,
        plateau: Array,
        targets: Array | None = None,
        steps: int = 30,
        tolerance: float = 1e-12,
        problem: Problem | None = None,
    ) -> tuple[Array, Array]:
        """Finish minima with damped Gauss-Newton steps on (log outer, plateau), the linear part projected out.

        Args:
            outer: Starts, shape (b, k).
            plateau: Starts, shape (b,).
            targets: One target a start, shape (b, m), with the priors' values where (b, m + priors); default the
                problem's own for all.
            steps: Most steps.
            tolerance: Relative gain in the RSS under which a start has settled.
            problem: The problem, default the search's own.
        """
        low, high = self.limits()
        if not len(low):
            return outer, plateau
        place, damping = self.places(outer, plateau), np.full(len(outer), 1e-8)
        problem = problem or self.problem
        active = np.arange(len(place))
        here = problem.residual(outer, plateau, targets)[0]
        for _ in range(steps):
            at, aim = place[active], None if targets is None else targets[active]
            jacobian = self._slopes(at, aim, problem)
            square = np.einsum("bmi,bmj->bij", jacobian, jacobian)
            ridge = (damping[active, None] * np.einsum("bii->bi", square) + 1e-300)[..., None] * np.eye(len(low))
            gradient = np.einsum("bmi,bm->bi", jacobian, here[active])
            trial = np.clip(at - np.linalg.solve(square + ridge, gradient[..., None])[..., 0], low, high)
            there = problem.residual(*self.unplaced(trial), aim)[0]
            before, after = np.sum(here[active] ** 2, axis=1), np.sum(there**2, axis=1)
            better = after < before
            place[active[better]], here[active[better]] = trial[better], there[better]
            damping[active] = np.where(better, damping[active] / 10, np.maximum(damping[active], 1e-6) * 10)
            settled = (better & (before - after < tolerance * before)) | (damping[active] > 1e3)
            active = active[~settled]
            if not len(active):
                break
        return self.unplaced(place)

    def _rays(self, threshold: float, count: int = 500) -> tuple[Array, Array]:
        """Return points of a region of several outer axes: along rays from the best fit to the region's rim.

        Rays are uniform where the curvature at the optimum is spherical; at the bounds they go on along them.
        """
        low, high = self.limits()
        centre = self.places(self.outer[None], self.plateau[None])
        jacobian = self._slopes(np.clip(centre, low + 1e-6, high - 1e-6))[0]
        values, vectors = np.linalg.eigh(jacobian.T @ jacobian)
        slack = max(threshold - self.rss, 1e-30)
        unit = vectors * np.sqrt(slack / np.maximum(values, slack / 100))
        rays = np.random.default_rng(0).standard_normal((count, len(values)))
        rays = rays / np.linalg.norm(rays, axis=1, keepdims=True) @ unit.T

        def inside(length: Array) -> NDArray[np.bool_]:
            place = np.clip(centre + length[:, None] * rays, low, high)
            return self.problem.rss(*self.unplaced(place)) <= threshold

        good, bad = np.zeros(count), np.full(count, 64.0)
        for _ in range(24):  # lengths span orders of magnitude: halve in log
            middle = np.sqrt(np.maximum(good, 1e-3) * bad)
            fits = inside(middle)
            good, bad = np.where(fits, middle, good), np.where(fits, bad, middle)
        lengths = (good[:, None] * np.array([0.3, 0.6, 0.8, 0.9, 0.97, 1.0])).ravel()
        place = np.clip(centre + lengths[:, None] * np.repeat(rays, 6, axis=0), low, high)
        return self.unplaced(np.concatenate([centre, place]))

    def region(self, threshold: float) -> Region:
        """Return the grid points whose RSS is at most ``threshold``."""
        if len(self._box) < 2:
            outer, plateau = self._inside(threshold)
        else:
            outer, plateau = self._rays(threshold)
        residual, linear = self.problem.residual(outer, plateau)
        rss = np.sum(residual**2, axis=-1)
        # Rounding at the rim must not drop the points that define it.
        keep = rss <= threshold * (1 + 1e-9) + 1e-30
        return Region(self, outer[keep], plateau[keep], linear[keep], rss[keep], threshold)

    def _inside(self, threshold: float) -> tuple[Array, Array]:
        """Return points of a region of at most one outer axis: a grid that zooms into it, filled with plateaus."""
        box = self._box
        outer, plateau = self.outer[None][:0], self.plateau[None][:0]
        for _ in range(7 if len(box) else 0):
            outer = self.lattice(box)
            plateau, rss = self.profiled(outer, zooms=3)
            inside = rss <= threshold
            outer, plateau = outer[inside], plateau[inside]
            smaller = self._zoomed(box, np.concatenate([outer, self.outer[None]]))
            if np.all(smaller[:, 1] - smaller[:, 0] > 0.9 * (box[:, 1] - box[:, 0])):
                break
            box = smaller
        outer = np.concatenate([outer, self.outer[None]])
        plateau = np.concatenate([plateau, self.plateau[None]])
        if len(self._box):
            ends, end_plateau = self._ends(outer[:, 0], threshold)
            outer, plateau = np.concatenate([outer, ends]), np.concatenate([plateau, end_plateau])
        return self._filled(outer, plateau, threshold) if self._plateau_used else (outer, plateau)

    def _ends(self, inside: Array, threshold: float) -> tuple[Array, Array]:
        """Return the two ends of a one-dimensional region by bisection, with their plateaus."""
        step = (np.log(inside.max()) - np.log(inside.min())) / 20 + 0.02
        good = np.log([inside.min(), inside.max()])
        bad = np.clip(good + np.array([-step, step]), self._box[0, 0], self._box[0, 1])
        good = np.where(self.profiled(np.exp(bad)[:, None])[1] <= threshold, bad, good)
        for _ in range(40):
            if np.all(np.abs(good - bad) < 1e-4 * np.ptp(good) + 1e-9):
                break
            middle = (good + bad) / 2
            fits = self.profiled(np.exp(middle)[:, None])[1] <= threshold
            good, bad = np.where(fits, middle, good), np.where(fits, bad, middle)
        return np.exp(good)[:, None], self.profiled(np.exp(good)[:, None])[0]

    def _filled(self, outer: Array, plateau: Array, threshold: float) -> tuple[Array, Array]:
        """Return outer points repeated, with plateaus that fill the range under the threshold for each."""
        limits = []
        for end in (0.0, 1.0):
            good, bad = plateau.copy(), np.full_like(plateau, end)
            at_end = self._rss(outer, bad[:, None])[:, 0] <= threshold
            good = np.where(at_end, end, good)
            for _ in range(24):
                middle = (good + bad) / 2
                fits = self._rss(outer, middle[:, None])[:, 0] <= threshold
                good, bad = np.where(fits, middle, good), np.where(fits, bad, middle)
            limits.append(good)
        low, high = limits
        # Denser towards both ends, where extremes of C and of predictions lie.
        steps = (1 - np.cos(np.linspace(0, np.pi, 31))) / 2
        filled = np.concatenate([low[:, None] + (high - low)[:, None] * steps, plateau[:, None]], axis=1)
        return np.repeat(outer, filled.shape[1], axis=0), filled.ravel()


def threshold(rss: float, variance: float, freedom: int, level: float) -> float:
    """Return the largest RSS inside a two-sided region of this level; infinite with no degrees of freedom."""
    if freedom < 1:
        return np.inf
    return rss + variance * float(stdtrit(freedom, (1 + level) / 2)) ** 2


def noise_variance(rss: float, freedom: int, unit: float = 1.0) -> float:
    """Return the residual variance, with a floor under which noise is rounding; ``unit`` is a typical value."""
    return max(rss / freedom, (_NOISE_FLOOR * unit) ** 2) if freedom > 0 else np.nan
