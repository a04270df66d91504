"""Random features of mean 0 and variance 1 by the name of their distribution."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lightning_tl.labs.outcome import Array

#: Share of the entries that are not 0 in sparse features.
SPARSE = 0.25
#: Degrees of freedom of Student's t: with finite fourth moments, and without.
HEAVY, HEAVIER, SHARED = 6.0, 2.5, 3.0


def _gaussian(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    return rng.standard_normal(shape)


def _rademacher(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    return 2.0 * rng.integers(0, 2, shape) - 1


def _uniform(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    return rng.uniform(-(3**0.5), 3**0.5, shape)


def _sparse(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    values: Array = rng.standard_normal(shape) * (rng.random(shape) < SPARSE) / SPARSE**0.5
    return values


def _student(rng: np.random.Generator, shape: tuple[int, int], freedom: float) -> Array:
    values: Array = rng.standard_t(freedom, shape) * ((freedom - 2) / freedom) ** 0.5
    return values


def _shared_radius(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Draw a multivariate t: the entries of one sample share a random factor, so they are not independent."""
    radius = ((SHARED - 2) / rng.chisquare(SHARED, (shape[0], 1))) ** 0.5
    values: Array = rng.standard_normal(shape) * radius
    return values


#: Distributions with independent entries and finite fourth moments: one curve for all of them.
UNIVERSAL: dict[str, Callable[[np.random.Generator, tuple[int, int]], Array]] = {
    "Gaussian": _gaussian,
    "Rademacher": _rademacher,
    "uniform": _uniform,
    "sparse": _sparse,
    "Student, 6 degrees": lambda rng, shape: _student(rng, shape, HEAVY),
}
#: Without finite fourth moments: independent entries, and entries of a sample that share a factor.
OUTSIDE: dict[str, Callable[[np.random.Generator, tuple[int, int]], Array]] = {
    "Student, 2.5 degrees": lambda rng, shape: _student(rng, shape, HEAVIER),
    "multivariate Student, 3 degrees": _shared_radius,
}


def noise_factor(name: str) -> float:
    """Return E[1/r²] for samples x = r z: what the labels' noise is multiplied by in an interpolator."""
    return SHARED / (SHARED - 2) if name == "multivariate Student, 3 degrees" else 1.0
