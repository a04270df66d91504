"""Ridge regression and interpolation with many features: what the risk tends to (deterministic equivalents).

A model w on features x = Σ^½ z (z independent, mean 0, variance 1) is fitted to m samples of y = xᵀw* + ε, with
noise of variance σ², from a start w₀, by minimising ‖Xw − y‖²/m + ρ‖w − w₀‖²; at ρ = 0 it is the interpolator that is
nearest to w₀. With v = w* − w₀ and the λ > 0 that solves m (1 − ρ/λ) = Tr Σ(Σ + λ)⁻¹,

    excess risk R = [λ² vᵀΣ(Σ + λ)⁻²v + σ² d₂/m] / (1 − d₂/m),   d₂ = Tr Σ²(Σ + λ)⁻².

In the eigenbasis of Σ the remaining error w* − w has the mean λ v_i/(σ_i + λ) and the variance
(R + σ²)/m · σ_i/(σ_i + λ)². Derivation and assumptions: docs/labs.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lightning_tl.labs.outcome import Array


@dataclass(frozen=True)
class Equivalent:
    """The deterministic equivalent of a regression.

    Attributes:
        eigenvalues: Of Σ, shape (d,).
        samples: Their number m.
        shrinkage: The effective λ; 0 for least squares with more samples than features.
    """

    eigenvalues: Array
    samples: float
    shrinkage: float

    @property
    def second_degrees(self) -> float:
        """Tr Σ²(Σ + λ)⁻²."""
        return float(np.sum((self.eigenvalues / (self.eigenvalues + self.shrinkage)) ** 2))

    def risk(self, squares: Array, noise: float = 0.0) -> float:
        """Return the excess risk E (xᵀ(w − w*))².

        Args:
            squares: v_i², squares of w* − w₀ in the eigenbasis, shape (d,).
            noise: Variance σ² of the labels' noise.
        """
        values, shrinkage = self.eigenvalues, self.shrinkage
        bias = float(np.sum(shrinkage**2 * values * squares / (values + shrinkage) ** 2))
        share = self.second_degrees / self.samples
        return (bias + noise * share) / (1 - share)

    def remaining(self, squares: Array, noise: float = 0.0) -> Array:
        """Return E (w* − w)_i² in the eigenbasis, shape (d,); arguments as for :meth:`risk`."""
        values, shrinkage = self.eigenvalues, self.shrinkage
        spread = (self.risk(squares, noise) + noise) / self.samples
        result: Array = (shrinkage**2 * squares + spread * values) / (values + shrinkage) ** 2
        return result


def equivalent(eigenvalues: Array, samples: float, ridge: float = 0.0) -> Equivalent:
    """Solve the fixed point for λ.

    Args:
        eigenvalues: Of Σ, all over 0, shape (d,).
        samples: Their number m.
        ridge: ρ.
    """
    from scipy.optimize import brentq

    values = np.asarray(eigenvalues, float)
    if ridge == 0 and samples >= len(values):
        return Equivalent(values, samples, 0.0)

    def excess(log_shrinkage: float) -> float:
        shrinkage = np.exp(log_shrinkage)
        return float(np.sum(values / (values + shrinkage)) - samples * (1 - ridge / shrinkage))

    # at the lower end the trace is the larger side, at the upper end the smaller one
    low = np.log(ridge) if ridge else np.log(values.min()) - 60
    high = np.log(ridge + values.sum() / samples) + 1e-9
    return Equivalent(values, samples, float(np.exp(brentq(excess, low, high, xtol=1e-13, rtol=1e-14))))
