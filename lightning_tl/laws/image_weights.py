"""Weights of points whose errors were measured on test images to a different precision.

A point's variance about the law is that of its pre-training, which is unknown, and what the test images do to it by
itself, which is known (:class:`~.image_sampling.ImageSampling`). Points are weighted by the inverse of the sum. The
unknown part is estimated as in a meta-analysis with random effects (Paule & Mandel, J. Res. Natl. Bur. Stand. 87,
1982): it is the variance with which the weighted squared residuals add up to the degrees of freedom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lightning_tl.laws.clusters import Cells
from lightning_tl.laws.fitting import fit_many
from lightning_tl.laws.forms import Array, Form

_MOST_ROUNDS = 8
#: Weights within this of those before are final.
_SETTLED = 0.01


def weighted_by_images(form: Form, groups: Sequence[Cells]) -> list[Cells]:
    """Return each group's points with weights by how well the test images determine them.

    Points stay as they are where what the images do to each by itself is unknown or the same for all, or where there
    are no degrees of freedom to tell the two parts of the variance apart.

    Args:
        form: The law.
        groups: The points of each group, for residuals in log error.
    """
    result = list(groups)
    left = [i for i, points in enumerate(result) if _differ(points) and len(points.n) > len(form.parameters)]
    for _ in range(_MOST_ROUNDS):
        if not left:
            break
        moved = []
        for i, law in zip(left, fit_many(form, [result[i] for i in left]), strict=True):
            own = result[i].own_image_variance
            assert own is not None
            weight = 1 / (other_variance(law.residuals, own, law.dof) + own)
            weight /= weight.mean()
            if not np.allclose(weight, result[i].weight, rtol=_SETTLED):
                moved.append(i)
            result[i] = replace(result[i], weight=weight)
        left = moved
    return result


def _differ(points: Cells) -> bool:
    own = points.own_image_variance
    return own is not None and bool(own.min() > 0 and own.max() > own.min() * (1 + _SETTLED))


def other_variance(residuals: Array, known: Array, dof: int) -> float:
    """Return the variance that points have in common besides a known one of each.

    It is the root of ``sum(residuals^2 / (variance + known)) = dof``; 0 where the known variances explain the scatter.

    Args:
        residuals: Residuals about the law, shape (m,).
        known: Known variances, each over 0, shape (m,).
        dof: Degrees of freedom of the residuals.
    """
    squares = residuals**2
    low, high = 0.0, float(squares.sum()) / dof
    if np.sum(squares / known) <= dof:
        return 0.0
    for _ in range(60):
        middle = (low + high) / 2
        if np.sum(squares / (middle + known)) > dof:
            low = middle
        else:
            high = middle
    return (low + high) / 2
