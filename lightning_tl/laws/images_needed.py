"""The size, of pre-training or fine-tuning, at which a law reaches a target error."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lightning_tl.laws.forms import Array

#: Sizes beyond this are reported as out of reach.
MOST_IMAGES = 1e12


@dataclass(frozen=True)
class ImagesNeeded:
    """Size at which the law reaches a target error: of pre-training, or of fine-tuning.

    Attributes:
        target: The target error.
        estimate: Images at which the fitted law reaches it; infinite where it never does.
        low: Lower end of the interval in images.
        high: Upper end; infinite where the data do not bound it.
        never: Confidence that the law stays above the target up to :data:`MOST_IMAGES` images: C is above it, or the
            curve so flat that it makes no difference.
        largest: Largest such size measured, to see how far this extrapolates.
    """

    target: float
    estimate: float
    low: float
    high: float
    never: float
    largest: float


def crossing(sizes: Array, error_at: Callable[[int], float], target: float, falls: bool) -> float:
    """Return the first size at which a curve reaches the target, between grid points by log interpolation.

    Args:
        sizes: The grid, ascending.
        error_at: The curve at a point of the grid, by its number.
        target: The error to reach.
        falls: The curve never rises, so that few of its points have to be computed.
    """
    points = range(len(sizes))
    if falls:
        first = bisect_left(points, True, key=lambda i: error_at(i) <= target)
    else:
        first = next((i for i in points if error_at(i) <= target), len(sizes))
    if first == len(sizes):
        return np.inf
    if first == 0:
        return float(sizes[0])
    before, after = np.log(error_at(first - 1) / target), np.log(error_at(first) / target)
    part = before / (before - after) if before != after else 1.0
    return float(np.exp(np.log(sizes[first - 1]) + part * np.log(sizes[first] / sizes[first - 1])))
