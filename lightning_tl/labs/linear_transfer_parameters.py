"""Parameters of the linear-transfer lab, and the spectra and starts that follow from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lightning_tl.labs.lab import Lab
from lightning_tl.labs.outcome import Array

#: Decay of the covariance's eigenvalues in the second part: i^-this.
_DECAY = 1.0


@dataclass(frozen=True)
class LinearTransferParameters(Lab):
    """Fine-tune a linear model from w₀ to interpolation on s < d target samples.

    Attributes:
        d: Number of features.
        ratios: κ = s/d of the target samples, each in (0, 1).
        distances: ‖w* − w₀‖², the squared distance of the target's truth from the pre-trained start.
        noise: Variance of the target labels' noise.
        mean: ‖μ‖: half the distance between the two classes.
        along: Component of the classifier's start along μ.
        across: Length of the rest of that start.
        draws: Independent draws of features for each point.
        surface_d: Number of features of the surface over (n, s).
        seed: Of all random numbers.
    """

    d: int = 1000
    ratios: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.85)
    distances: tuple[float, ...] = (0.5, 1.0, 2.0)
    noise: float = 0.5
    mean: float = 1.5
    along: float = 0.3
    across: float = 0.3
    draws: int = 8
    surface_d: int = 100

    def check(self) -> None:
        """See :meth:`Lab.check`."""
        self.require("d", 200, 5000)  # the law over (n, s) is fitted to sizes below d
        self.require("ratios", 1 / self.d, 1 - 2 / self.d)
        self.require("distances", 1e-6, 1e6)
        self.require("noise", 0, 1e6)
        self.require("mean", 1e-3, 10)
        self.require("along", -100, 100)
        self.require("across", 0, 100)
        self.require("draws", 2, 1000)
        self.require("surface_d", 20, 400)

    def samples(self, ratio: float) -> int:
        """Return s for a ratio κ."""
        return max(1, round(ratio * self.d))

    def spectrum(self) -> Array:
        """Return the eigenvalues of the part with a general covariance, of mean 1, shape (d,)."""
        values = np.arange(1, self.d + 1) ** -_DECAY
        scaled: Array = values / values.mean()
        return scaled

    def class_start(self, spectrum: bool) -> tuple[Array, Array, Array]:
        """Return eigenvalues, μ and w₀ of the classification, each of shape (d,)."""
        values = self.spectrum() ** 0.5 if spectrum else np.ones(self.d)
        rng = self.random(4)
        mean = rng.standard_normal(self.d)
        mean *= self.mean / np.linalg.norm(mean)
        other = rng.standard_normal(self.d)
        other -= mean * (mean @ other) / self.mean**2
        start: Array = self.along * mean / self.mean + self.across * other / np.linalg.norm(other)
        return values, mean, start
