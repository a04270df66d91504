"""Classification: of several labels at once, or of one."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MultilabelAveragePrecision
from torchmetrics.utilities import dim_zero_cat

from lightning_tl.errors import UserError
from lightning_tl.tasks.average_precision import LabelRanking
from lightning_tl.tasks.base import TransferTask, wrong_batch
from lightning_tl.tasks.image_results import ImageResults, MeanScores


class MultiLabelClassification(TransferTask):
    """``mulclass``: which categories are visible. Binary cross-entropy; score: mean average precision."""

    task = "mulclass"
    metric_name = "mAP"

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean binary cross-entropy of logits and float targets, both ``[B, num_classes]``."""
        return F.binary_cross_entropy_with_logits(outputs, targets)

    def build_metric(self) -> Metric:
        """Return the average precision, the mean over the labels that occur."""
        return _LabelAveragePrecision(num_labels=self.num_classes, average="none")

    def build_image_results(self) -> ImageResults:
        """Return the logits and labels of each image."""
        return LabelRanking()

    def check_batch(self, images: Any, targets: Any, stage: str) -> None:
        """Refuse what are no images with float targets ``[B, num_classes]``."""
        fits = isinstance(images, Tensor) and isinstance(targets, Tensor) and targets.is_floating_point()
        if not fits or targets.shape != (len(images), self.num_classes):
            raise wrong_batch(self, f"images [B, C, H, W] and float targets [B, {self.num_classes}]", (images, targets))


class _LabelAveragePrecision(MultilabelAveragePrecision):
    def update(self, preds: Tensor, target: Tensor) -> None:
        super().update(preds, target.long())

    def compute(self) -> Tensor:  # type: ignore[override]
        """Return the mean over labels; torchmetrics gives those without any image a 0, which says nothing."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="No positive samples")
            values = super().compute()
        occurs = dim_zero_cat(self.target).bool().any(0)
        return torch.as_tensor(values[occurs].mean())


class _Correct(MeanScores):
    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.argmax(1) == targets


class Classification(TransferTask):
    """``sinclass``: one class an image. Cross-entropy; score: top-1 accuracy."""

    task = "sinclass"
    metric_name = "accuracy"

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of logits ``[B, num_classes]`` and classes ``[B]``."""
        return F.cross_entropy(outputs, targets)

    def build_metric(self) -> Metric:
        """Return the share of images whose class is the likeliest one."""
        return MulticlassAccuracy(num_classes=self.num_classes, average="micro")

    def build_image_results(self) -> ImageResults:
        """Return whether each image's class is the likeliest one."""
        return _Correct()

    def check_batch(self, images: Any, targets: Any, stage: str) -> None:
        """Refuse what are no images with whole numbers ``[B]`` in ``[0, num_classes)``."""
        fits = isinstance(images, Tensor) and isinstance(targets, Tensor) and not targets.is_floating_point()
        if not fits or targets.shape != (len(images),):
            raise wrong_batch(self, "images [B, C, H, W] and int64 classes [B]", (images, targets))
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= self.num_classes:
            raise UserError(
                f"the data has class {low if low < 0 else high}, but the model has num_classes={self.num_classes}: "
                f"classes are 0 to {self.num_classes - 1}"
            )
