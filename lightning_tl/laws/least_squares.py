"""The least-squares problem of one fit: sums of squares at given nonlinear parameters, with the linear part solved.

In log space (the default, Mikami et al. §4.1) the residual is
``log error - nonlinear_log_error - design_matrix @ linear``. In linear space it is
``error - scale * exp(nonlinear_log_error)``, with the scale solved. Points may be weighted; points that share a
pre-training run may be correlated (then residuals are whitened). A prior on a parameter is one more row of the problem,
which serves for partially pooled coefficients; a parameter that is held is substituted, so that it holds exactly.

Points of equal sizes enter by their mean, with one constant row for their scatter about it: the sum of squares is
the same, and costs as much as there are sizes. Problems of one shape can be stacked, to be evaluated in one call.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_tl.laws.forms import Array, Form, Quantity, ResidualSpace, Sizes, Unfolded
from lightning_tl.laws.points import Means, Points

#: A prior of this weight or more holds its parameter.
FIXED = 1e6
#: Floor of log scales: where D would be 0 a held D is missed by far, and no infinity spreads.
_LEAST_LOG = -1e4
#: Log scales are cut off here in linear space, where they are exponentiated and squared.
_MOST_LOG = 300.0
#: Arrays of a problem that stacked problems have one of each.
_STACKED = ("_goal", "_root", "design", "_solver")
_STACKED_WITH_PRIORS = ("_values", "_soft_roots", "_lift", "_free", "_all", "_needs")


@dataclass(frozen=True)
class Prior:
    """What is known of a parameter besides the points: a row ``weight * (value - parameter)^2`` of the sum of squares.

    Attributes:
        name: The parameter.
        value: Its value, in natural units.
        weight: Residual variance over the prior's variance (of the log, for scales); from :data:`FIXED` on it is held.
    """

    name: str
    value: float
    weight: float = FIXED

    @property
    def fixed(self) -> bool:
        """Whether it holds the parameter."""
        return self.weight >= FIXED


def sum_of_squares(residuals: Array) -> Array:
    """Return the sum of squares over the last axis: (..., m) gives (...)."""
    total: Array = np.einsum("...m,...m->...", residuals, residuals)
    return total


class Problem:
    """Sums of squares of one fit, or of several that are stacked (see :meth:`stacked`).

    Args:
        form: The law.
        points: What it is fitted to.
        space: ``"log"`` or ``"linear"``.
        priors: What is known of parameters besides.
    """

    def __init__(
        self, form: Form, points: Points, space: ResidualSpace = "log", priors: tuple[Prior, ...] = ()
    ) -> None:
        self.linear_space = space == "linear"
        self.form = Unfolded(form) if self.linear_space else form
        self.points = points
        self._means = Means(points)
        self.sizes = self._means.sizes
        self.target = np.exp(points.log_error) if self.linear_space else points.log_error
        self.priors = priors
        self.stack_size: int | None = None
        self._values = np.array([self._inner(prior) for prior in priors])
        self._root = self._means.root
        self._mix = self._whitening()
        self._goal = self.aims(self.target)
        self._quantities = [self.form.quantity(prior.name, self.sizes) for prior in priors]
        self._soft = [i for i, prior in enumerate(priors) if not prior.fixed]
        self._soft_roots = np.array([np.sqrt(priors[i].weight) for i in self._soft])
        self._fixed = [i for i, prior in enumerate(priors) if prior.fixed]
        # How each prior's parameter depends on the linear ones: the same at every grid point.
        everywhere = np.ones((1, len(self.form.outer))), np.full(1, 0.5)
        count = self.form.design_matrix(self.sizes).shape[1]
        needs = np.array([of(*everywhere)[1] for of in self._quantities]).reshape(-1, count)
        held = needs[self._fixed]
        self._lift: Array = np.linalg.pinv(held).astype(float) if len(held) else np.zeros((count, 0))
        # Directions in which the linear parameters can still move.
        self._free: Array = np.linalg.svd(held)[2][len(held) :].T if len(held) else np.eye(count)
        self._all = self._whiten(self.form.design_matrix(self.sizes).T).T
        self._needs = needs
        # One residual for each point, and one for each soft prior.
        soft = [root * needs[i] @ self._free for i, root in zip(self._soft, self._soft_roots, strict=True)]
        scale = [i for i, prior in enumerate(priors) if prior.name == form.parameters[0]] if form.has_plateau else []
        self._scaled = scale[0] if scale else None
        if scale:
            self._unscaled = Problem(form, points, space, tuple(p for i, p in enumerate(priors) if i != scale[0]))
        self.design: Array = np.vstack([self._all @ self._free, *soft])
        self.covariance: Array = np.linalg.pinv(self.design.T @ self.design).astype(float)
        self._solver = self.covariance @ self.design.T

    # ---- several at once --------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[Any, ...]:
        """What problems must have in common to be stacked."""
        own = () if self._mix is None else (id(self),)
        references = (self.sizes.n_ref, self.sizes.s_ref) if self.priors else ()
        held = tuple((prior.name, prior.fixed) for prior in self.priors)
        return (self.form.formula, self.linear_space, len(self._root), held, references, own)

    @staticmethod
    def stacked(problems: Sequence[Problem]) -> Problem:
        """Return problems of one :attr:`shape` as one, to be evaluated at rows that :meth:`at` picks."""
        if len(problems) == 1:
            return problems[0]
        stack = copy.copy(problems[0])
        stack.stack_size = len(problems)
        for name in stack._stacked_arrays():
            setattr(stack, name, np.stack([getattr(problem, name) for problem in problems]))
        stack.sizes = Sizes.stacked([problem.sizes for problem in problems])
        if stack._scaled is not None:
            stack._unscaled = Problem.stacked([problem._unscaled for problem in problems])
        return stack

    def at(self, which: NDArray[np.int64]) -> Problem:
        """Return the problems of these numbers, one for each row that is evaluated; a single problem is itself."""
        if self.stack_size is None:
            return self
        rows = copy.copy(self)
        for name in self._stacked_arrays():
            setattr(rows, name, getattr(self, name)[which])
        rows.sizes = self.sizes.rows(which)
        if rows._scaled is not None:
            rows._unscaled = self._unscaled.at(which)
        return rows

    def _stacked_arrays(self) -> tuple[str, ...]:
        return (*_STACKED, *(_STACKED_WITH_PRIORS if self.priors else ()))

    def _inner(self, prior: Prior) -> float:
        return float(np.log(prior.value)) if prior.name in self.form.scales else prior.value

    def aims(self, targets: Array) -> Array:
        """Return what residuals are taken from, for targets (..., runs): whitened means, and the scatter about them."""
        means, scatter = self._means.of(targets)
        aims = self._whiten(means)
        if scatter is not None:
            aims[..., -1] = scatter
        return aims

    def _wanted(self, aims: Array | None) -> tuple[Array, Array]:
        """Return the points' aims (..., m) and the priors' values (..., priors)."""
        if aims is None:
            return self._goal, self._values
        count = self._goal.shape[-1]
        return aims[..., :count], aims[..., count:] if aims.shape[-1] > count else self._values

    def _whitening(self) -> Array | None:
        """Return what is taken off each residual: a share of its cluster's sum (the root of I + shared J, inverted)."""
        cluster, shared = self.points.cluster, self.points.shared
        if cluster is None or shared <= 0:
            return None
        same = (cluster[:, None] == cluster[None]).astype(float)
        count = same.sum(axis=1, keepdims=True)
        mix: Array = same * (1 - 1 / np.sqrt(1 + shared * count)) / count
        return mix

    def _whiten(self, rows: Array) -> Array:
        """Weight and decorrelate rows of shape (..., m)."""
        rows = rows * self._root
        return rows if self._mix is None else rows - rows @ self._mix

    def _missing(self, prior: int, outer: Array, plateau: Array, values: Array) -> Array:
        """Return a prior's value less the part of its parameter that is not linear."""
        return values[..., prior] - np.maximum(self._quantities[prior](outer, plateau)[0], _LEAST_LOG)

    def _fixed_part(self, outer: Array, plateau: Array, values: Array) -> Array:
        """Return the part of the linear parameters that held parameters determine, shape (..., q)."""
        held: Array = np.zeros(self._free.shape[-2])
        for column, i in enumerate(self._fixed):
            held = held + self._missing(i, outer, plateau, values)[..., None] * self._lift[..., column]
        return held

    def _rows(self, outer: Array, plateau: Array, aims: Array, values: Array, held: Array | None) -> Array:
        """Return whitened rows of the problem, before the linear parameters are solved.

        In log space these are the aims less ``nonlinear_log_error`` less the part that fixed priors determine, with one
        more row for each soft prior; in linear space they are ``exp(nonlinear_log_error)``.
        """
        nonlinear = self.form.nonlinear_log_error(outer, plateau, self.sizes)
        if self.linear_space:
            return self._whiten(np.exp(nonlinear))
        rows = aims - self._whiten(nonlinear)
        if held is not None:
            rows = rows - _product(held, self._all)
        if not self._soft:
            return rows
        soft = []
        for place, i in enumerate(self._soft):
            missing = self._missing(i, outer, plateau, values)
            root = self._soft_roots[..., place]
            soft.append(root * (missing if held is None else missing - np.sum(held * self._needs[..., i, :], axis=-1)))
        return np.concatenate(
            [rows, *(np.broadcast_to(row[..., None], (*rows.shape[:-1], 1)) for row in soft)], axis=-1
        )

    def _scale(self, outer: Array, plateau: Array, values: Array) -> Array:
        """Return the held scale in linear space."""
        return np.exp(np.minimum(self._missing(0, outer, plateau, values), _MOST_LOG))

    def residual(self, outer: Array, plateau: Array, aims: Array | None = None) -> tuple[Array, Array]:
        """Return the residuals (..., m) and the linear parameters (..., q) at grid points.

        In linear space the linear parameter is the log of the scale.

        Args:
            outer: Outer parameters, shape (..., k).
            plateau: Plateaus, shape (...).
            aims: What :meth:`aims` gives for other targets, with the values of priors appended where they differ too;
                shape (..., m) or (..., m + priors).
        """
        wanted, values = self._wanted(aims)
        held = self._fixed_part(outer, plateau, values) if self._fixed and not self.linear_space else None
        rows = self._rows(outer, plateau, wanted, values, held)
        if not self.linear_space:
            if held is not None and not self._free.shape[-1]:
                return rows, held
            free = _product(rows, self._solver)
            return rows - _product(free, self.design), free if held is None else held + _product(free, self._free)
        if self.priors:
            scale = self._scale(outer, plateau, values)
        else:
            scale = np.maximum(np.sum(rows * wanted, axis=-1) / np.sum(rows**2, axis=-1), 1e-300)
        return wanted - scale[..., None] * rows, np.log(scale)[..., None]

    def rss(self, outer: Array, plateau: Array) -> Array:
        """Return the sum of squares at grid points outer (..., k), plateau (...)."""
        return sum_of_squares(self.residual(outer, plateau)[0])

    @property
    def scale_known(self) -> bool:
        """Whether the scale of the part that falls with n is held or has a prior."""
        return self._scaled is not None

    def rest_for_scale(self, outer: Array, plateau: Array, aims: Array | None = None) -> Array | None:
        """Return which part that falls with n would give the scale its prior's value; ``None`` without such a prior.

        Args:
            outer: Outer parameters, shape (..., k).
            plateau: Plateaus of curves that, fitted to the points, give the level of the error, shape (...).
            aims: Aims for each, see :meth:`residual`; default the problem's own.

        Returns:
            1 - share (see :func:`lightning_tl.laws.forms.split`), in [0, 1], shape (...).
        """
        if self._scaled is None:
            return None
        values = self._wanted(aims)[1][..., self._scaled]
        rest = None if aims is None else np.delete(aims, self._goal.shape[-1] + self._scaled, axis=-1)
        linear = self._unscaled.residual(outer, plateau, rest)[1]
        # With the plateau 0 all of the error falls with n: the scale's log is less by the log of the part that does.
        whole = self._quantities[self._scaled](outer, np.zeros(outer.shape[:-1]))[0]
        needed = np.asarray(values - whole) - np.sum(linear * self._needs[..., self._scaled, :], axis=-1)
        falling: Array = np.exp(np.clip(needed, _LEAST_LOG, 0.0))
        return falling

    # ---- how the sum of squares grows with a quantity, at a grid point ----------------------------------------------

    def _spread(self, coefficients: Array) -> float:
        free = coefficients @ self._free
        return float(free @ self.covariance @ free)

    def _information(self, outer: Array, plateau: Array) -> Array:
        """Return the weight of the squared scale in linear space, shape (g,); infinite where it is held."""
        if self.priors:
            return np.full(plateau.shape, np.inf)
        return sum_of_squares(self._rows(outer, plateau, self._goal, self._values, None))

    def reach(
        self, quantity: Quantity, outer: Array, plateau: Array, linear: Array, slack: Array, extra: float = 0.0
    ) -> tuple[Array, Array]:
        """Return the least and largest value of a quantity at each grid point, with ``slack`` to spare in the RSS.

        Args:
            quantity: The quantity.
            outer: Outer parameters, shape (g, k).
            plateau: Plateau, shape (g,).
            linear: Solved linear parameters, shape (g, q).
            slack: RSS that may be added, shape (g,), at least 0.
            extra: Variance of a new observation of the quantity over the residual variance; 0 for the law itself.
        """
        offset, coefficients = quantity(outer, plateau)
        centre = offset + linear @ coefficients
        if not self.linear_space:
            half = np.sqrt(slack * (self._spread(coefficients) + extra))
            return centre - half, centre + half
        if coefficients[0] == 0:
            return centre, centre
        unit = np.exp(offset)
        half = np.sqrt(slack * (unit**2 / self._information(outer, plateau) + extra))
        low, high = (np.log(np.maximum(np.exp(centre) + side, 1e-300)) for side in (-half, half))
        return low, high

    def rise(self, quantity: Quantity, outer: Array, plateau: Array, linear: Array, value: float, away: float) -> Array:
        """Return what the RSS gains at each grid point when a quantity is moved to ``value`` or beyond.

        Args:
            quantity: The quantity.
            outer: Outer parameters, shape (g, k).
            plateau: Plateau, shape (g,).
            linear: Solved linear parameters, shape (g, q).
            value: Where it is moved to.
            away: Sign of ``value`` less the best fit's: grid points already beyond gain nothing.
        """
        offset, coefficients = quantity(outer, plateau)
        miss = (value - (offset + linear @ coefficients)) * away
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            if not self.linear_space:
                gain = miss**2 / self._spread(coefficients)
            elif coefficients[0] == 0:
                gain = np.full(miss.shape, np.inf)
            else:
                there = np.exp(value - offset) - np.exp(linear[..., 0])
                gain = self._information(outer, plateau) * there**2
        return np.where(miss <= 0, 0.0, gain)


def _product(vectors: Array, matrix: Array) -> Array:
    """Return vectors (..., r) times a matrix (f, r), or each times its own (..., f, r); shape (..., f)."""
    result: Array = vectors @ matrix.T if matrix.ndim == 2 else np.einsum("...r,...fr->...f", vectors, matrix)
    return result
