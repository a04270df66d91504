"""What a law is fitted to: points, and runs of equal sizes as one point each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lightning_tl.laws.forms import Array, Sizes


@dataclass(frozen=True)
class Points:
    """What a law is fitted to.

    Attributes:
        sizes: Sizes, shape (m,).
        log_error: Log errors, shape (m,).
        weight: Weights of the squared residuals, shape (m,).
        cluster: Which points share a pre-training run, integers of shape (m,), or ``None`` where each has its own.
        shared: Variance that a cluster's points share over the variance of each by itself.
    """

    sizes: Sizes
    log_error: Array
    weight: Array
    cluster: Array | None = None
    shared: float = 0.0


class Means:
    """Points of equal sizes as one point each, and a last one that carries their scatter about it.

    A law is the same at equal sizes, so its sum of squares over the points is that over their means, weighted by the
    sums of their weights, plus a constant. Where no sizes repeat, and where residuals are correlated (points share a
    pre-training run), the points stay as they are.

    Args:
        points: The points, m of them.

    Attributes:
        sizes: Sizes of the means, those of the scatter's row being the references, shape (k,).
        root: Roots of their weights, 0 for the scatter's row, shape (k,).
    """

    def __init__(self, points: Points) -> None:
        sizes = points.sizes
        pairs, of = np.unique(np.stack([sizes.n, sizes.s]), axis=1, return_inverse=True)
        self.sizes, self.root = sizes, np.sqrt(points.weight)
        self._of = None if pairs.shape[1] == len(sizes.n) or points.shared > 0 else np.asarray(of).ravel()
        if self._of is None:
            return
        total = np.bincount(self._of, points.weight)
        self._weight = points.weight
        self._average = np.eye(len(total))[self._of] * (points.weight / total[self._of])[:, None]
        self.sizes = sizes.at(np.append(pairs[0], sizes.n_ref), np.append(pairs[1], sizes.s_ref))
        self.root = np.append(np.sqrt(total), 0.0)

    def of(self, targets: Array) -> tuple[Array, Array | None]:
        """Return targets (..., m) as means (..., k) and the root of their scatter's sum of squares (...)."""
        if self._of is None:
            return targets, None
        means = targets @ self._average
        scatter = np.sqrt(np.sum(self._weight * (targets - means[..., self._of]) ** 2, axis=-1))
        return np.concatenate([means, np.zeros((*means.shape[:-1], 1))], axis=-1), scatter
