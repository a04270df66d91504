"""Learning curves of kernel ridge regression and of low-rank updates; derivations in docs/labs.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lightning_tl.errors import UserError
from lightning_tl.labs.outcome import Array
from lightning_tl.labs.ridge_equivalent import Equivalent, equivalent


@dataclass(frozen=True)
class Residual:
    """What the pre-trained part leaves to learn, as a function of its size m.

    Attributes:
        name: In tables and figures.
        squares: m → squares of the residual's coefficients in the kernel's eigenfunctions, shape (d,).
        noise: Variance of the labels' noise; with noise the ridge is the best one, without it is 0.
        exponent: x of samples ∝ m^-x for a given error; ``None``: no power is predicted.
    """

    name: str
    squares: Callable[[float], Array]
    noise: float
    exponent: float | None


@dataclass(frozen=True)
class KernelRidge:
    """Kernel ridge regression in the kernel's eigenfunctions.

    Attributes:
        eigenvalues: Of the kernel, shape (d,), falling.
    """

    eigenvalues: Array

    def solved(self, squares: Array, samples: float, noise: float) -> Equivalent:
        """Return the deterministic equivalent: at ridge 0, or with noise at the ridge of the smallest error.

        Args:
            squares: Of the function's coefficients, shape (d,).
            samples: Their number s.
            noise: Variance of the labels' noise.
        """
        from scipy.optimize import minimize_scalar

        least = equivalent(self.eigenvalues, samples)
        if noise == 0:
            return least
        # every λ above that of ridge 0 belongs to one ridge, so that λ itself can be searched
        low = np.log(max(least.shrinkage, 1e-12 * self.eigenvalues[0]))
        high = np.log(100 * self.eigenvalues[0])

        def log_error(log_shrinkage: float) -> float:
            tried = Equivalent(self.eigenvalues, samples, float(np.exp(log_shrinkage)))
            return float(np.log(tried.risk(squares / self.eigenvalues, noise)))

        found = minimize_scalar(log_error, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
        return Equivalent(self.eigenvalues, samples, float(np.exp(found.x)))

    def error(self, squares: Array, samples: float, noise: float) -> float:
        """Return the excess error; arguments as for :meth:`solved`."""
        return self.solved(squares, samples, noise).risk(squares / self.eigenvalues, noise)

    def ridge(self, squares: Array, samples: float, noise: float) -> float:
        """Return the ridge ρ that :meth:`solved` uses; arguments as there."""
        if noise == 0:
            return 0.0
        shrinkage = self.solved(squares, samples, noise).shrinkage
        degrees = float(np.sum(self.eigenvalues / (self.eigenvalues + shrinkage)))
        return max(0.0, shrinkage * (1 - degrees / samples))


def samples_needed(error: Callable[[float], float], target: float, least: float, most: float) -> float:
    """Return the number of samples at which a falling learning curve reaches an error.

    Args:
        error: Samples → error.
        target: The error to reach.
        least: Smallest number looked at.
        most: Largest number looked at.

    Raises:
        UserError: The error is reached before the smallest number, or not by the largest.
    """
    from scipy.optimize import brentq

    if not error(most) < target < error(least):
        raise UserError(
            f"the error {target:.3g} is not reached between {least:g} and {most:g} samples; "
            "choose sizes closer together, or more samples"
        )
    root = brentq(lambda log_s: np.log(error(float(np.exp(log_s))) / target), np.log(least), np.log(most), xtol=1e-9)
    return float(np.exp(root))


def low_rank_error(rank: int, inputs: int, outputs: int, samples: float, noise: float) -> float:
    """Return the excess error of least squares over updates of a linear layer of the residual's own rank.

    It is σ²[r(d_out − r)/(s − r − 1) + r d_in/(s − d_in − 1)] for Gaussian inputs, to the first order in the noise;
    σ²r(d_in + d_out − r)/s for many samples.

    Args:
        rank: r, of the residual and of the update.
        inputs: d_in.
        outputs: d_out.
        samples: s > d_in + 1.
        noise: Variance σ² of each output's noise.
    """
    columns = rank * (outputs - rank) / (samples - rank - 1)
    rows = rank * inputs / (samples - inputs - 1)
    return noise * (columns + rows)
