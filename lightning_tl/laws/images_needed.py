"""The size, of pre-training or fine-tuning, at which a law reaches a target error."""

from __future__ import annotations

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


def crossing(sizes: Array, error: Array, target: float) -> float:
    """Return the first size at which a falling curve reaches the target, between grid points by log interpolation."""
    reached = np.flatnonzero(error <= target)
    if not len(reached):
        return np.inf
    i = int(reached[0])
    if i == 0:
        return float(sizes[0])
    before, after = np.log(error[i - 1] / target), np.log(error[i] / target)
    part = before / (before - after) if before != after else 1.0
    return float(np.exp(np.log(sizes[i - 1]) + part * np.log(sizes[i] / sizes[i - 1])))
