"""A fitted law: its parameters, and answers with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import InitVar, dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr

from lightning_tl.errors import UserError
from lightning_tl.laws.clusters import Cells, widened
from lightning_tl.laws.forms import Array, Form, Quantity, ResidualSpace, Sizes
from lightning_tl.laws.identification import at_bound, unidentified
from lightning_tl.laws.images_needed import ImagesNeeded, size_needed
from lightning_tl.laws.jacobian_errors import jacobian_errors
from lightning_tl.laws.least_squares import Prior, Problem
from lightning_tl.laws.points import Points
from lightning_tl.laws.region import Region, noise_variance, regions_of, threshold
from lightning_tl.laws.search import Search, searched

#: Level of the region that probabilities are read from.
WIDE = 0.999
Interval = tuple[float, float]


@dataclass
class FittedLaw:
    """A law with the uncertainty that its points leave. :func:`lightning_tl.laws.fit` makes one.

    Attributes:
        form: The form fitted.
        cells: The independent points (see :mod:`lightning_tl.laws.clusters`).
        level: Confidence level of intervals, default 0.95.
        space: ``"log"`` or ``"linear"``: where residuals are taken.
        priors: Parameters held, or known from elsewhere.
        shared: Variance that points of one pre-training run share, over that of each by itself (full law).
        pooled: Residual variance and degrees of freedom taken from several groups, ``None``: from this one.
        found: The search of these points, where it has been made together with others (see :meth:`many`).
        params: Parameters by name; errors are fractions, sizes are images.
    """

    form: Form
    cells: Cells
    level: float = 0.95
    space: ResidualSpace = "log"
    priors: tuple[Prior, ...] = ()
    shared: float = 0.0
    pooled: tuple[float, int] | None = None
    found: InitVar[Search | None] = None
    params: dict[str, float] = field(init=False)
    _search: Search = field(init=False, repr=False)
    _regions: dict[float, Region] = field(init=False, repr=False, default_factory=dict)
    _intervals: dict[tuple[str, float], Interval] = field(init=False, repr=False, default_factory=dict)
    _log_levels: dict[tuple[float, float | None, float], Interval] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self, found: Search | None) -> None:
        own = (self.form, self.cells, self.space, self.priors, self.shared)
        self._search = found or searched([_problem(*own)])[0]
        self.params = {name: self._natural(name, self._search.best(self._of(name))) for name in self.form.parameters}

    @classmethod
    def many(
        cls,
        form: Form,
        groups: Sequence[Cells],
        level: float,
        space: ResidualSpace,
        priors: Sequence[tuple[Prior, ...]],
        shared: Sequence[float],
        pooled: tuple[float, int] | None = None,
    ) -> list[FittedLaw]:
        """Return the laws of many groups, searched for together; see the attributes."""
        each = list(zip(groups, priors, shared, strict=True))
        searches = searched([_problem(form, cells, space, held, variance) for cells, held, variance in each])
        return [
            cls(form, cells, level, space, held, variance, pooled, search)
            for (cells, held, variance), search in zip(each, searches, strict=True)
        ]

    # ---- what was fitted -------------------------------------------------------------------------------------------

    @property
    def search(self) -> Search:
        """The search that found the fit, for the bootstrap and the loss landscape."""
        return self._search

    @property
    def dof(self) -> int:
        """Degrees of freedom of the scatter about the law: independent points less free parameters."""
        if self.pooled is not None:
            return self.pooled[1]
        own = len(self.cells.n) - len(self.form.parameters) + sum(prior.fixed for prior in self.priors)
        if self.shared > 0:  # alpha, gamma and the level depend on the number of pre-training runs, not of points
            own = min(own, len(np.unique(self.cells.cluster)) - 3)
        return own

    @cached_property
    def noise(self) -> float:
        """Standard deviation of a point about the law (of log error, in linear space of error); nan if unknown."""
        if self.pooled is not None:
            return float(np.sqrt(self.pooled[0]))
        unit = float(np.exp(self.cells.log_error.mean())) if self.space == "linear" else 1.0
        return float(np.sqrt(noise_variance(self._search.rss, self.dof, unit)))

    @property
    def log_noise(self) -> float:
        """Standard deviation of a point's log error about the law."""
        return self.noise / float(np.exp(self.cells.log_error.mean())) if self.space == "linear" else self.noise

    @property
    def residuals(self) -> Array:
        """Log error less log law at each point, shape (m,)."""
        return self.cells.log_error - np.log(self.predict(self.cells.n, self.cells.s))

    @property
    def log_rmse(self) -> float:
        """Root mean square of log error - log law over the points."""
        return float(np.sqrt(np.mean(self.residuals**2)))

    @cached_property
    def stderr(self) -> dict[str, float]:
        """Standard errors from the Jacobian (as in the paper), with what draws and test images add to the level.

        They describe the curvature at the optimum and no more: with few points, prefer :meth:`interval`.
        """
        if self.dof < 1:
            return dict.fromkeys(self.form.parameters, np.nan)
        return jacobian_errors(self.form, self.cells, self.params, self.priors, self.noise, self.space)

    # ---- quantities ------------------------------------------------------------------------------------------------

    def _of(self, name: str) -> Quantity:
        return self._search.problem.form.quantity(name, self._search.problem.sizes)

    def _log_error(self, n: float, s: float | None = None) -> Quantity:
        """Return the law's log error at one size."""
        form, sizes = self._search.problem.form, self._search.problem.sizes.at(n, s)
        return lambda outer, plateau: (
            form.nonlinear_log_error(outer, plateau, sizes)[..., 0],
            form.design_matrix(sizes)[0],
        )

    def _log_change(self, n: float, other: float, s: float | None, other_s: float | None = None) -> Quantity:
        near, far = self._log_error(n, s), self._log_error(other, s if other_s is None else other_s)

        def change(outer: Array, plateau: Array) -> tuple[Array, Array]:
            (far_offset, far_columns), (offset, columns) = far(outer, plateau), near(outer, plateau)
            return far_offset - offset, far_columns - columns

        return change

    def region(self, level: float) -> Region:
        """Return the confidence region of this level, once computed."""
        prepare_regions([(self, level)])
        return self._regions[level]

    def forget_regions(self) -> None:
        """Free the memory of regions once the questions are asked; an interval that was asked for stays known."""
        self._regions.clear()

    def _natural(self, name: str, value: float) -> float:
        return float(np.exp(value)) if name in self.form.scales else value

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
        key = (name, level or self.level)
        if key not in self._intervals:
            self._intervals[key] = self._interval(*key)
        return self._intervals[key]

    def _interval(self, name: str, level: float) -> Interval:
        if any(prior.fixed and prior.name == name for prior in self.priors):
            return self.params[name], self.params[name]
        if self.dof < 1:
            return 0.0, np.inf
        region = self.region(level)
        low, high = region.extent(self._of(name))
        shift = self.cells.level_half_width(level)
        if name in self.form.levels and shift > 0:
            centre = self._search.best(self._of(name))
            low, high = widened(low, centre, high, shift) if np.isfinite(centre) else (low, high + shift)
        low, high = self._natural(name, low), self._natural(name, high)
        for i, (other, (lower, upper)) in enumerate(self._search.problem.form.outer.items()):
            # At the edge of the grid there is no bound; the scale D n^-alpha has then none either.
            if name == other and name not in self.form.scales:
                low, high = (0.0 if low <= lower * 1.001 else low), (np.inf if high >= upper * 0.999 else high)
            elif other == self.form.exponents.get(name) and region.outer[:, i].max() >= upper * 0.999:
                high = np.inf
        return low, high

    def predict(self, n: ArrayLike, s: ArrayLike | None = None) -> Array:
        """Return the law's error at pre-training sizes ``n`` (images) and fine-tuning sizes ``s``, shape (m,)."""
        sizes = self._search.problem.sizes.at(n, s)
        return self.form.predict(self.params, sizes.n, sizes.s)

    def band(self, n: ArrayLike, s: ArrayLike | None = None, level: float | None = None) -> tuple[Array, Array]:
        """Return the interval of the law itself (the mean error) at sizes ``n``: two arrays of shape (m,)."""
        shift = self.cells.level_half_width(level or self.level)
        return self._limits(n, s, level, extra=0.0, shift=shift)

    def predict_interval(
        self, n: ArrayLike, s: ArrayLike | None = None, level: float | None = None, *, same_draws: bool = False
    ) -> tuple[Array, Array]:
        """Return the interval in which a new pre-training run's error at sizes ``n`` falls.

        Args:
            n: Pre-training sizes in images.
            s: Fine-tuning sizes in images, for laws that use them.
            level: Confidence level, default the fit's.
            same_draws: The new runs are fine-tuned on the draws already seen, averaged as these were, and tested on
                the same images; else it is one run on a draw of its own, and its error that on images of any number.

        Returns:
            Lower and upper ends, each of shape (m,).
        """
        extra, shift = 1.0 + self.shared, 0.0
        if not same_draws:
            variance = self.cells.draw_variance * (1 + len(self.cells.offsets))
            if self.cells.residual_dof > 0 and self.space == "log" and self.dof > 0:
                # Points are means over several runs; one run has more noise than a mean.
                share = 1 - 1 / float(self.cells.runs.mean())
                extra += self.cells.residual_variance * share / self.noise**2
            extra = max(extra - self._of_images(), 0.0)
            shift = self.cells.level_half_width(level or self.level, variance)
        return self._limits(n, s, level, extra=extra, shift=shift)

    def _of_images(self) -> float:
        """Return which part of a run's scatter the test images make by themselves, in units of the residual variance.

        It is no part of an error on images of any number.
        """
        own = self.cells.own_image_variance
        if own is None or self.space == "linear" or not self.noise > 0:
            return 0.0
        return float(np.median(1 - 1 / self.cells.weight + own * self.cells.runs / self.noise**2))

    def _limits(
        self, n: ArrayLike, s: ArrayLike | None, level: float | None, *, extra: float, shift: float
    ) -> tuple[Array, Array]:
        level = level or self.level
        sizes = np.atleast_1d(np.asarray(n, float))
        if self.dof < 1:
            return np.zeros_like(sizes), np.full_like(sizes, np.inf)
        targets = np.broadcast_to(np.asarray(self.cells.s.min() if s is None else s, float), sizes.shape)
        region = self.region(level)
        ends = []
        for size, target in zip(sizes, targets, strict=True):
            quantity = self._log_error(size, target)
            low, high = region.extent(quantity, extra)
            ends.append(widened(low, self._search.best(quantity), high, shift))
        low_high = np.exp(np.array(ends))
        return low_high[:, 0], low_high[:, 1]

    def log_ratio(
        self,
        n: float,
        other: float,
        s: float | None = None,
        level: float | None = None,
        *,
        other_s: float | None = None,
    ) -> tuple[float, Interval]:
        """Return log(law(other) / law(n)) and its interval: what going from n to other images changes.

        Args:
            n: Pre-training size.
            other: The other one.
            s: Second size, for laws that use it.
            level: Confidence level, default the fit's.
            other_s: Second size at ``other``, default ``s``.
        """
        change = self._log_change(n, other, s, other_s)
        if self.dof < 1:
            return self._search.best(change), (-np.inf, np.inf)
        return self._search.best(change), self.region(level or self.level).extent(change)

    def log_error(self, n: float, s: float | None = None) -> float:
        """Return log law(n)."""
        return self._search.best(self._log_error(n, s))

    def log_level(self, n: float, s: float | None = None, level: float | None = None) -> tuple[float, Interval]:
        """Return log law(n) and its interval for the draws at hand (their luck not included)."""
        quantity, key = self._log_error(n, s), (n, s, level or self.level)
        if self.dof < 1:
            return self._search.best(quantity), (-np.inf, np.inf)
        if key not in self._log_levels:
            self._log_levels[key] = self.region(key[2]).extent(quantity)
        return self._search.best(quantity), self._log_levels[key]

    def probability_above(self, name: str, value: float) -> float:
        """Return the confidence that parameter ``name`` is above ``value``.

        It is the level of the one-sided profile-likelihood bound that ends at ``value``: an interval from ``value``
        upwards covers with this probability. At a bound (C = 0) it starts from one half.
        """
        goal = float(np.log(value)) if name in self.form.scales else value
        return self._confidence_above(self._of(name), goal, name in self.form.levels)

    def probability_of_reduction(self, n: float, other: float, fraction: float, s: float | None = None) -> float:
        """Return the confidence that going from n to ``other`` images lowers the error by more than ``fraction``."""
        confidence = self._confidence_above(self._log_change(n, other, s), float(np.log1p(-fraction)), False)
        return 1 - confidence

    def probability_error_above(self, n: float, error: float, s: float | None = None) -> float:
        """Return the confidence that the law at ``n`` images is above ``error``."""
        return self._confidence_above(self._log_error(n, s), float(np.log(error)), True)

    def _confidence_above(self, quantity: Quantity, goal: float, of_level: bool) -> float:
        if self.dof < 1:
            return np.nan
        centre = self._search.best(quantity)
        rise = max(self.region(WIDE).least_rss(quantity, goal) - self._search.rss, 0.0)
        root, dof = np.sqrt(rise) / self.noise, float(self.dof)
        draw, images = self.cells.draw_variance, self.cells.image_variance
        if of_level and draw + images > 0 and np.isfinite(centre) and 0 < root < np.inf:
            # The miss in units of all sources' spread, with Satterthwaite's degrees of freedom.
            spread = ((goal - centre) / root) ** 2
            total = spread + draw + images
            dof = total**2 / (spread**2 / dof + draw**2 / max(self.cells.draw_dof, 1))
            root = abs(goal - centre) / np.sqrt(total)
        return float(stdtr(dof, root if centre > goal else -root))

    def images_needed(
        self,
        target: float,
        s: float | None = None,
        level: float | None = None,
        *,
        over: Literal["n", "s"] = "n",
        n: float | None = None,
    ) -> ImagesNeeded:
        """Return how many pre-training images, or fine-tuning images, bring the error down to ``target``.

        The interval holds the sizes at which the law's band contains the target.

        Args:
            target: Target error, in (0, 1).
            s: Fine-tuning size, for laws that use it, over ``n``.
            level: Confidence level, default the fit's.
            over: ``n``: the pre-training images at ``s``. ``s``: the fine-tuning images at ``n``, for a law that uses
                both sizes. (A law that was fitted to fine-tuning sizes in place of n is solved for them over ``n``.)
            n: Pre-training size over ``s``, default the largest one fitted.

        Raises:
            UserError: The target is not in (0, 1), the law knows no fine-tuning size, or a size has no meaning here.
        """
        return size_needed(self, target, s, level, over=over, n=n)

    # ---- identification --------------------------------------------------------------------------------------------

    def unidentified(self, name: str) -> str | None:
        """Return why the data do not bound a parameter, or ``None`` where they do; see :func:`.unidentified`."""
        return unidentified(self, name)

    def at_bound(self, name: str) -> bool:
        """Return whether the best value of a parameter lies at its bound (C = 0, alpha at an end of its range)."""
        outer = self._search.problem.form.outer
        return at_bound(self.params[name], None if name in self.form.scales else outer.get(name))


def _problem(form: Form, cells: Cells, space: ResidualSpace, priors: tuple[Prior, ...], shared: float) -> Problem:
    sizes = Sizes(cells.n, cells.s, float(cells.n.min()), float(cells.s.min()))
    return Problem(form, Points(sizes, cells.log_error, cells.weight, cells.cluster, shared), space, priors)


def prepare_regions(asked: Iterable[tuple[FittedLaw, float]]) -> None:
    """Compute the confidence regions of many laws together, each at a level, where they are not known yet."""
    new = {(id(law), level): (law, level) for law, level in asked if level not in law._regions}
    limits = [threshold(law.search.rss, law.noise**2, law.dof, level) for law, level in new.values()]
    regions = regions_of([law.search for law, _ in new.values()], limits)
    for (law, level), region in zip(new.values(), regions, strict=True):
        law._regions[level] = region
