"""The kernel limit of pre-training and fine-tuning, exact in deterministic equivalents; derivations in docs/labs.md.

All functions are given by the squares of their coefficients in the kernel's eigenfunctions, with signs at random. In
both phases the model is fitted by ridge regression towards its start, at the ridge that stands for averaged SGD.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lightning_tl.labs.interpolation import nearest_interpolator
from lightning_tl.labs.outcome import Array
from lightning_tl.labs.ridge_equivalent import Equivalent, equivalent

#: A frozen backbone keeps the functions of which pre-training learnt at least this share.
LEARNT = 0.9
#: Functions (signs of the coefficients) that are learnt from the same inputs.
_PROBLEMS = 96


@dataclass(frozen=True)
class KernelTransfer:
    """Two phases of ridge regression with one kernel.

    Attributes:
        d: Number of eigenfunctions.
        decay: ξ: eigenvalues are i^-ξ.
        source: r₀: squares of φ₀'s coefficients are i^-(2 r₀ ξ + 1).
        gap: r₁: squares of φ₁'s coefficients are ``gap_size`` i^-(2 r₁ ξ + 1).
        gap_size: Of φ₁.
        noise: Variance of the labels' noise, in both phases.
    """

    d: int
    decay: float
    source: float
    gap: float
    gap_size: float
    noise: float = 0.0

    @cached_property
    def eigenvalues(self) -> Array:
        """Of the kernel, shape (d,)."""
        values: Array = np.arange(1, self.d + 1.0) ** -self.decay
        return values

    def function(self, order: float) -> Array:
        """Return the squares of the coefficients of a function of source condition r, shape (d,)."""
        squares: Array = np.arange(1, self.d + 1.0) ** -(2 * order * self.decay + 1)
        return squares

    def ridge(self, order: float, samples: float) -> float:
        """Return ρ: 1/m, averaged SGD's at a constant rate; with noise that of the best rate, m^-ξ/(2rξ + 1)."""
        power = 1.0 if self.noise == 0 else self.decay / (2 * order * self.decay + 1)
        return float(samples**-power)

    def solved(self, order: float, samples: float) -> Equivalent:
        """Return the deterministic equivalent of learning a function of source condition r from m samples."""
        return equivalent(self.eigenvalues, samples, self.ridge(order, samples))

    def error(self, order: float, samples: float) -> float:
        """Return the error of learning a function of source condition r from a start at 0."""
        return self.solved(order, samples).risk(self.function(order) / self.eigenvalues, self.noise)

    def remaining(self, n: float) -> Array:
        """Return the squares of φ₀ less what pre-training on n samples learnt, shape (d,)."""
        solved = self.solved(self.source, n)
        left: Array = self.eigenvalues * solved.remaining(self.function(self.source) / self.eigenvalues, self.noise)
        return left

    def strong_error(self, n: float) -> float:
        """Return the error of pre-training in the norm of source condition r₁: Σ σ_i^(-2 r₁) (remaining)_i."""
        return float(np.sum(self.eigenvalues ** (-2 * self.gap) * self.remaining(n)))

    def kept(self, n: float) -> int:
        """Return the number of functions that a backbone frozen after n samples keeps."""
        shrinkage = self.solved(self.source, n).shrinkage
        return max(1, int(np.sum(self.eigenvalues >= shrinkage * LEARNT / (1 - LEARNT))))

    def transferred(self, n: float, s: float, frozen: bool) -> float:
        """Return the error on φ₀ + φ₁ after pre-training on n samples and fine-tuning on s.

        Args:
            n: Source samples.
            s: Target samples.
            frozen: Only the head is trained, on the functions that the backbone keeps; what lies outside acts as noise.
        """
        squares = self.remaining(n) + self.gap_size * self.function(self.gap)
        many = self.kept(n) if frozen else self.d
        outside, values = float(squares[many:].sum()), self.eigenvalues[:many]
        solved = equivalent(values, s, self.ridge(self.gap, s))
        return outside + solved.risk(squares[:many] / values, self.noise + outside)

    def simulated(self, rng: np.random.Generator, n: int, sizes: tuple[int, ...]) -> tuple[float, list[float]]:
        """Draw features and functions; learn φ₀ from n samples and φ₀ + φ₁ from s more.

        Args:
            rng: Of features, signs and noise.
            n: Source samples.
            sizes: Numbers of target samples.

        Returns:
            The error of pre-training in the stronger norm; the errors at each of the sizes, with everything fine-tuned,
            then with a frozen backbone.
        """
        truth = self._drawn(rng, self.function(self.source))
        start = self._learnt(rng, truth, 0 * truth, n, self.source, self.d)
        strong = float(np.mean(self.eigenvalues ** (-2 * self.gap) @ (truth - start) ** 2))
        goal = truth + self._drawn(rng, self.gap_size * self.function(self.gap))
        errors = []
        for many in (self.d, self.kept(n)):
            for s in sizes:
                reached = self._learnt(rng, goal, start, s, self.gap, many)
                errors.append(float(np.mean(np.sum((goal - reached) ** 2, axis=0))))
        return strong, errors

    def learnt(self, rng: np.random.Generator, order: float, samples: int) -> float:
        """Return the simulated error of learning a function of source condition r from a start at 0."""
        truth = self._drawn(rng, self.function(order))
        reached = self._learnt(rng, truth, 0 * truth, samples, order, self.d)
        return float(np.mean(np.sum((truth - reached) ** 2, axis=0)))

    def _drawn(self, rng: np.random.Generator, squares: Array) -> Array:
        """Return coefficients with signs at random, shape (d, problems)."""
        signs = 2.0 * rng.integers(0, 2, (self.d, _PROBLEMS)) - 1
        drawn: Array = np.sqrt(squares)[:, None] * signs
        return drawn

    def _learnt(
        self, rng: np.random.Generator, goal: Array, start: Array, samples: int, order: float, many: int
    ) -> Array:
        """Return the coefficients after ridge regression towards a start on the first ``many`` eigenfunctions."""
        values = rng.standard_normal((samples, self.d))
        labels = values @ goal + self.noise**0.5 * rng.standard_normal((samples, goal.shape[1]))
        fixed = values[:, many:] @ start[many:]
        roots = np.sqrt(self.eigenvalues[:many])
        begun = start[:many] / roots[:, None]
        ended = nearest_interpolator(values[:, :many] * roots, labels - fixed, begun, self.ridge(order, samples))
        reached = start.copy()
        reached[:many] = ended * roots[:, None]
        return reached


def predicted_powers(decay: float, source: float, gap: float, noisy: bool) -> dict[str, float]:
    """Return the exponents of pre-training, fine-tuning, and of pre-training in the norm of φ₁'s source condition.

    Args:
        decay: ξ.
        source: r₀, below 1.
        gap: r₁ < r₀.
        noisy: Whether the labels have noise.
    """
    if not noisy:
        return {"pre-training": 2 * source, "fine-tuning": 2 * gap, "pre-training, strong norm": 2 * (source - gap)}
    first = 2 * source * decay + 1
    return {
        "pre-training": 2 * source * decay / first,
        "fine-tuning": 2 * gap * decay / (2 * gap * decay + 1),
        "pre-training, strong norm": 2 * (source - gap) * decay / first,
    }
