"""Coordinates of a law's nonlinear parameters, and ways down in them: what every search for a minimum is made of.

A place is (outer parameters..., plateau), as far as the form has them. The outer parameters are taken as they are, not
by their logs: with D held, ``log(1 - share)`` is a straight line in alpha, along which Gauss-Newton steps go far.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from lightning_tl.laws.descent import descend
from lightning_tl.laws.forms import WHOLE, Array, coordinate
from lightning_tl.laws.least_squares import Problem, sum_of_squares

#: Share of the error that falls with n, from all to nothing: dense at both ends, where the law is a
#: pure power law and flat.
_RESTS = np.concatenate(
    [1 - np.r_[0.0, np.geomspace(1e-4, 0.03, 10), np.linspace(0.06, 0.94, 23)], np.geomspace(0.03, 1e-6, 10), [0.0]]
)
_SHARES = coordinate(_RESTS)
#: Shares whose curves, fitted to the points, show which level a held scale has to reach.
_GUESSES = coordinate(np.array([1.0, 0.9, 0.5, 0.1, 0.01, 0.0]))
#: Numbers held at once while plateaus are tried: few enough for a processor's cache.
_AT_ONCE = 60_000
#: Grid of outer parameters: points along each axis, by the number of axes.
_GRID = {0: 1, 1: 48, 2: 16, 3: 8}


class Space:
    """The places of a problem, or of several of one shape at once.

    Where there are several, the number of its problem is given for each place (``of``, shape (b,)).

    Args:
        problem: The problem, or several that are stacked.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        form = problem.form
        self.has_plateau = form.has_plateau
        self.box = np.array(list(form.outer.values()), float).reshape(-1, 2)
        #: Coordinates that are ratios, whose steps and distances are those of their logs.
        self.ratios = np.array([name not in form.shares for name in form.outer] + [False] * form.has_plateau, bool)

    def limits(self) -> tuple[Array, Array]:
        """Return the least and the largest place."""
        low, high = np.append(self.box[:, 0], 0.0), np.append(self.box[:, 1], WHOLE)
        return (low, high) if self.has_plateau else (low[:-1], high[:-1])

    def places(self, outer: Array, plateau: Array) -> Array:
        """Return outer points (..., k) and plateaus (...) as places (..., d)."""
        return np.concatenate([outer, plateau[..., None]], axis=-1) if self.has_plateau else outer

    def unplaced(self, place: Array) -> tuple[Array, Array]:
        """Return places (..., d) as outer points and plateaus."""
        count = len(self.box)
        return place[..., :count], place[..., count] if self.has_plateau else np.zeros(place.shape[:-1])

    def grid(self, count: int | None = None) -> Array:
        """Return outer points over the whole range, ``count`` along each axis, shape (p, k)."""
        if not len(self.box):
            return np.empty((1, 0))
        count = count or _GRID[len(self.box)]
        shares = _SHARES[np.linspace(0, len(_SHARES) - 2, count).astype(int)]
        axes = [
            shares if name in self.problem.form.shares else np.geomspace(*limits, count)
            for name, limits in self.problem.form.outer.items()
        ]
        return np.array(list(product(*axes)))

    def profiled(self, outer: Array, of: NDArray[np.int64] | None = None) -> tuple[Array, Array]:
        """Return the best plateau and its sum of squares at outer points (b, k), each of shape (b,)."""
        of = np.zeros(len(outer), np.int64) if of is None else of
        if not self.has_plateau:
            plateau = np.zeros(len(outer))
            return plateau, self.problem.at(of).rss(outer, plateau)
        thin = 1 if self.problem.scale_known else 2  # with a held scale valleys are narrow
        place, rss = self.down(
            self.starts(outer, of=of, thin=thin), steps=12, tolerance=1e-9, held=len(self.box), of=of
        )
        return place[:, -1], rss

    def starts(
        self, outer: Array, aims: Array | None = None, thin: int = 3, of: NDArray[np.int64] | None = None
    ) -> Array:
        """Return places at outer points (b, k) whose plateau is about the best, shape (b, d).

        Args:
            outer: Outer points.
            aims: An aim for each, shape (b, m); default the problem's own (see :meth:`Problem.residual`).
            thin: Try every ``thin``-th share.
            of: Number of each one's problem.
        """
        if not self.has_plateau:
            return outer
        of = np.zeros(len(outer), np.int64) if of is None else of
        size = max(_AT_ONCE // (len(_SHARES) * self.problem.sizes.log_n.shape[-1]), 1)
        pieces = [slice(start, start + size) for start in range(0, len(outer), size)]
        best = [self._start(outer[i], None if aims is None else aims[i], thin, of[i]) for i in pieces]
        return self.places(outer, np.concatenate(best))

    def _start(self, outer: Array, aims: Array | None, thin: int, of: NDArray[np.int64]) -> Array:
        """Return the best of the plateaus that are tried at outer points (b, k), shape (b,).

        Where the scale is held or has a prior, those at which curves through the points have that value are among them.
        """
        problem, outer = self.problem.at(of[:, None]), outer[:, None]
        aims = None if aims is None else aims[:, None]
        grid = np.broadcast_to(_SHARES[::thin], (len(outer), len(_SHARES[::thin])))
        wanted = problem.rest_for_scale(outer, np.broadcast_to(_GUESSES, (len(outer), len(_GUESSES))), aims)
        if wanted is not None:
            grid = np.sort(np.concatenate([grid, coordinate(wanted)], axis=1), axis=1)
        best = np.argmin(sum_of_squares(problem.residual(outer, grid, aims)[0]), axis=1)
        start: Array = grid[np.arange(len(outer)), best]
        return start

    def distinct(self, place: Array, rss: Array, most: int, apart: float) -> tuple[Array, Array]:
        """Return places that are apart, the lowest first, at most ``most``."""
        at = np.where(self.ratios, np.log(np.where(self.ratios, place, 1.0)), place)
        kept: list[int] = []
        for i in np.argsort(rss, kind="stable"):
            if not kept or np.all(np.max(np.abs(at[kept] - at[i]), axis=1, initial=0.0) > apart):
                kept.append(int(i))
                if len(kept) == most:
                    break
        return place[kept], rss[kept]

    def down(
        self,
        place: Array,
        steps: int,
        tolerance: float = 1e-13,
        aims: Array | None = None,
        held: int = 0,
        of: NDArray[np.int64] | None = None,
    ) -> tuple[Array, Array]:
        """Follow places (b, d) down; return where they end and their sums of squares.

        Args:
            place: Starts.
            steps: Most steps.
            tolerance: See :func:`~.descent.descend`.
            aims: An aim for each, shape (b, m); default the problem's own.
            held: How many coordinates, from the first, stay where they are.
            of: Number of each one's problem.
        """
        fixed, (low, high) = place[:, :held], self.limits()

        def whole(at: Array, which: NDArray[np.int64]) -> Array:
            return np.concatenate([fixed[which], at], axis=1) if held else at

        def residual(at: Array, which: NDArray[np.int64]) -> Array:
            problem = self.problem if of is None else self.problem.at(of[which])
            return problem.residual(*self.unplaced(whole(at, which)), None if aims is None else aims[which])[0]

        def reach(at: Array) -> tuple[Array, Array]:
            return _reach(at, self.ratios[held:])

        reached, rss = descend(residual, place[:, held:], low[held:], high[held:], reach, steps, tolerance)
        return whole(reached, np.arange(len(place))), rss

    def reach(self, at: Array) -> tuple[Array, Array]:
        """Return the box that one step from places (b, d) may not leave."""
        return _reach(at, self.ratios)


def _reach(at: Array, ratios: NDArray[np.bool_]) -> tuple[Array, Array]:
    return np.where(ratios, at / 3, at - 2), np.where(ratios, at * 3, at + 2)


def lowest(space: Space, aims: Array, keep: int = 4) -> Array:
    """Return the place of the lowest minimum for each of many aims, shape (b, d).

    Args:
        space: The places of one problem.
        aims: Aims, shape (b, m), with the priors' values appended where (b, m + priors); neighbours are alike.
        keep: How many minima of each aim are followed to the end.
    """
    count, outer = len(aims), space.grid({1: 24, 2: 8, 3: 5}.get(len(space.box)))
    if not len(space.limits()[0]):
        return np.zeros((count, 0))
    # Every third aim is searched over the grid, the others from the minima of their neighbours.
    anchors = np.unique(np.append(np.arange(0, count, 3), count - 1))
    anchored = np.repeat(aims[anchors], len(outer), axis=0)
    points = np.tile(outer, (len(anchors), 1))
    place, rss = space.down(space.starts(points, anchored), steps=6, tolerance=1e-4, aims=anchored)
    order = np.argsort(rss.reshape(len(anchors), -1), axis=1)[:, :keep]
    place = place.reshape(len(anchors), len(outer), -1)[np.arange(len(anchors))[:, None], order]
    before = np.searchsorted(anchors, np.arange(count), side="right") - 1
    after = np.minimum(np.searchsorted(anchors, np.arange(count)), len(anchors) - 1)
    starts = np.concatenate([place[before], place[after]], axis=1)
    count_per_aim = starts.shape[1]
    reached, rss = space.down(
        starts.reshape(count * count_per_aim, -1), steps=60, aims=np.repeat(aims, count_per_aim, axis=0)
    )
    best = np.argmin(rss.reshape(count, count_per_aim), axis=1)
    lowest_places: Array = reached.reshape(count, count_per_aim, -1)[np.arange(count), best]
    return lowest_places
