"""Fit a law to errors at several sizes; the fitted law answers with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr

from lightning_tl.errors import UserError
from lightning_tl.laws.forms import Array, Form, Functional, Sizes, TransferLaw
from lightning_tl.laws.pairing import Cells, cells, half_width, widened
from lightning_tl.laws.region import Points, Profile, Region, noise_variance, threshold

#: Sizes beyond this are reported as out of reach.
MOST_IMAGES = 1e12
#: Level of the region that probabilities are read from.
_WIDE = 0.999
Interval = tuple[float, float]


@dataclass(frozen=True)
class ImagesNeeded:
    """Pre-training size at which the law reaches a target error.

    Attributes:
        target: The target error.
        estimate: Images at which the fitted law reaches it; infinite where it never does.
        low: Lower end of the interval in images.
        high: Upper end; infinite where the data do not bound it.
        never: Confidence that the law stays above the target up to :data:`MOST_IMAGES` images: C is above it, or the
            curve so flat that it makes no difference.
        largest: Largest size measured, to see how far this extrapolates.
    """

    target: float
    estimate: float
    low: float
    high: float
    never: float
    largest: float


@dataclass
class FittedLaw:
    """A law fitted in log space, with the uncertainty that its points leave.

    Attributes:
        form: The form fitted.
        cells: The independent points (see :mod:`lightning_tl.laws.pairing`).
        params: Parameters by name; errors are fractions, sizes are images.
        level: Confidence level of intervals, default 0.95.
    """

    form: Form
    cells: Cells
    level: float = 0.95
    params: dict[str, float] = field(init=False)
    _profile: Profile = field(init=False, repr=False)
    _regions: dict[float, Region] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        sizes = Sizes(self.cells.n, self.cells.s, float(self.cells.n.min()), float(self.cells.s.min()))
        points = Points(sizes, self.cells.log_error, np.ones(len(sizes.n)))
        self._profile = Profile(self.form, points)
        self.params = {name: self._natural(name, self._value(self._parameter(name))) for name in self.form.parameters}

    # ---- what was fitted -------------------------------------------------------------------------------------------

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the scatter about the law: independent points less parameters."""
        return len(self.cells.n) - len(self.form.parameters)

    @property
    def noise(self) -> float:
        """Standard deviation of log error of a point about the law; nan with no degrees of freedom."""
        return float(np.sqrt(noise_variance(self._profile.best_rss, self.freedom)))

    @property
    def log_rmse(self) -> float:
        """Root mean square of log error - log law over the points."""
        return float(np.sqrt(self._profile.best_rss / len(self.cells.n)))

    @cached_property
    def stderr(self) -> dict[str, float]:
        """Standard errors from the Jacobian (as in the paper), the draws' share of the level included.

        They describe the curvature at the optimum and no more: with few points, prefer :meth:`interval`.
        """
        if self.freedom < 1:
            return dict.fromkeys(self.form.parameters, np.nan)
        slope = self.form.slope(self.params, self.cells.n, self.cells.s)
        scale = np.where(np.abs(slope).max(axis=0) > 0, np.abs(slope).max(axis=0), 1)
        covariance = np.linalg.pinv((slope / scale).T @ (slope / scale)) / np.outer(scale, scale) * self.noise**2
        first = self.form.scales[0]  # the level (D, delta); C follows it, gamma does not
        moved = {first, "C"} & set(self.form.parameters)
        draw = self.cells.draw_variance
        return {
            name: float(np.sqrt(covariance[i, i] + (draw * self.params[name] ** 2 if name in moved else 0)))
            for i, name in enumerate(self.form.parameters)
        }

    # ---- functionals -----------------------------------------------------------------------------------------------

    def _region(self, level: float) -> Region:
        if level not in self._regions:
            self._regions[level] = self._profile.region(threshold(self._profile.best_rss, self.freedom, level))
        return self._regions[level]

    def _parameter(self, name: str, region: Region | None = None) -> Functional:
        outer, plateau = self._grid(region)
        return self.form.functional(name, outer, plateau, self._profile.points.sizes)

    def _level(self, n: float, s: float | None = None, region: Region | None = None) -> Functional:
        """Return the law's log error at one size."""
        outer, plateau = self._grid(region)
        sizes = self._profile.points.sizes.at(n, s)
        return self.form.shape(outer, plateau, sizes)[..., 0], self.form.columns(sizes)[0]

    def _grid(self, region: Region | None) -> tuple[Array, Array]:
        if region is not None:
            return region.outer, region.plateau
        return self._profile.best_outer[None], self._profile.best_plateau[None]

    def _value(self, functional: Functional) -> float:
        return float(functional[0][0] + self._profile.best_linear @ functional[1])

    def _natural(self, name: str, value: float) -> float:
        return float(np.exp(value)) if name in self.form.scales else value

    def _moves_with_draws(self, coefficients: Array) -> bool:
        return bool(len(self.cells.offsets)) and coefficients[0] != 0

    def _draw_half(self, level: float) -> float:
        return half_width(self.cells.draw_variance, self.cells.draw_freedom, level)

    # ---- answers ---------------------------------------------------------------------------------------------------

    def interval(self, name: str, level: float | None = None) -> Interval:
        """Return the profile-likelihood interval of a parameter.

        Args:
            name: One of ``form.parameters``.
            level: Confidence level, default the fit's.

        Returns:
            Lower and upper end; 0 or infinity where the data do not bound it.

        Raises:
            UserError: The form has no such parameter.
        """
        if name not in self.form.parameters:
            raise UserError(f"no parameter {name!r} in {self.form.formula}; it has {', '.join(self.form.parameters)}")
        level = level or self.level
        if self.freedom < 1:
            return 0.0, np.inf
        region = self._region(level)
        functional = self._parameter(name, region)
        low, high = region.extent(functional)
        if self._moves_with_draws(functional[1]):
            centre = self._value(self._parameter(name))
            if np.isfinite(centre):
                low, high = widened(low, centre, high, self._draw_half(level))
            else:
                high += self._draw_half(level)
        low, high = self._natural(name, low), self._natural(name, high)
        for other, (lower, upper) in self.form.outer.items():
            # The edge of the grid stands for no bound; the scale D n^-alpha has then none either.
            if name == other:
                low, high = (0.0 if low <= lower * 1.001 else low), (np.inf if high >= upper * 0.999 else high)
            elif name == self.form.scales[0] and region.outer.max() >= upper * 0.999:
                high = np.inf
        return low, high

    def predict(self, n: ArrayLike, s: ArrayLike | None = None) -> Array:
        """Return the law's error at pre-training sizes ``n`` (images) and fine-tuning sizes ``s``, shape (m,)."""
        sizes = self._profile.points.sizes.at(n, s)
        return self.form.predict(self.params, sizes.n, sizes.s)

    def band(self, n: ArrayLike, s: ArrayLike | None = None, level: float | None = None) -> tuple[Array, Array]:
        """Return the interval of the law itself (the mean error) at sizes ``n``: two arrays of shape (m,)."""
        return self._limits(n, s, level, new_run=False, new_draw=False)

    def predict_interval(
        self, n: ArrayLike, s: ArrayLike | None = None, level: float | None = None, *, same_draws: bool = False
    ) -> tuple[Array, Array]:
        """Return the interval in which a new pre-training run's error at sizes ``n`` falls.

        Args:
            n: Pre-training sizes in images.
            s: Fine-tuning sizes in images, for laws that use them.
            level: Confidence level, default the fit's.
            same_draws: The new runs are fine-tuned on the draws already seen, and averaged as these were.

        Returns:
            Lower and upper ends, each of shape (m,).
        """
        return self._limits(n, s, level, new_run=True, new_draw=not same_draws, draws=not same_draws)

    def _limits(
        self,
        n: ArrayLike,
        s: ArrayLike | None,
        level: float | None,
        *,
        new_run: bool,
        new_draw: bool,
        draws: bool = True,
    ) -> tuple[Array, Array]:
        level = level or self.level
        sizes = np.atleast_1d(np.asarray(n, float))
        if self.freedom < 1:
            return np.zeros_like(sizes), np.full_like(sizes, np.inf)
        targets = np.broadcast_to(np.asarray(self.cells.s.min() if s is None else s, float), sizes.shape)
        region = self._region(level)
        extra_draw = 0.0
        if draws and len(self.cells.offsets):
            variance = self.cells.draw_variance * (1 + (len(self.cells.offsets) if new_draw else 0))
            extra_draw = half_width(variance, self.cells.draw_freedom, level)
        ends = []
        for size, target in zip(sizes, targets, strict=True):
            low, high = region.extent(self._level(size, target, region), extra=1.0 if new_run else 0.0)
            ends.append(widened(low, self._value(self._level(size, target)), high, extra_draw))
        low_high = np.exp(np.array(ends))
        return low_high[:, 0], low_high[:, 1]

    def log_ratio(
        self, n: float, other: float, s: float | None = None, level: float | None = None
    ) -> tuple[float, Interval]:
        """Return log(law(other) / law(n)) and its interval: what going from n to other images changes."""
        if self.freedom < 1:
            return self._value(self._level(other, s)) - self._value(self._level(n, s)), (-np.inf, np.inf)
        region = self._region(level or self.level)
        far, near = self._level(other, s, region), self._level(n, s, region)
        estimate = self._value(self._level(other, s)) - self._value(self._level(n, s))
        return estimate, region.extent((far[0] - near[0], far[1] - near[1]))

    def log_level(self, n: float, s: float | None = None, level: float | None = None) -> tuple[float, Interval]:
        """Return log law(n) and its interval for the draws at hand (their luck not included)."""
        estimate = self._value(self._level(n, s))
        if self.freedom < 1:
            return estimate, (-np.inf, np.inf)
        region = self._region(level or self.level)
        return estimate, region.extent(self._level(n, s, region))

    def probability_above(self, name: str, value: float) -> float:
        """Return the confidence that parameter ``name`` is above ``value``.

        It is the level of the one-sided profile-likelihood bound that ends at ``value``: an interval from ``value``
        upwards covers with this probability. At a bound (C = 0) it starts from one half.
        """
        goal = float(np.log(value)) if name in self.form.scales else value
        if self.freedom < 1:
            return np.nan
        return self._confidence_above(self._parameter(name), self._parameter(name, self._region(_WIDE)), goal)

    def probability_of_reduction(self, n: float, other: float, fraction: float, s: float | None = None) -> float:
        """Return the confidence that going from n to ``other`` images lowers the error by more than ``fraction``."""
        if self.freedom < 1:
            return np.nan
        near, far = (self._level(size, s) for size in (n, other))
        wide = self._region(_WIDE)
        near_wide, far_wide = (self._level(size, s, wide) for size in (n, other))
        best = (near[0] - far[0], near[1] - far[1])
        over = (near_wide[0] - far_wide[0], near_wide[1] - far_wide[1])
        return self._confidence_above(best, over, float(-np.log1p(-fraction)))

    def probability_error_above(self, n: float, error: float, s: float | None = None) -> float:
        """Return the confidence that the law at ``n`` images is above ``error``."""
        if self.freedom < 1:
            return np.nan
        return self._confidence_above(self._level(n, s), self._level(n, s, self._region(_WIDE)), float(np.log(error)))

    def _confidence_above(self, best: Functional, wide: Functional, goal: float) -> float:
        centre = self._value(best)
        rise = max(self._region(_WIDE).least_rss(wide, goal) - self._profile.best_rss, 0.0)
        root, freedom = np.sqrt(rise) / self.noise, float(self.freedom)
        if self._moves_with_draws(best[1]) and np.isfinite(centre) and 0 < root < np.inf:
            # The miss in units of both sources' spread, with Satterthwaite's degrees of freedom.
            spread, draw = ((goal - centre) / root) ** 2, self.cells.draw_variance
            freedom = (spread + draw) ** 2 / (spread**2 / freedom + draw**2 / max(self.cells.draw_freedom, 1))
            root = abs(goal - centre) / np.sqrt(spread + draw)
        return float(stdtr(freedom, root if centre > goal else -root))

    def images_needed(self, target: float, s: float | None = None, level: float | None = None) -> ImagesNeeded:
        """Return how many pre-training images bring the error down to ``target``.

        The interval holds the sizes at which the law's band contains the target.

        Args:
            target: Target error, in (0, 1).
            s: Fine-tuning size, for laws that use it.
            level: Confidence level, default the fit's.

        Raises:
            UserError: The target is not in (0, 1).
        """
        if not 0 < target < 1:
            raise UserError(f"target error {target:g} is not between 0 and 1; an error of 10 % is 0.1")
        grid = np.geomspace(1, MOST_IMAGES, 601)
        low, high = self.band(grid, s, level)
        return ImagesNeeded(
            target=target,
            estimate=_crossing(grid, self.predict(grid, s), target),
            low=_crossing(grid, low, target),
            high=_crossing(grid, high, target),
            never=self.probability_error_above(MOST_IMAGES, target, s),
            largest=float(self.cells.n.max()),
        )

    # ---- identification --------------------------------------------------------------------------------------------

    def unidentified(self, name: str) -> str | None:
        """Return why the data do not bound a parameter, or ``None`` where they do.

        A parameter is identified where one-sided bounds at the fit's level exclude each limit of its range: C = 0 and
        gamma = 0, alpha = 0 and alpha growing without bound.
        """
        sizes = np.unique(self.cells.n)
        decades = float(np.log10(sizes[-1] / sizes[0]))
        span = f"{len(sizes)} sizes over {decades:.1f} decade{'' if f'{decades:.1f}' == '1.0' else 's'}"
        if self.freedom < 1:
            need = len(self.form.parameters) + 1
            return f"{len(self.cells.n)} points for {len(self.form.parameters)} parameters; {need} are needed"
        one_sided = 2 * self.level - 1
        low, high = self.interval(name, level=one_sided)
        if name != "alpha" and "alpha" in self.form.outer and self.interval("alpha", level=one_sided)[0] <= 0:
            return f"the curve is flat within its noise ({span})"
        if name in ("C", "gamma"):
            if low > 0:
                return None
            return f"the curve has not bent: a straight power law ({name} = 0) fits as well ({span})"
        if name == "alpha" and low <= 0:
            return f"the curve is flat within its noise ({span})"
        if name == "alpha" and not np.isfinite(high):
            return f"the curve falls once and is flat after; any steeper fall fits as well ({span})"
        if not np.isfinite(high) or low <= 0:
            return f"the points do not bound it ({span})"
        return None

    def at_bound(self, name: str) -> bool:
        """Return whether the best value of a parameter lies at its bound (C = 0, alpha at an end of its range)."""
        value = self.params[name]
        if name in self.form.outer:
            lower, upper = self.form.outer[name]
            return value <= lower * 1.001 or value >= upper * 0.999
        return value == 0 or not np.isfinite(value)


def _crossing(sizes: Array, error: Array, target: float) -> float:
    """Return the first size at which a falling curve reaches the target, between grid points by log interpolation."""
    reached = np.flatnonzero(error <= target)
    if not len(reached):
        return np.inf
    i = int(reached[0])
    if i == 0:
        return float(sizes[0])
    before, after = np.log(error[i - 1] / target), np.log(error[i] / target)
    part = before / (before - after) if before != after else 1.0
    return float(np.exp(np.log(sizes[i - 1]) + part * np.log(sizes[i] / sizes[i - 1])))


def fit(
    form: Form | None = None,
    *,
    n: ArrayLike,
    error: ArrayLike,
    s: ArrayLike | None = None,
    pretrain: Sequence[Any] | None = None,
    draw: Sequence[Any] | None = None,
    level: float = 0.95,
) -> FittedLaw:
    """Fit a law to test errors by least squares in log-log space (Mikami et al., arXiv 2108.11018, §4.1).

    Args:
        form: The law, default :class:`TransferLaw`.
        n: Pre-training sizes in images, each over 0, shape (runs,).
        error: Test errors (1 - score) in (0, 1], shape (runs,).
        s: Fine-tuning sizes in images, shape (runs,), for :class:`FullLaw`.
        pretrain: Labels of pre-training runs (a seed), shape (runs,): runs of one size and label share one.
        draw: Labels of the draws of fine-tuning data, shape (runs,): one label at several sizes is one draw.
        level: Confidence level of intervals.

    Returns:
        The fitted law: ``.params``, ``.stderr``, ``.interval(name)``, ``.predict(n)``, ``.predict_interval(n)``,
        ``.images_needed(target)``.

    Raises:
        UserError: Sizes or errors are out of range, of different lengths, or too few for the form.
    """
    form = form or TransferLaw()
    sizes, errors = np.asarray(n, float).ravel(), np.asarray(error, float).ravel()
    others = None if s is None else np.asarray(s, float).ravel()
    for name, values in (("n", sizes), ("error", errors), ("s", others), ("pretrain", pretrain), ("draw", draw)):
        if values is not None and len(np.asarray(values, dtype=object)) != len(sizes):
            length = len(np.asarray(values, dtype=object))
            raise UserError(f"{name} has {length} values and n has {len(sizes)}; give one a run")
    if not np.all(np.isfinite(sizes)) or np.any(sizes <= 0):
        bad = sizes[~(np.isfinite(sizes) & (sizes > 0))][0]
        raise UserError(f"pre-training size n = {bad:g}: a law needs sizes over 0 (n = 0 is the scratch baseline)")
    if not np.all(np.isfinite(errors)) or np.any((errors <= 0) | (errors > 1)):
        bad = errors[~((errors > 0) & (errors <= 1))][0]
        raise UserError(f"error {bad:g} is not in (0, 1]; give 1 - score as a fraction")
    if form.uses_s and others is None:
        raise UserError(f"{form.formula} needs the fine-tuning sizes: fit(..., s=[...])")
    if others is not None and (not np.all(np.isfinite(others)) or np.any(others <= 0)):
        raise UserError("fine-tuning sizes s must be over 0")
    if not len(sizes):
        raise UserError("no runs to fit")
    averaged = cells(sizes, np.log(errors), others if form.uses_s else None, pretrain, draw)
    if len(np.unique(averaged.n)) < 2:
        raise UserError(
            f"all runs have n = {sizes[0]:g}; a law needs several sizes" if len(sizes) else "no runs to fit"
        )
    if form.uses_s and len(np.unique(averaged.s)) < 2:
        raise UserError(f"all runs have s = {averaged.s[0]:g}; the full law needs several fine-tuning sizes")
    if len(averaged.n) < len(form.parameters):
        found = f"{len(averaged.n)} independent points" if len(averaged.n) < len(sizes) else f"{len(sizes)} points"
        raise UserError(f"{found} for the {len(form.parameters)} parameters of {form.formula}")
    return FittedLaw(form, averaged, level)
