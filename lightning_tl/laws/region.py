"""Confidence regions of a law by profile likelihood: all parameters whose sum of squares stays under a threshold.

Intervals of anything, parameters and predictions alike, are the extremes over the region, so they need neither symmetry
nor a curvature at the optimum. The region may be in several pieces (a nearly straight curve and a bent one): it is
followed from every minimum under the threshold.

With m points, p parameters and residual variance s2 = RSS / (m - p), the threshold is RSS + s2 F(1, m - p): the
classical interval for a linear model, which holds its level for few points; a chi-square threshold does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from lightning_tl.laws.descent import slopes
from lightning_tl.laws.forms import WHOLE, Array, Quantity, coordinate, split
from lightning_tl.laws.least_squares import Problem
from lightning_tl.laws.parameter_space import Space
from lightning_tl.laws.search import Search, batches

#: Noise in log error under this is taken for rounding: no measured error rate is known to one part in a million.
_NOISE_FLOOR = 1e-6
#: Points of a region along one outer axis.
_POINTS = 97


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
            reached = problem.reach(quantity, *place, slack[inside], extra)[int(sign > 0)]
            lead = int(np.argmax(sign * reached))
            if sign * reached[lead] > sign * value:
                value, centre = float(reached[lead]), cloud[inside][lead]
        return value

    def least_rss(self, quantity: Quantity, value: float) -> float:
        """Return the least RSS with the quantity at ``value`` or beyond it, seen from the best fit.

        "Or beyond" makes it monotone in the value also where a profile has two valleys; inf is out of reach.
        """
        away = float(np.sign(value - self.search.best(quantity))) or 1.0
        gain = self.search.problem.rise(quantity, self.outer, self.plateau, self.linear, value, away)
        return float(np.min(self.rss + gain))


def regions_of(searches: Sequence[Search], thresholds: Sequence[float]) -> list[Region]:
    """Return the region of each search under its threshold; a search may occur with several.

    Searches whose problems have one shape are treated together.
    """
    found: dict[int, Region] = {}
    for members in batches([search.problem for search in searches]):
        chosen = [searches[i] for i in members]
        limits = np.array([thresholds[i] for i in members])
        rays = len(chosen[0].box) > 1
        places = list(map(_on_rays, chosen, limits)) if rays else _on_one_axis(chosen, limits)
        for i, search, (outer, plateau) in zip(members, chosen, places, strict=True):
            found[i] = _region(search, outer, plateau, float(thresholds[i]))
    return [found[i] for i in range(len(searches))]


def _region(search: Search, outer: Array, plateau: Array, threshold: float) -> Region:
    residual, linear = search.problem.residual(outer, plateau)
    rss = np.sum(residual**2, axis=-1)
    # Rounding at the rim must not drop the points that define it.
    keep = rss <= threshold * (1 + 1e-9) + 1e-30
    return Region(search, outer[keep], plateau[keep], linear[keep], rss[keep], threshold)


# ---- no outer axis, or one: the region is a set of intervals of it, each filled with plateaus ------------------------


def _on_one_axis(searches: Sequence[Search], thresholds: Array) -> list[tuple[Array, Array]]:
    """Return the outer points and the plateaus of each region."""
    space = Space(Problem.stacked([search.problem for search in searches]))
    minima = []
    for search, threshold in zip(searches, thresholds, strict=True):
        inside = search.minima[search.minima_rss <= threshold]
        minima.append(inside if len(inside) else search.minima[:1])
    of = np.repeat(np.arange(len(minima)), list(map(len, minima)))
    outer, plateau = space.unplaced(np.concatenate(minima))
    if len(space.box):
        ends = np.searchsorted(of, np.arange(len(minima) + 1))
        logs = np.log(outer[:, 0])
        axes = _pieces(space, searches, thresholds, [logs[a:b] for a, b in pairwise(ends)])
        axis, more_of = np.concatenate(axes), np.repeat(np.arange(len(axes)), list(map(len, axes)))
        more, rss = space.profiled(np.exp(axis)[:, None], more_of)
        keep = rss <= thresholds[more_of]
        outer = np.concatenate([outer, np.exp(axis[keep])[:, None]])
        plateau, of = np.concatenate([plateau, more[keep]]), np.concatenate([of, more_of[keep]])
    order = np.argsort(of, kind="stable")
    outer, plateau, of = outer[order], plateau[order], of[order]
    plateaus = _filled(space, outer, plateau, thresholds[of], of) if space.has_plateau else plateau[:, None]
    ends = np.searchsorted(of, np.arange(len(searches) + 1))
    return [(np.repeat(outer[a:b], plateaus.shape[1], axis=0), plateaus[a:b].ravel()) for a, b in pairwise(ends)]


def _pieces(space: Space, searches: Sequence[Search], thresholds: Array, minima: Sequence[Array]) -> list[Array]:
    """Return points of the logarithmic outer axis that fill the pieces of each region: their ends to 1e-4 of the whole.

    Args:
        space: The places of the problems.
        searches: Their searches; one that occurs with several thresholds is profiled once.
        thresholds: The regions' thresholds, shape (regions,).
        minima: Points of the axis that are inside each.
    """
    low, high = np.log(space.box[0])
    base = np.linspace(low, high, _POINTS)
    rss = _profiles(space, base, searches)
    axes = [np.unique(np.concatenate([base, inner])) for inner in minima]
    insides = []
    for axis, inner, values, limit in zip(axes, minima, rss, thresholds, strict=True):
        inside = np.isin(axis, inner)
        inside[np.searchsorted(axis, base)] |= values <= limit
        insides.append(inside)
    for _ in range(8):
        finer = {}
        for i, (axis, inside) in enumerate(zip(axes, insides, strict=True)):
            rims = np.flatnonzero(inside[1:] != inside[:-1])
            rims = rims[axis[rims + 1] - axis[rims] > 1e-4 * np.ptp(axis[inside]) + 1e-9]
            if len(rims):
                steps = (axis[rims + 1] - axis[rims])[:, None] * np.linspace(0, 1, 14)[1:-1]
                finer[i] = (axis[rims, None] + steps).ravel()
        if not finer:
            break
        for i, more in _under(space, thresholds, finer).items():
            axis = np.concatenate([axes[i], finer[i]])
            order = np.argsort(axis)
            axes[i], insides[i] = axis[order], np.concatenate([insides[i], more])[order]
    return [_spread(axis, inside) for axis, inside in zip(axes, insides, strict=True)]


def _profiles(space: Space, axis: Array, searches: Sequence[Search]) -> Array:
    """Return the sums of squares along the logarithmic axis for each of the searches, shape (searches, points)."""
    first: dict[int, int] = {}
    own = np.array([first.setdefault(id(search), i) for i, search in enumerate(searches)])
    distinct = np.unique(own)
    outer = np.tile(np.exp(axis), len(distinct))[:, None]
    rss = space.profiled(outer, np.repeat(distinct, len(axis)))[1]
    profiles: Array = rss.reshape(len(distinct), len(axis))[np.searchsorted(distinct, own)]
    return profiles


def _under(space: Space, thresholds: Array, axes: Mapping[int, Array]) -> dict[int, NDArray[np.bool_]]:
    """Return which points of regions' axes have a plateau under the region's threshold."""
    of = np.repeat(list(axes), list(map(len, axes.values())))
    under = space.profiled(np.exp(np.concatenate(list(axes.values())))[:, None], of)[1] <= thresholds[of]
    return {i: under[of == i] for i in axes}


def _spread(axis: Array, inside: NDArray[np.bool_]) -> Array:
    """Return points spread over each of the pieces of an axis that are inside."""
    first = np.flatnonzero(inside & ~np.concatenate([[False], inside[:-1]]))
    last = np.flatnonzero(inside & ~np.concatenate([inside[1:], [False]]))
    per_axis = max(_POINTS // len(first), 25)
    return np.concatenate([np.linspace(axis[a], axis[b], per_axis) for a, b in zip(first, last, strict=True)])


def _filled(space: Space, outer: Array, plateau: Array, threshold: Array, of: NDArray[np.int64]) -> Array:
    """Return plateaus that fill the range under the threshold at each outer point, shape (points, j)."""
    count = len(outer)
    both, twice = np.concatenate([outer, outer]), np.concatenate([of, of])
    problem, most = space.problem.at(twice), np.concatenate([threshold, threshold])
    good, bad = np.concatenate([plateau, plateau]), np.repeat([0.0, WHOLE], count)
    good = np.where(problem.rss(both, bad) <= most, bad, good)
    for _ in range(30):
        middle = (good + bad) / 2
        fits = problem.rss(both, middle) <= most
        good, bad = np.where(fits, middle, good), np.where(fits, bad, middle)
    low, high = good[:count, None], good[count:, None]
    # Denser towards both ends, where extremes of C and of predictions lie; even in shares, and in coordinates where a
    # held D leaves only shares near 1.
    steps = (1 - np.cos(np.linspace(0, np.pi, 31))) / 2
    (_, widest), (_, least) = split(low), split(high)
    shares = coordinate(widest + (least - widest) * steps)
    filled = np.concatenate([shares, low + (high - low) * steps[::3], plateau[:, None]], axis=1)
    inside: Array = np.clip(filled, low, high)
    return inside


# ---- several outer axes: rays from every minimum to the rim ----------------------------------------------------------


def _on_rays(search: Search, threshold: float, count: int = 500) -> tuple[Array, Array]:
    centres = search.minima[search.minima_rss <= threshold]
    if not len(centres):
        centres = search.minima[:1]
    rays = [
        _rays(search, centre[None], threshold, max(count // len(centres), 100), seed)
        for seed, centre in enumerate(centres)
    ]
    return search.unplaced(np.concatenate(rays))


def _rays(search: Search, centre: Array, threshold: float, count: int, seed: int) -> Array:
    """Return places along rays from a minimum (1, d) to the rim of its piece of a region.

    Rays are uniform where the curvature at the minimum is spherical; at the bounds they go on along them.
    """
    low, high = search.limits()

    def residual(place: Array, _: None) -> Array:
        return search.problem.residual(*search.unplaced(place))[0]

    jacobian = slopes(residual, centre, None, residual(centre, None), (low, high), exact=False)[0]
    values, vectors = np.linalg.eigh(jacobian.T @ jacobian)
    slack = max(threshold - search.rss, 1e-30)
    unit = vectors * np.sqrt(slack / np.maximum(values, slack / 100))
    rays = np.random.default_rng(seed).standard_normal((count, len(values)))
    rays = rays / np.linalg.norm(rays, axis=1, keepdims=True) @ unit.T

    def inside(length: Array) -> NDArray[np.bool_]:
        place = np.clip(centre + length[:, None] * rays, low, high)
        return search.problem.rss(*search.unplaced(place)) <= threshold

    good, bad = np.zeros(count), np.full(count, 64.0)
    for _ in range(24):  # lengths span orders of magnitude: halve in log
        middle = np.sqrt(np.maximum(good, 1e-3) * bad)
        fits = inside(middle)
        good, bad = np.where(fits, middle, good), np.where(fits, bad, middle)
    lengths = (good[:, None] * np.array([0.3, 0.6, 0.8, 0.9, 0.97, 1.0])).ravel()
    place = np.clip(centre + lengths[:, None] * np.repeat(rays, 6, axis=0), low, high)
    return np.concatenate([centre, place])


# ---- thresholds ------------------------------------------------------------------------------------------------------


def threshold(rss: float, variance: float, dof: int, level: float) -> float:
    """Return the largest RSS inside a two-sided region of this level; infinite with no degrees of freedom."""
    if dof < 1:
        return np.inf
    return rss + variance * float(stdtrit(dof, (1 + level) / 2)) ** 2


def noise_variance(rss: float, dof: int, unit: float = 1.0) -> float:
    """Return the residual variance, with a floor under which noise is rounding; ``unit`` is a typical value."""
    return max(rss / dof, (_NOISE_FLOOR * unit) ** 2) if dof > 0 else np.nan
