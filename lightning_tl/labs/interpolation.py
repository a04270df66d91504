"""The interpolator nearest to a start, which SGD from there ends at, and ridge regression towards a start."""

from __future__ import annotations

import numpy as np

from lightning_tl.labs.outcome import Array


def nearest_interpolator(features: Array, labels: Array, start: Array, ridge: float = 0.0) -> Array:
    """Return the w with Xw = y that is nearest to the start; least squares where X has more rows than columns.

    With ρ over 0, the w that minimises ‖Xw − y‖²/s + ρ‖w − w₀‖².

    Args:
        features: X, shape (s, d).
        labels: y, shape (s,) or (s, k) for k problems of the same features.
        start: w₀, shape (d,) or (d, k).
        ridge: ρ.

    Returns:
        w, of the shape of the start (or (d, k)).
    """
    from scipy.linalg import cho_factor, cho_solve

    rest = labels - features @ start
    wide = features.shape[0] <= features.shape[1]
    gram = features @ features.T if wide else features.T @ features
    gram[np.diag_indices_from(gram)] += len(features) * ridge
    moved: Array = start + (
        features.T @ cho_solve(cho_factor(gram), rest) if wide else cho_solve(cho_factor(gram), features.T @ rest)
    )
    return moved


def sgd_to_interpolation(features: Array, labels: Array, start: Array, rng: np.random.Generator, passes: int) -> Array:
    """Run SGD on the squared loss, one sample a step, at the rate 1/‖x‖², from a start.

    Args:
        features: X, shape (s, d), s < d.
        labels: y, shape (s,).
        start: w₀, shape (d,).
        rng: The order of the samples.
        passes: Over the samples.
    """
    weights = start.copy()
    squares = np.sum(features**2, axis=1)
    for _ in range(passes):
        for i in rng.permutation(len(labels)):
            weights += features[i] * ((labels[i] - features[i] @ weights) / squares[i])
    return weights
