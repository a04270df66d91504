"""Bootstrap by cluster: what is resampled together is what runs share.

Sizes are a design and stay; what is random is resampled around the fitted law: the luck of each pre-training run (the
residual of its cell, which all its runs share), the runs within it where several fine-tuning sizes share it, and the
luck of each draw of shots, which strikes all sizes alike. Residuals are inflated for the parameters fitted. All
resamples are refitted at once: one matrix product finds their starts on a grid, and damped Gauss-Newton steps finish.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lightning_tl.errors import UserError
from lightning_tl.laws.fitted_law import FittedLaw, Interval
from lightning_tl.laws.forms import Array


@dataclass(frozen=True)
class Bootstrap:
    """Refits of resampled runs.

    Attributes:
        law: The law that was resampled.
        samples: Parameters by name, each of shape (count,).
        seed: Seed of the resampling.
    """

    law: FittedLaw
    samples: dict[str, Array]
    seed: int

    @property
    def count(self) -> int:
        """Number of resamples."""
        return len(next(iter(self.samples.values())))

    def interval(self, name: str, level: float | None = None) -> Interval:
        """Return the percentile interval of a parameter."""
        half = (1 - (level or self.law.level)) / 2
        low, high = np.quantile(self.samples[name], [half, 1 - half])
        return float(low), float(high)

    def predict(self, n: float, s: float | None = None) -> Array:
        """Return each refit's error at a size, shape (count,)."""
        size, other = np.full(self.count, float(n)), np.full(self.count, float(s or self.law.cells.s.min()))
        # The forms' formulas work elementwise, so parameters may be arrays too.
        return self.law.form.predict(self.samples, size, other)  # type: ignore[arg-type]

    def probability_above(self, name: str, value: float) -> float:
        """Return the share of refits in which a parameter is above a value."""
        return float(np.mean(self.samples[name] > value))


def bootstrap(law: FittedLaw, count: int = 1000, seed: int = 0) -> Bootstrap:
    """Resample the runs of a law by cluster and refit.

    Args:
        law: The law.
        count: Resamples.
        seed: Seed.

    Returns:
        The refits' parameters.

    Raises:
        UserError: Fewer than one resample, or too few points to have residuals.
    """
    if count < 1:
        raise UserError(f"{count} bootstrap resamples; give 1 or more")
    own = len(law.cells.n) - len(law.form.parameters)
    if own < 1:
        raise UserError(f"{len(law.cells.n)} points leave no residuals to resample")
    rng = np.random.default_rng(seed)
    problem, search = law.search.problem, law.search
    fitted = law.predict(law.cells.n, law.cells.s)
    centre = fitted if problem.linear_space else np.log(fitted)
    targets = centre + _residuals(problem.target - centre, law.cells.cluster, count, rng, law.shared > 0, own)
    if problem.linear_space:
        targets = np.maximum(targets, fitted * 1e-3)
    outer, plateau = search.refitted(targets)
    linear = problem.residual(outer, plateau, problem.aims(targets))[1]
    luck = _draws(law.cells.offsets, count, rng)
    samples = {}
    for name in law.form.parameters:
        offset, coefficients = problem.form.quantity(name, problem.sizes)(outer, plateau)
        value = offset + linear @ coefficients + (luck if name in law.form.levels else 0.0)
        samples[name] = np.exp(value) if name in law.form.scales else value
    return Bootstrap(law, samples, seed)


def _residuals(residual: Array, cluster: Array, count: int, rng: np.random.Generator, shared: bool, dof: int) -> Array:
    """Return resampled residuals, shape (count, m)."""
    points = len(residual)
    inflated = residual * np.sqrt(points / dof)
    resampled: Array
    if not shared:
        resampled = inflated[rng.integers(points, size=(count, points))]
        return resampled
    codes, of, counts = np.unique(cluster, return_inverse=True, return_counts=True)
    of = np.asarray(of).ravel()
    means = np.bincount(of, inflated) / counts
    within = inflated - means[of]
    picked = means[rng.integers(len(codes), size=(count, len(codes)))]
    resampled = picked[:, of] + within[rng.integers(points, size=(count, points))]
    return resampled


def _draws(offsets: Array, count: int, rng: np.random.Generator) -> Array:
    """Return resampled means of the draws' offsets, shape (count,); zeros where draws are not shared."""
    draws = len(offsets)
    if draws < 2:
        return np.zeros(count)
    inflated = offsets * np.sqrt(draws / (draws - 1))
    means: Array = inflated[rng.integers(draws, size=(count, draws))].mean(axis=1)
    return means
