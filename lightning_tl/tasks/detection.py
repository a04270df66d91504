"""Object detection: boxes and their classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_tl.errors import UserError
from lightning_tl.models import feature_maps, map_channels, map_strides
from lightning_tl.models.faster_rcnn import FasterRCNNHead
from lightning_tl.tasks.average_precision import BoxAveragePrecision, BoxMatches
from lightning_tl.tasks.base import TransferTask, wrong_batch
from lightning_tl.tasks.image_results import ImageResults

_KEYS = ("boxes", "labels", "iscrowd", "area", "image_id")


class ObjectDetection(TransferTask):
    """``objdet``: Faster R-CNN with a feature pyramid; score: COCO's mAP@[.5:.95].

    All layers are trained, batch norm included. Boxes are in pixels of the image as the network sees it; COCO's overlap
    ratios, and with them the score, are the same after a resize to another aspect ratio.

    Logged beside the base's: ``train/<part>`` for the four parts of the loss; ``<stage>/map_50``, ``<stage>/map_75``
    for each stage in ``val`` and ``test``.

    Args:
        num_classes: Classes without the background. From the command line the data module's number is taken.
        backbone: One of ``lightning_tl.models.BACKBONES``, or a network of timm that gives feature maps; of one map, as
            that of a ViT, a simple feature pyramid is made.
        anchor_sizes: Side of the anchors in pixels, one a level of the pyramid, finest first.
        fpn_channels: Channels of the pyramid.
        representation_size: Width of the two fully connected layers on a region.
        detector: Other numbers of torchvision's ``FasterRCNN``, by name (``rpn_…``, ``box_…``).
        kwargs: Those of ``TransferTask``.

    Raises:
        UserError: As ``TransferTask``; an argument out of range, an unknown number.
    """

    task = "objdet"
    metric_name = "mAP@[.5:.95]"
    head: Any

    def __init__(
        self,
        num_classes: int,
        backbone: str = "resnet50",
        anchor_sizes: tuple[int, int, int, int, int] = (32, 64, 128, 256, 512),
        fpn_channels: int = 256,
        representation_size: int = 1024,
        detector: dict[str, int | float] | None = None,
        **kwargs: Any,
    ) -> None:
        # before the base makes the network
        self._head_options = (tuple(anchor_sizes), fpn_channels, representation_size, detector)
        super().__init__(num_classes, backbone, **kwargs)

    def configure_models(self) -> None:
        """Make the backbone, and the pyramid with its heads."""
        self.backbone = self.build_backbone(maps=True)
        self.head = FasterRCNNHead(
            map_channels(self.backbone), self.num_classes, *self._head_options, strides=map_strides(self.backbone)
        )

    def build_metric(self) -> Metric:
        """Return COCO's mean average precision."""
        return BoxAveragePrecision()

    def build_image_results(self) -> ImageResults:
        """Return which boxes of each image are right, at each of COCO's overlaps."""
        return BoxMatches(self.num_classes)

    def forward(self, images: Any) -> list[dict[str, Tensor]]:
        """Return for each image ``boxes`` ``[n, 4]`` (xyxy in px), ``labels`` ``[n]`` and ``scores`` ``[n]``.

        Args:
            images: A list of ``[in_chans, H, W]``, of any sizes, or ``[B, in_chans, H, W]``.
        """
        batch, pyramid = self.pyramid(images)
        detections: list[dict[str, Tensor]] = self.head.detect(pyramid, batch)
        return detections

    def pyramid(self, images: Any) -> tuple[Any, dict[str, Tensor]]:
        """Return the images as one batch, and the feature pyramid's five levels."""
        batch = self.head.image_list(list(images))
        padded = batch.tensors.contiguous(memory_format=self.memory_format)
        maps = feature_maps(self.backbone, padded, self.backbone_name)
        return batch, self.head.pyramid(maps)

    def outputs_and_loss(self, images: Any, targets: Any, stage: str) -> tuple[Any, Tensor]:
        """Return the detections (none in the stage ``train``) and the loss."""
        batch, pyramid = self.pyramid(images)
        if stage == "train":
            parts = self.head.losses(pyramid, batch, targets)
            self.log_dict({f"train/{name}": part for name, part in parts.items()}, batch_size=len(images))
            return [], sum(parts.values(), torch.zeros((), device=self.device))
        # the regions that a loss is taken of are drawn at random: always the same, and not from training's generator
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(0)
            parts = self.head.losses(pyramid, batch, [_without_crowds(target) for target in targets])
        return self.head.detect(pyramid, batch), torch.stack(list(parts.values())).sum()

    def check_batch(self, images: Any, targets: Any, stage: str) -> None:
        """Refuse what are no images with dicts of boxes and labels in ``[1, num_classes]``."""
        lists = isinstance(images, list | tuple | Tensor) and isinstance(targets, list | tuple)
        if not lists or not all(isinstance(target, dict) for target in targets):
            wanted = "lists of images [C, H, W] and of dicts with boxes [n, 4] and labels [n]"
            raise wrong_batch(self, wanted, (images, targets))
        for index, target in enumerate(targets):
            if lacking := [key for key in _KEYS if key not in target]:
                raise UserError(f"target {index} of the batch lacks {', '.join(lacking)}; it has {', '.join(target)}")
            where = f"image_id {int(target['image_id'])}"
            boxes, labels = target["boxes"], target["labels"]
            if boxes.ndim != 2 or boxes.shape[1] != 4 or len(labels) != len(boxes):
                raise UserError(
                    f"{where}: boxes are {list(boxes.shape)} and labels {list(labels.shape)}, not [n, 4] and [n]"
                )
            if len(labels) and not 1 <= int(labels.min()) <= int(labels.max()) <= self.num_classes:
                wrong = int(labels.min()) if labels.min() < 1 else int(labels.max())
                raise UserError(f"{where}: label {wrong}, but labels are 1 to num_classes={self.num_classes}")
            if bool((boxes[:, 2:] <= boxes[:, :2]).any()):
                place = int((boxes[:, 2:] <= boxes[:, :2]).any(1).nonzero()[0])
                raise UserError(f"{where}: box {place} is empty: {boxes[place].tolist()} (x1, y1, x2, y2 in px)")
            if stage == "train" and bool(target["iscrowd"].any()):
                raise UserError(f"{where}: a crowd's box is among the training targets; leave out those of iscrowd=1")


def _without_crowds(target: dict[str, Tensor]) -> dict[str, Tensor]:
    single = target["iscrowd"] == 0
    return {"boxes": target["boxes"][single], "labels": target["labels"][single]}
