"""Classification: of several labels at once, or of one."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MultilabelAveragePrecision

from lightning_tl.tasks.base import TransferTask


class MultiLabelClassification(TransferTask):
    """``mulclass``: which categories are visible. Binary cross-entropy; score: mean average precision."""

    metric_name = "mAP"

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean binary cross-entropy of logits and float targets, both ``[B, num_classes]``."""
        return F.binary_cross_entropy_with_logits(outputs, targets)

    def build_metric(self) -> Metric:
        """Return the average precision, averaged over classes."""
        return _LabelAveragePrecision(num_labels=self.num_classes, average="macro")


class _LabelAveragePrecision(MultilabelAveragePrecision):
    def update(self, preds: Tensor, target: Tensor) -> None:
        super().update(preds, target.long())


class Classification(TransferTask):
    """``sinclass``: one class an image. Cross-entropy; score: top-1 accuracy."""

    metric_name = "accuracy"

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of logits ``[B, num_classes]`` and classes ``[B]``."""
        return F.cross_entropy(outputs, targets)

    def build_metric(self) -> Metric:
        """Return the share of images whose class is the likeliest one."""
        return MulticlassAccuracy(num_classes=self.num_classes, average="micro")
