"""Closed and fixed-point forms of the linear-transfer lab; derivations in docs/labs.md."""

from __future__ import annotations

import numpy as np

from lightning_tl.labs.outcome import Array
from lightning_tl.labs.ridge_equivalent import equivalent


def isotropic_risk(ratio: float, distance: float, noise: float) -> float:
    """Return (1 − κ)‖w* − w₀‖² + σ²κ/(1 − κ), the excess risk of the interpolator nearest to w₀.

    Args:
        ratio: κ = s/d, samples over features, below 1.
        distance: ‖w* − w₀‖².
        noise: Variance σ² of the labels' noise.
    """
    return (1 - ratio) * distance + noise * ratio / (1 - ratio)


def normal_tail(value: float) -> float:
    """Return Q, the probability that a standard normal number is larger."""
    from scipy.special import ndtr

    return float(ndtr(-value))


def isotropic_class_error(ratio: float, length: float, along: float, across: float) -> float:
    """Return the error of a classifier fitted by squares to labels ±1, for classes N(±μ, I); closed form.

    Args:
        ratio: κ = s/d.
        length: ‖μ‖.
        along: Component of w₀ along μ.
        across: Length of the rest of w₀.
    """
    odds = ratio / (1 - ratio)
    signal = (along + odds * length) / (1 + odds * (1 + length**2))
    other = across * (1 - ratio)
    squared = signal**2 + other**2 + odds * ((1 - signal * length) ** 2 + signal**2 + other**2)
    return normal_tail(signal * length / squared**0.5)


def class_error(eigenvalues: Array, samples: int, mean: Array, start: Array) -> float:
    """Return the same for classes N(±μ, Σ), by the fixed point.

    Args:
        eigenvalues: Of Σ, shape (d,).
        samples: s < d.
        mean: μ in the eigenbasis of Σ, shape (d,).
        start: w₀ in it, shape (d,).
    """
    solved = equivalent(eigenvalues, samples)
    shrunk = 1 / (eigenvalues + solved.shrinkage)
    pull = solved.shrinkage * start
    residual = (1 - np.sum(mean * shrunk * pull)) / (1 + np.sum(mean**2 * shrunk))
    centre = shrunk * (pull + residual * mean)
    share = solved.second_degrees / samples
    total = (residual**2 + np.sum(eigenvalues * centre**2)) / (1 - share)  # residual² + wᵀΣw
    return normal_tail(float((1 - residual) / (total - residual**2) ** 0.5))


def surface_risk(eigenvalues: Array, truth: Array, gap: Array, n: int, s: int) -> float:
    """Return the excess risk where n source samples without noise give the start of fine-tuning on s.

    Args:
        eigenvalues: Of the features of source and target, shape (d,).
        truth: Squares of the source's true weights in the eigenbasis, shape (d,).
        gap: Squares of the difference of the target's true weights from them, of random sign, shape (d,).
        n: Source samples.
        s: Target samples.
    """
    left = equivalent(eigenvalues, n).remaining(truth)
    return equivalent(eigenvalues, s).risk(gap + left)
