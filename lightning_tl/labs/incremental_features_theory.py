"""Closed forms of the incremental-features lab; derivations in docs/labs.md.

The network is f(x) = W₁W₂x with d × d matrices, its loss ‖W₁W₂ − A‖² with A = U diag(σ)Vᵀ, its training gradient flow.
The strength s_i of feature i is uᵢᵀW₁W₂vᵢ: about 0 before the feature is learnt, σ_i afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lightning_tl.labs.outcome import Array

#: A pull of λ makes feature n harmful only from f_n = 2σ_n + this · λ on.
PULL_FACTOR = 1 - 0.5**0.5


def strength(sigma: Array | float, start: Array | float, time: Array | float) -> Array:
    """Return s(t) = σ/(1 + (σ/s₀ − 1)e^(−4σt)), the solution of ds/dt = 4s(σ − s).

    Args:
        sigma: σ, or f in fine-tuning.
        start: s₀ > 0.
        time: t; all three broadcast.
    """
    sigma = np.asarray(sigma, float)
    found: Array = sigma / (1 + (sigma / start - 1) * np.exp(-4 * sigma * np.asarray(time, float)))
    return found


def learning_times(spectrum: Array, starts: Array) -> Array:
    """Return when each feature has half of its strength: ln(σ/s₀ − 1)/(4σ).

    Args:
        spectrum: σ, shape (d,).
        starts: s₀, shape (..., d).
    """
    times: Array = np.log(spectrum / starts - 1) / (4 * spectrum)
    return times


def effective_starts(first: Array, second: Array, left: Array, right: Array) -> Array:
    """Return the s₀ from which each feature grows, for a small start that is neither aligned nor balanced.

    They are the squared lengths of the rows of (UᵀW₁ + (W₂V)ᵀ)/2 after Gram-Schmidt in the order of the features.

    Args:
        first: W₁ at the start, shape (..., d, d).
        second: W₂, likewise.
        left: U, shape (d, d).
        right: V, likewise.
    """
    growing = (left.T @ first + np.swapaxes(second @ right, -1, -2)) / 2
    corner = np.linalg.qr(np.swapaxes(growing, -1, -2))[1]
    squares: Array = np.diagonal(corner, axis1=-2, axis2=-1) ** 2
    return squares


def noise_rise(first: Array, second: Array, gamma: float, scales: tuple[float, float] = (1.0, 1.0)) -> Array:
    """Return E L(θ + ε) − L(θ) for ε ~ N(0, γ²Σ), exactly.

    Args:
        first: W₁, shape (..., d, d).
        second: W₂, likewise.
        gamma: γ.
        scales: √Σ of W₁ and of W₂.
    """
    d, one, two = first.shape[-1], *((gamma * scale) ** 2 for scale in scales)
    squares = [np.sum(weights**2, axis=(-2, -1)) for weights in (first, second)]
    rise: Array = d * (two * squares[0] + one * squares[1]) + d**3 * one * two
    return rise


def trace(first: Array, second: Array, scales: tuple[float, float] = (1.0, 1.0)) -> float:
    """Return Tr(ΣH), the trace of the weighted Hessian; arguments as for :func:`noise_rise`."""
    one, two = (scale**2 for scale in scales)
    return float(2 * first.shape[-1] * (two * np.sum(first**2) + one * np.sum(second**2)))


def noisy_losses(spectrum: Array, gamma: float) -> Array:
    """Return E L under noise after 1, …, d features: Σ_{i>n} σ_i² + 2dγ² Σ_{i≤n} σ_i + d³γ⁴.

    Args:
        spectrum: σ, shape (d,).
        gamma: γ.
    """
    d = len(spectrum)
    losses: Array = np.sum(spectrum**2) - np.cumsum(spectrum**2) + 2 * d * gamma**2 * np.cumsum(spectrum)
    return losses + d**3 * gamma**4


def tuned_strength(sigma: float, target: float, pull: float, time: float) -> float:
    """Return the strength of a learnt feature after fine-tuning for a time.

    With a = √s in each of the two matrices, da/dt = 2(f − a²)a − 2λ(a − √σ).

    Args:
        sigma: σ, where it starts.
        target: f, the feature's strength in the target task.
        pull: λ, the weight of the squared distance from the pre-trained weights.
        time: Of fine-tuning.
    """
    if pull == 0:
        return float(strength(target, sigma, time))
    from scipy.integrate import solve_ivp

    root = sigma**0.5
    solved = solve_ivp(
        lambda _, a: 2 * (target - a**2) * a - 2 * pull * (a - root), (0, time), [root], rtol=1e-10, atol=1e-12
    )
    return float(solved.y[0, -1] ** 2)


def equilibrium(sigma: float, target: float, pull: float) -> float:
    """Return the strength at which fine-tuning ends: f = s + λ(1 − √(σ/s)); arguments as for :func:`tuned_strength`."""
    from scipy.optimize import brentq

    ends = sorted((sigma, target))
    if ends[0] == ends[1]:
        return sigma
    return float(brentq(lambda s: s + pull * (1 - (sigma / s) ** 0.5) - target, ends[0], ends[1], xtol=1e-14))


def tuned_losses(spectrum: Array, target: Array, pull: float, time: float) -> tuple[Array, Array]:
    """Return the pre-training loss and the fine-tuning loss after fine-tuning from 1, …, d features.

    Args:
        spectrum: σ, shape (d,).
        target: f, likewise.
        pull: λ.
        time: Of fine-tuning; infinite: to its end. Features that were not learnt in pre-training stay at 0.
    """
    ends = np.array(
        [
            tuned_strength(s, f, pull, time) if np.isfinite(time) else equilibrium(s, f, pull)
            for s, f in zip(map(float, spectrum), map(float, target), strict=True)
        ]
    )
    # a feature that was learnt costs (s − σ)², any other σ²; likewise with f
    before, after = (
        np.sum(goal**2) + np.cumsum((ends - goal) ** 2 - goal**2) for goal in (spectrum, np.asarray(target))
    )
    return before, after


def turn(losses: Sequence[float] | Array) -> int | None:
    """Return after how many features the next one makes the loss larger (Def. 4.2); ``None``: after none."""
    rises = np.flatnonzero(np.diff(losses) > 0)
    return int(rises[0]) + 1 if len(rises) else None


def vertex(times: Array, losses: Array) -> float:
    """Return where a curve over budgets is lowest, between the budgets.

    As in the analysis: the minimum of the parabola, in the logarithms of both, through the lowest loss and its
    neighbours; the first or last budget where the loss is lowest there.

    Args:
        times: Of the budgets, shape (n,).
        losses: At them.
    """
    lowest = int(np.argmin(losses))
    if lowest in (0, len(losses) - 1):
        return float(times[lowest])
    near = slice(lowest - 1, lowest + 2)
    bend, slope, _ = np.polyfit(np.log(times[near]), np.log(losses[near]), 2)
    return float(np.exp(-slope / (2 * bend)))
