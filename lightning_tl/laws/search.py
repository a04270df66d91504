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

import numpy as np

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
#: Numbers held at once while refits are judged.
_AT_ONCE = 3_000_000


class Search(Space):
    """The best fit of a problem, and the other minima of its sum of squares.

    Args:
        problem: What to fit.

    Attributes:
        outer: Outer parameters of the best fit, shape (k,).
        plateau: Its plateau, shape ().
        linear: Its linear parameters, shape (q,).
        rss: Its sum of squares.
        minima: Places of the minima found, the best first, shape (j, d); the higher ones are only neared.
        minima_rss: Their sums of squares, shape (j,).
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        place = self.starts(self.grid())
        for steps, tolerance, most, apart in _ROUNDS:
            place, rss = self.distinct(*self.down(place, steps, tolerance), most, apart)
        for most, factor, steps in _LAST:
            first = min(most, int(np.sum(rss <= factor * rss[0])))
            place[:first], rss[:first] = self.down(place[:first], steps)
            place, rss = self.distinct(place, rss, _MINIMA, _SAME)
        self.minima, self.minima_rss = place, rss
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
        starts = self._starts()
        here = self.problem.residual(*self.unplaced(starts))[0]
        jacobian = slopes(
            lambda at, _: self.problem.residual(*self.unplaced(at))[0], starts, None, here, self.limits(), exact=False
        )
        size = max(_AT_ONCE // here.size, 1)
        refits = [self._refit(targets[i : i + size], starts, jacobian) for i in range(0, len(targets), size)]
        return self.unplaced(np.concatenate(refits))

    def _starts(self) -> Array:
        outer = self.grid(_REFITS[len(self.box)][0])
        plateau = self.profiled(outer)[0]
        if self.has_plateau and not self.problem.scale_known:
            # Where the law is flat no slope leads out; where it is straight, a bent one may be as near.
            plateau = np.concatenate([np.minimum(plateau, coordinate(np.array(0.1))), np.zeros(len(outer))])
            outer = np.tile(outer, (2, 1))
        return np.concatenate([self.minima, self.places(outer, plateau)])

    def _refit(self, targets: Array, starts: Array, jacobian: Array) -> Array:
        _, descents, finish = _REFITS[len(self.box)]
        count = len(targets)
        left, ends = self._judged(targets, starts, jacobian)
        rows, chosen = np.arange(count), []
        for _ in range(descents):
            chosen.append(np.argmin(left, axis=0))
            near = np.max(np.abs(ends - ends[chosen[-1], :, rows].T[None]), axis=1) < 0.15
            left = np.where(near, np.inf, left)
        at, rss = self.down(starts[np.concatenate(chosen)], steps=6, targets=np.tile(targets, (descents, 1)))
        order = np.argsort(rss.reshape(descents, count), axis=0)[:finish]
        at = at.reshape(descents, count, -1)[order, rows].reshape(finish * count, -1)
        at, rss = self.down(at, steps=60, targets=np.tile(targets, (finish, 1)))
        best = np.argmin(rss.reshape(finish, count), axis=0)
        refit: Array = at.reshape(finish, count, -1)[best, rows]
        return refit

    def _judged(self, targets: Array, starts: Array, jacobian: Array) -> tuple[Array, Array]:
        """Return the sum of squares that a step from each start promises (p, b), and where it leads (p, d, b)."""
        outer, plateau = self.unplaced(starts[:, None])
        rest = self.problem.residual(outer, plateau, targets[None])[0]
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
