"""Surface normals: a unit vector at every pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from lightning_tl.tasks.base import wrong_batch
from lightning_tl.tasks.dense import DensePrediction
from lightning_tl.tasks.image_results import Array, ImageResults, SumScores

_BINS = 18_000  # of the angles between 0° and 180°: the median is exact to 0.01°
THRESHOLDS = (11.25, 22.5, 30.0)  # Fouhey et al., Data-Driven 3D Primitives for Single Image Understanding, 2013


def has_normal(targets: Tensor) -> Tensor:
    """Return which pixels of ``[B, 3, H, W]`` have a normal: bool ``[B, H, W]``. No normal is all zeros."""
    return targets.square().sum(1) > 0.25


def angles(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the angles in degrees between two fields ``[B, 3, H, W]``: ``[B, H, W]``.

    By the arc tangent: the arc cosine is wrong by up to 0.04° at small angles in float32.
    """
    predicted, true = (F.normalize(x.float(), dim=1) for x in (outputs, targets))
    across = torch.linalg.cross(predicted, true, dim=1).norm(dim=1)
    return torch.rad2deg(torch.atan2(across, (predicted * true).sum(1)))


class SurfaceNormals(DensePrediction):
    """``normal``: DeepLabV3 with the loss 1 − n·n̂; score: 1 − mean angular error / 180°.

    With this score, test error = 1 − score is proportional to the mean error in degrees; with the share of pixels below
    a threshold, another usual measure, it would not be.

    Logged beside score and error, for each stage in ``val`` and ``test``: ``<stage>/mean_angle`` and
    ``<stage>/median_angle`` in degrees, ``<stage>/within_11.25``, ``<stage>/within_22.5``, ``<stage>/within_30``:
    shares of the pixels that have a normal.
    """

    task = "normal"
    metric_name = "1 - mean angle / 180"

    def forward(self, images: Tensor) -> Tensor:
        """Return unit normals ``[B, 3, H, W]`` for images ``[B, in_chans, H, W]``."""
        return F.normalize(super().forward(images), dim=1)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean of 1 − n·n̂ over the pixels that have a normal, 0 where none has.

        Args:
            outputs: n̂ before it is made a unit vector, ``[B, 3, H, W]``.
            targets: n, ``[B, 3, H, W]``; zeros are no normal.
        """
        valid = has_normal(targets)
        away = 1 - (F.normalize(outputs.float(), dim=1) * targets).sum(1)
        return torch.where(valid, away, 0).sum() / valid.sum().clamp(min=1)

    def build_metric(self) -> Metric:
        """Return the angular errors."""
        return AngularErrors()

    def build_image_results(self) -> ImageResults:
        """Return the sum of the angles, and the number of pixels, of each image."""
        return _AngleSums()

    def check_batch(self, images: Any, targets: Any, stage: str) -> None:
        """Refuse what are no images with normals ``[B, 3, H, W]``."""
        fits = isinstance(images, Tensor) and isinstance(targets, Tensor) and targets.is_floating_point()
        if not fits or targets.shape != (len(images), 3, *images.shape[2:]) or self.num_classes != 3:
            wanted = f"images [B, C, H, W] and float normals [B, 3, H, W], with num_classes=3 (here {self.num_classes})"
            raise wrong_batch(self, wanted, (images, targets))
        super().check_batch(images, targets, stage)


class AngularErrors(Metric):
    """The angles between predicted and true normals, over all pixels that have a true one.

    ``compute`` returns ``score`` = 1 − mean / 180°, ``mean_angle`` and ``median_angle`` in degrees, and the shares
    ``within_11.25``, ``within_22.5``, ``within_30``. Without any such pixel they are NaN.
    """

    full_state_update = False
    counts: Tensor
    within: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(_BINS, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("within", torch.zeros(len(THRESHOLDS), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add outputs ``[B, 3, H, W]`` of any length and unit targets ``[B, 3, H, W]``, zeros being no normal."""
        valid = has_normal(targets)
        angle = angles(outputs, targets)[valid]
        self.counts += torch.bincount((angle * (_BINS / 180)).long().clamp(0, _BINS - 1), minlength=_BINS)
        self.within += torch.stack([(angle < threshold).sum() for threshold in THRESHOLDS])
        self.total += angle.double().sum()

    def compute(self) -> dict[str, Tensor]:
        """Return the values by name."""
        pixels = self.counts.sum()
        mean = (self.total / pixels).float()
        below = torch.searchsorted(self.counts.cumsum(0), (pixels + 1) // 2)
        median = torch.where(pixels > 0, (below + 0.5) * (180 / _BINS), torch.nan).float()
        shares = {f"within_{t:g}": (self.within[i] / pixels).float() for i, t in enumerate(THRESHOLDS)}
        return {"score": 1 - mean / 180, "mean_angle": mean, "median_angle": median, **shares}


class _AngleSums(SumScores):
    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        valid = has_normal(targets)
        total = torch.where(valid, angles(outputs, targets), 0).double().sum((1, 2))
        return torch.stack([total, valid.sum((1, 2)).double()], 1)

    def from_sums(self, sums: Array) -> Array:
        total, pixels = sums.T
        return np.asarray(1 - np.divide(total, pixels, out=np.full_like(total, np.nan), where=pixels > 0) / 180)
