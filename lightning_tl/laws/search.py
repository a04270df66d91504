"""The best fit of a law over the whole range of its parameters: no start values are asked for.

Log error is linear in some parameters, which are solved exactly; the others (alpha, in some forms beta or E, and the
plateau that stands for C) span one to four dimensions. The outer ones lie on a grid over their whole range. For each
grid point the best plateau is found, and from all of them damped Gauss-Newton steps descend; the lowest minimum is the
fit, and the other minima are kept for the confidence region. A curve that is nearly straight and one that is bent may
both be minima, with a held D particularly, and the valley of one may be narrower than any grid: it is the descent that
finds it, so every grid point descends, not only the best one. No proof says that the lowest is always found; the tests
compare it with an independent solver on thousands of random tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_tl.laws.descent import slopes
from lightning_tl.laws.forms import Array, Quantity, coordinate
from lightning_tl.laws.least_squares import Problem
from lightning_tl.laws.parameter_space import Space

#: Rounds of the descent: steps, tolerance, how many of the lowest go on, and how far they must be apart. Few steps for
#: all, more for the lowest: a start that is high at first may have the longest way down.
_ROUNDS = ((8, 1e-4, 160, 0.15), (15, 1e-7, 48, 0.05))
#: How many are then followed to the end: the lowest, as far as they are within this factor of the least, and the steps.
_LAST = ((4, 10.0, 20), (3, 1.2, 1000))
#: Minima kept.
_MINIMA = 12
#: Places nearer than this in every coordinate are one minimum.
_SAME = 1e-3
#: Of a refit, by the number of outer axes: grid along each axis, descents, and how many are followed to the end.
_REFITS = {0: (1, 2, 1), 1: (24, 4, 2), 2: (8, 10, 3), 3: (6, 16, 4)}
#: Problems searched together: enough that calls cost little, few enough for a processor's cache.
_TOGETHER = 64
#: Numbers held at once while refits are judged.
_AT_ONCE = 3_000_000


class Search(Space):
    """The best fit of a problem, and the other minima of its sum of squares.

    :func:`searched` makes them, of many problems at once.

    Args:
        problem: What was fitted.
        minima: Places of the minima found, the best first, shape (j, d); the higher ones are only neared.
        minima_rss: Their sums of squares, shape (j,).

    Attributes:
        outer: Outer parameters of the best fit, shape (k,).
        plateau: Its plateau, shape ().
        linear: Its linear parameters, shape (q,).
        rss: Its sum of squares.
    """

    def __init__(self, problem: Problem, minima: Array, minima_rss: Array) -> None:
        super().__init__(problem)
        self.minima, self.minima_rss = minima, minima_rss
        outer, plateau = self.unplaced(self.minima[:1])
        linear = problem.residual(outer, plateau)[1]
        self.outer, self.plateau, self.linear = outer[0], plateau[0], linear[0]
        self.rss = float(self.minima_rss[0])

    def best(self, quantity: Quantity) -> float:
        """Return a quantity at the best fit."""
        offset, coefficients = quantity(self.outer[None], self.plateau[None])
        return float(offset[0] + self.linear @ coefficients)

    def refitted(self, targets: Array) -> tuple[Array, Array]:
        """Return the best fits of other targets that are near the problem's own, as a bootstrap's are.

        Starts are the minima of the problem and the best plateaus over a grid of outer points. What one Gauss-Newton
        step from each would leave of a target says which to descend from: the best few that lead apart.

        Args:
            targets: Targets, shape (b, m).

        Returns:
            Outer parameters (b, k) and plateaus (b,).
        """
        if not len(self.limits()[0]):
            return np.zeros((len(targets), 0)), np.zeros(len(targets))
        starts, aims = self._starts(), self.problem.aims(targets)
        here = self.problem.residual(*self.unplaced(starts))[0]
        jacobian = slopes(
            lambda at, _: self.problem.residual(*self.unplaced(at))[0], starts, None, here, self.limits(), exact=False
        )
        size = max(_AT_ONCE // here.size, 1)
        refits = [self._refit(aims[i : i + size], starts, jacobian) for i in range(0, len(aims), size)]
        return self.unplaced(np.concatenate(refits))

    def _starts(self) -> Array:
        outer = self.grid(_REFITS[len(self.box)][0])
        plateau = self.profiled(outer)[0]
        if self.has_plateau and not self.problem.scale_known:
            # Where the law is flat no slope leads out; where it is straight, a bent one may be as near.
            plateau = np.concatenate([np.minimum(plateau, coordinate(np.array(0.1))), np.zeros(len(outer))])
            outer = np.tile(outer, (2, 1))
        return np.concatenate([self.minima, self.places(outer, plateau)])

    def _refit(self, aims: Array, starts: Array, jacobian: Array) -> Array:
        _, descents, finish = _REFITS[len(self.box)]
        count = len(aims)
        left, ends = self._judged(aims, starts, jacobian)
        rows, chosen = np.arange(count), []
        for _ in range(descents):
            chosen.append(np.argmin(left, axis=0))
            near = np.max(np.abs(ends - ends[chosen[-1], :, rows].T[None]), axis=1) < 0.15
            left = np.where(near, np.inf, left)
        at, rss = self.down(starts[np.concatenate(chosen)], steps=6, aims=np.tile(aims, (descents, 1)))
        order = np.argsort(rss.reshape(descents, count), axis=0)[:finish]
        at = at.reshape(descents, count, -1)[order, rows].reshape(finish * count, -1)
        at, rss = self.down(at, steps=60, aims=np.tile(aims, (finish, 1)))
        best = np.argmin(rss.reshape(finish, count), axis=0)
        refit: Array = at.reshape(finish, count, -1)[best, rows]
        return refit

    def _judged(self, aims: Array, starts: Array, jacobian: Array) -> tuple[Array, Array]:
        """Return the sum of squares that a step from each start promises (p, b), and where it leads (p, d, b)."""
        outer, plateau = self.unplaced(starts[:, None])
        rest = self.problem.residual(outer, plateau, aims[None])[0]
        gradient = np.einsum("pbm,pmd->pdb", rest, jacobian)
        square = np.einsum("pmc,pmd->pcd", jacobian, jacobian)
        diagonal = np.einsum("pdd->pd", square)
        step = np.linalg.solve(square + (1e-6 * diagonal + 1e-30)[..., None] * np.eye(starts.shape[1]), gradient)
        # A step promises nothing beyond the box that the descent keeps to.
        (low, high), (least, most) = self.limits(), self.reach(starts)
        down, up = starts - np.maximum(least, low), np.minimum(most, high) - starts
        room = np.where(step > 0, down[..., None], up[..., None])
        with np.errstate(divide="ignore", invalid="ignore"):
            part = np.min(np.where(step != 0, room / np.abs(step), np.inf), axis=1)
        part = np.minimum(part, 1.0)
        left = np.sum(rest**2, axis=2) - (2 * part - part**2) * np.sum(gradient * step, axis=1)
        ends = starts[..., None] - part[:, None, :] * step
        return left, np.where(self.ratios[:, None], np.log(np.maximum(ends, 1e-4)), ends)


def searched(problems: Sequence[Problem]) -> list[Search]:
    """Return the search of each problem, those of one shape together."""
    found: dict[int, Search] = {}
    for members in batches(problems):
        for i, search in zip(members, _searched([problems[i] for i in members]), strict=True):
            found[i] = search
    return [found[i] for i in range(len(problems))]


def batches(problems: Sequence[Problem]) -> list[list[int]]:
    """Return the numbers of problems that are evaluated together: of one shape, and not too many at once."""
    alike: dict[tuple[Any, ...], list[int]] = {}
    for i, problem in enumerate(problems):
        alike.setdefault(problem.shape, []).append(i)
    return [members[i : i + _TOGETHER] for members in alike.values() for i in range(0, len(members), _TOGETHER)]


def _searched(problems: Sequence[Problem]) -> list[Search]:
    space, count = Space(Problem.stacked(problems)), len(problems)
    grid = space.grid()
    of = np.repeat(np.arange(count), len(grid))
    place = space.starts(np.tile(grid, (count, 1)), of=of)
    for steps, tolerance, most, apart in _ROUNDS:
        place, rss = space.down(place, steps, tolerance, of=of)
        place, rss, of = _distinct(space, place, rss, of, most, apart)
    for most, factor, steps in _LAST:
        # Within each problem the lowest come first.
        first = np.searchsorted(of, np.arange(count))
        rank = np.arange(len(of)) - first[of]
        last = (rank < most) & (rss <= factor * rss[first][of])
        place[last], rss[last] = space.down(place[last], steps, of=of[last])
        place, rss, of = _distinct(space, place, rss, of, _MINIMA, _SAME)
    ends = np.searchsorted(of, np.arange(count + 1))
    return [Search(problem, place[a:b], rss[a:b]) for problem, (a, b) in zip(problems, pairwise(ends), strict=True)]


def _distinct(
    space: Space, place: Array, rss: Array, of: NDArray[np.int64], most: int, apart: float
) -> tuple[Array, Array, NDArray[np.int64]]:
    """Return the places of each problem that are apart, the lowest first, with their sums of squares and problems."""
    ends = np.searchsorted(of, np.arange(of[-1] + 2))
    kept = [space.distinct(place[a:b], rss[a:b], most, apart) for a, b in pairwise(ends)]
    places, values = zip(*kept, strict=True)
    return np.concatenate(places), np.concatenate(values), np.repeat(np.arange(len(kept)), list(map(len, values)))
