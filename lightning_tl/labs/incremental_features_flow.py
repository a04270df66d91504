"""Gradient flow of two-layer linear networks, many at a time: pre-training and fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lightning_tl.labs.incremental_features_theory import learning_times
from lightning_tl.labs.outcome import Array

#: A budget ends after this share of the time from one feature's learning to the next one's.
_SHARE = 0.25
#: The last budget ends when the last feature lacks e^-this of its strength.
_LAST = 14.0

Weights = tuple[Array, Array]


@dataclass(frozen=True)
class World:
    """A pre-training task, and when its features are learnt from a small random start.

    Attributes:
        spectrum: σ, shape (d,).
        left: U, shape (d, d).
        right: V, likewise.
        start: Standard deviation of the weights' entries before pre-training, times √d.
    """

    spectrum: Array
    left: Array
    right: Array
    start: float

    @property
    def width(self) -> int:
        """The number of features d."""
        return len(self.spectrum)

    def matrix(self, strengths: Array) -> Array:
        """Return U diag(strengths) Vᵀ."""
        product: Array = (self.left * strengths) @ self.right.T
        return product

    def strengths(self, weights: Weights) -> Array:
        """Return s_i = uᵢᵀW₁W₂vᵢ, shape (..., d).

        Args:
            weights: W₁ and W₂, each of shape (..., d, d).
        """
        product: Array = self.left.T @ weights[0] @ weights[1] @ self.right
        found: Array = np.diagonal(product, axis1=-2, axis2=-1)
        return found

    def random_weights(self, rng: np.random.Generator, count: int) -> Weights:
        """Return W₁ and W₂ of networks before pre-training, each of shape (count, d, d)."""
        shape, scale = (count, self.width, self.width), self.start / self.width**0.5
        return scale * rng.standard_normal(shape), scale * rng.standard_normal(shape)

    def expected_times(self) -> Array:
        """Return when features are learnt, at the mean of ln s₀ over random starts, shape (d,).

        s₀ is start²/(2d) times a χ² of d, d − 1, …, 1 degrees of freedom.
        """
        from scipy.special import digamma

        freedom = np.arange(self.width, 0, -1)
        logs = np.log(self.start**2 / (2 * self.width)) + digamma(freedom / 2) + np.log(2)
        return learning_times(self.spectrum, np.exp(logs))

    def budgets(self) -> Array:
        """Return pre-training times after which 1, …, d features are learnt, to two digits after the point."""
        times = self.expected_times()
        rest = np.append(_SHARE * np.diff(times), _LAST / (4 * self.spectrum[-1]))
        rounded: Array = np.round(times + rest, 2)
        return rounded

    def pretrained(self, weights: Weights, times: Sequence[float] | Array) -> Iterator[Weights]:
        """Yield the weights at ascending times of pre-training.

        Args:
            weights: At time 0, each of shape (count, d, d).
            times: Of pre-training.
        """
        target, learnt, now = self.matrix(self.spectrum), self.budgets(), 0.0
        for time in map(float, times):
            growing = self.spectrum[min(int(np.searchsorted(learnt, now)), self.width - 1)]
            step = min(0.5 / self.spectrum[0], 0.15 / growing)
            weights, now = flow(weights, target, time - now, float(step)), time
            yield weights


def world(spectrum: Sequence[float], start: float, rng: np.random.Generator) -> World:
    """Return a world with random singular vectors.

    Args:
        spectrum: σ.
        start: Size of the weights before pre-training.
        rng: Random numbers.
    """
    d = len(spectrum)
    left, right = (np.linalg.qr(rng.standard_normal((d, d)))[0] for _ in range(2))
    return World(np.array(spectrum, float), left, right, start)


def flow(weights: Weights, target: Array, time: float, step: float, pull: float = 0.0) -> Weights:
    """Follow the gradient flow of ‖W₁W₂ − A‖² + λ‖θ − θ₀‖² from θ₀ for a time, by the Runge-Kutta method of order 4.

    Args:
        weights: θ₀ = (W₁, W₂), each of shape (..., d, d).
        target: A, of a shape that broadcasts with them.
        time: How long.
        step: At most this long is one step.
        pull: λ.
    """
    first, second = weights
    count = max(1, int(np.ceil(time / step - 1e-9)))
    h = time / count

    def slope(one: Array, two: Array) -> Weights:
        rest = 2 * (target - one @ two)
        rise, fall = rest @ np.swapaxes(two, -1, -2), np.swapaxes(one, -1, -2) @ rest
        if pull:
            return rise - 2 * pull * (one - weights[0]), fall - 2 * pull * (two - weights[1])
        return rise, fall

    for _ in range(count):
        a = slope(first, second)
        b = slope(first + h / 2 * a[0], second + h / 2 * a[1])
        c = slope(first + h / 2 * b[0], second + h / 2 * b[1])
        e = slope(first + h * c[0], second + h * c[1])
        first = first + h / 6 * (a[0] + 2 * b[0] + 2 * c[0] + e[0])
        second = second + h / 6 * (a[1] + 2 * b[1] + 2 * c[1] + e[1])
    return first, second


def loss(weights: Weights, target: Array) -> Array:
    """Return ‖W₁W₂ − A‖² by network; arguments as for :func:`flow`."""
    squares: Array = np.sum((weights[0] @ weights[1] - target) ** 2, axis=(-2, -1))
    return squares
