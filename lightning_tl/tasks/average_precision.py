"""COCO's mean average precision of boxes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision


class BoxAveragePrecision(MeanAveragePrecision):
    """``score`` (mAP@[.5:.95], crowds ignored as COCO does), ``map_50`` and ``map_75``.

    Predictions are dicts of ``boxes``, ``labels``, ``scores``, targets of ``boxes``, ``labels``, ``iscrowd``, ``area``.
    Without any box to find the values are NaN.
    """

    def __init__(self) -> None:
        super().__init__(box_format="xyxy", iou_type="bbox", backend="faster_coco_eval")

    def compute(self) -> dict[str, Any]:
        """Return the values by name."""
        values = super().compute()
        named = {"score": values["map"], "map_50": values["map_50"], "map_75": values["map_75"]}
        return {name: _real(value) for name, value in named.items()}


def _real(value: Tensor) -> Tensor:
    return torch.where(value < 0, torch.nan, value)  # COCO's -1 is: nothing to find
