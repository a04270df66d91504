"""Semantic segmentation: a class at every pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassJaccardIndex

from lightning_tl.errors import UserError
from lightning_tl.tasks.base import wrong_batch
from lightning_tl.tasks.dense import DensePrediction
from lightning_tl.tasks.image_results import Array, ImageResults, SumScores, mean_of_real

IGNORED = 255


class SemanticSegmentation(DensePrediction):
    """``semseg``: DeepLabV3 with cross-entropy; score: mean intersection over union. Pixels of class 255 are ignored.

    The score is the mean, over the classes that occur in the data or in the predictions, of the intersection over the
    union of all images' pixels.
    """

    task = "semseg"
    metric_name = "mIoU"

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of logits ``[B, K, H, W]`` and masks ``[B, H, W]`` over the pixels that count.

        It is 0 where none does.
        """
        total = F.cross_entropy(outputs, targets, ignore_index=IGNORED, reduction="sum")
        return total / (targets != IGNORED).sum().clamp(min=1)

    def build_metric(self) -> Metric:
        """Return the mean intersection over union."""
        return _MeanIoU(num_classes=self.num_classes, average="macro", ignore_index=IGNORED, validate_args=False)

    def build_image_results(self) -> ImageResults:
        """Return the pixels of each class in each image."""
        return _ClassPixels(self.num_classes)

    def check_batch(self, images: Any, targets: Any, stage: str) -> None:
        """Refuse what are no images with masks ``[B, H, W]`` of 255 or classes in ``[0, num_classes)``."""
        fits = isinstance(images, Tensor) and isinstance(targets, Tensor) and not targets.is_floating_point()
        if not fits or targets.shape != (len(images), *images.shape[2:]):
            raise wrong_batch(self, "images [B, C, H, W] and int64 masks [B, H, W]", (images, targets))
        counted = targets[targets != IGNORED]
        if counted.numel() and not 0 <= int(counted.min()) <= int(counted.max()) < self.num_classes:
            wrong = int(counted.min()) if counted.min() < 0 else int(counted.max())
            raise UserError(
                f"a mask has class {wrong}, but the model has num_classes={self.num_classes}: classes are 0 to "
                f"{self.num_classes - 1}, and {IGNORED} is ignored"
            )
        super().check_batch(images, targets, stage)


class _MeanIoU(MulticlassJaccardIndex):
    def update(self, preds: Tensor, target: Tensor) -> None:
        super().update(preds.argmax(1), target)


class _ClassPixels(SumScores):
    """By class: pixels that are right, pixels of that class, pixels taken for it."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self._classes = num_classes

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        counted = targets != IGNORED
        predicted = torch.where(counted, outputs.argmax(1), self._classes).flatten(1)
        true = torch.where(counted, targets, self._classes).flatten(1)
        right = torch.where(predicted == true, true, self._classes)
        return torch.stack([self._by_class(values) for values in (right, true, predicted)], 2)

    def _by_class(self, values: Tensor) -> Tensor:
        counts = values.new_zeros(len(values), self._classes + 1)
        return counts.scatter_add_(1, values, torch.ones_like(values))[:, : self._classes]

    def from_sums(self, sums: Array) -> Array:
        right, true, predicted = np.moveaxis(sums, 2, 0)
        union = true + predicted - right
        ratios = np.divide(right, union, out=np.full_like(right, np.nan), where=union > 0)
        return mean_of_real(ratios)
