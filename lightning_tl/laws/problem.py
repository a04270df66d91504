"""The least-squares problem of one fit: sums of squares over a form's grid, with the linear part solved exactly.

In log space (the default, Mikami et al. §4.1) the residual is ``log error - shape - columns @ linear``. In linear space
it is ``error - scale * exp(shape)``, with the scale solved. Points may be weighted; points that share a pre-training
run may be correlated (then residuals are whitened); and log space may hold a prior on a parameter, which is one more
row of the problem and serves for given, shared and partially pooled coefficients alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lightning_tl.laws.forms import Array, Form, Quantity, Sizes, Unfolded

#: Weight of a prior that holds its parameter fixed: far above any data's, far below what rounding would feel.
FIXED = 1e6


@dataclass(frozen=True)
class Prior:
    """What is known of a parameter besides the points: a row ``weight * (value - parameter)^2`` of the sum of squares.

    Attributes:
        name: The parameter.
        value: Its value, in natural units.
        weight: Residual variance over the prior's variance (of the log, for scales); :data:`FIXED` holds it.
    """

    name: str
    value: float
    weight: float = FIXED

    @property
    def fixed(self) -> bool:
        """Whether it holds the parameter fixed."""
        return self.weight >= FIXED


@dataclass(frozen=True)
class Points:
    """What a law is fitted to.

    Attributes:
        sizes: Sizes, shape (m,).
        log_error: Log errors, shape (m,).
        weight: Weights of the squared residuals, shape (m,).
        cluster: Which points share a pre-training run, integers of shape (m,), or ``None`` where each has its own.
        shared: Variance that a cluster's points share over the variance of each by itself.
    """

    sizes: Sizes
    log_error: Array
    weight: Array
    cluster: Array | None = None
    shared: float = 0.0


def _finite(offset: Array) -> Array:
    """Return log scales with a floor: where D would be 0 a prior on D is missed by far, and no infinity spreads."""
    return np.maximum(offset, -60.0)


class Problem:
    """Sums of squares of one fit.

    Args:
        form: The law.
        points: What it is fitted to.
        space: ``"log"`` or ``"linear"``.
        priors: What is known of parameters besides.
    """

    def __init__(self, form: Form, points: Points, space: str = "log", priors: tuple[Prior, ...] = ()) -> None:
        self.linear_space = space == "linear"
        self.form = Unfolded(form) if self.linear_space else form
        self.points = points
        self.sizes = points.sizes
        self.target = np.exp(points.log_error) if self.linear_space else points.log_error
        self._values = np.array([self._inner(prior) for prior in priors])
        self._root = np.sqrt(points.weight)
        self._mix = self._whitening()
        self._priors = [(self.form.quantity(prior.name, self.sizes), np.sqrt(prior.weight)) for prior in priors]
        # One residual for each point, and one for each prior.
        columns = self._whiten(self.form.columns(self.sizes).T).T
        grid = np.ones((1, len(self.form.outer))), np.full(1, 0.5)
        self.columns = np.vstack([columns, *[root * of(*grid)[1][None] for of, root in self._priors]])
        self.covariance: Array = np.linalg.pinv(self.columns.T @ self.columns).astype(float)
        self._solver = self.covariance @ self.columns.T

    def _inner(self, prior: Prior) -> float:
        return float(np.log(prior.value)) if prior.name in self.form.scales else prior.value

    def _wanted(self, target: Array | None) -> tuple[Array, Array]:
        """Return the points' target (..., m) and the priors' values (..., priors)."""
        if target is None:
            return self.target, self._values
        count = len(self.target)
        return target[..., :count], target[..., count:] if target.shape[-1] > count else self._values

    def _whitening(self) -> Array | None:
        """Return what is taken off each residual: a share of its cluster's sum (the root of I + shared J, inverted)."""
        cluster, shared = self.points.cluster, self.points.shared
        if cluster is None or shared <= 0:
            return None
        same = (cluster[:, None] == cluster[None]).astype(float)
        count = same.sum(axis=1, keepdims=True)
        return same * (1 - 1 / np.sqrt(1 + shared * count)) / count

    def _whiten(self, rows: Array) -> Array:
        """Weight and decorrelate rows of shape (..., m)."""
        rows = rows * self._root
        return rows if self._mix is None else rows - rows @ self._mix

    def rows(self, outer: Array, plateau: Array, target: Array | None = None) -> Array:
        """Return whitened ``target - shape`` (log space) or ``exp(shape)`` (linear space), priors' rows appended."""
        shape = self.form.shape(outer, plateau, self.sizes)
        if self.linear_space:
            return self._whiten(np.exp(shape))
        wanted, values = self._wanted(target)
        rows = self._whiten(wanted - shape)
        priors = [
            root * (values[..., i] - _finite(of(outer, plateau)[0]))[..., None]
            for i, (of, root) in enumerate(self._priors)
        ]
        return np.concatenate([rows, *priors], axis=-1) if priors else rows

    def residual(self, outer: Array, plateau: Array, target: Array | None = None) -> tuple[Array, Array]:
        """Return the residuals (..., m) and the solved linear parameters (..., q) at grid points.

        In linear space the linear parameter is the log of the scale.
        """
        rows = self.rows(outer, plateau, target)
        if not self.linear_space:
            linear = rows @ self._solver.T
            return rows - linear @ self.columns.T, linear
        points, values = self._wanted(target)
        wanted = self._whiten(points)
        if self._priors:  # held by a fixed scale
            scale = np.exp(values[..., 0] - _finite(self._priors[0][0](outer, plateau)[0]))
        else:
            scale = np.maximum(np.sum(rows * wanted, axis=-1) / np.sum(rows**2, axis=-1), 1e-300)
        return wanted - scale[..., None] * rows, np.log(scale)[..., None]

    def rss(self, outer: Array, plateau: Array) -> Array:
        """Return the sum of squares at grid points outer (..., k), plateau (...)."""
        return np.sum(self.residual(outer, plateau)[0] ** 2, axis=-1)

    def rss_many(self, outer: Array, plateau: Array, targets: Array) -> Array:
        """Return the sums of squares (g, b) of b targets (b, m) at g grid points, by one matrix product."""
        rows = self.rows(outer, plateau, np.zeros(len(self.target)))
        wanted = self._whiten(targets)
        if self.linear_space and self._priors:  # held by a fixed scale
            rows = rows * np.exp(self._values[0] - _finite(self._priors[0][0](outer, plateau)[0]))[:, None]
            return np.sum(wanted**2, axis=1) - 2 * rows @ wanted.T + np.sum(rows**2, axis=1)[:, None]
        if self.linear_space:
            return np.sum(wanted**2, axis=1) - (rows @ wanted.T) ** 2 / np.sum(rows**2, axis=1)[:, None]
        if self._priors:
            wanted = np.concatenate([wanted, np.zeros((len(targets), len(self._priors)))], axis=1)
        wanted = wanted - (wanted @ self._solver.T) @ self.columns.T
        rows = rows - (rows @ self._solver.T) @ self.columns.T
        return np.sum(wanted**2, axis=1) + 2 * rows @ wanted.T + np.sum(rows**2, axis=1)[:, None]

    # ---- how the sum of squares grows with a quantity, at a grid point ----------------------------------------------

    def _spread(self, coefficients: Array) -> float:
        return float(coefficients @ self.covariance @ coefficients)

    def _information(self, outer: Array, plateau: Array) -> Array:
        """Return the weight of the squared scale in linear space, shape (g,); infinite where it is held."""
        if self._priors:
            return np.full(plateau.shape, np.inf)
        return np.sum(self.rows(outer, plateau) ** 2, axis=-1)

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
        return np.log(np.maximum(np.exp(centre) - half, 1e-300)), np.log(np.exp(centre) + half)

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
