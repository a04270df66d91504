"""Rendered shards as a data module for pre-training."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from PIL import Image
from torch import Tensor

from lightning_tl._io.urls import to_place
from lightning_tl.data.batch_transform import BatchTransform
from lightning_tl.data.batched_module import BatchedDataModule, Batches, Split
from lightning_tl.data.image_dataset import ImageDataset, Kind
from lightning_tl.data.rendered_images import RenderedImages, read_manifest
from lightning_tl.data.transforms import (
    CropTransform,
    ResizeTransform,
    ScaleCropTransform,
    TransformSetting,
    build_transform,
)
from lightning_tl.errors import UserError

Target = Literal["mulclass", "sinclass", "objdet", "semseg", "normal"]
_KINDS: dict[str, Kind] = {"objdet": "boxes", "semseg": "mask", "normal": "normals"}


class _Columns(dict[int, int]):
    """Map from category id to class index."""

    def __init__(self, images: RenderedImages) -> None:
        self.images = images
        super().__init__((number, i) for i, number in enumerate(sorted(images.manifest.categories)))

    def __missing__(self, number: int) -> int:
        raise _unlisted(self.images, number)


def _unlisted(images: RenderedImages, number: int) -> UserError:
    return UserError(
        f"{images.manifest.folder}: an image is labelled with category {number}, which its manifest.json does not "
        "list; render the data set again"
    )


def visible_categories(images: RenderedImages) -> Tensor:
    """Return which categories are visible in each image: float ``[N, categories]``, columns in order of category id."""
    column = _Columns(images)
    targets = torch.zeros(len(images), len(column))
    for index in range(len(images)):
        for number in images.labels(index)["labels"]:
            targets[index, column[number]] = 1
    return targets


def largest_category(images: RenderedImages) -> Tensor:
    """Return the category that fills most of each image: int64 ``[N]``, numbered in order of category id.

    Raises:
        UserError: An image shows no object.
    """
    column = _Columns(images)
    targets = torch.zeros(len(images), dtype=torch.int64)
    for index in range(len(images)):
        labels = images.labels(index)
        if not labels["objects"]:
            raise UserError(
                f"{images.manifest.folder}: scene {labels['scene']}, view {labels['view']} shows no object, so it has "
                "no single class; pre-train with data.target=mulclass"
            )
        targets[index] = column[max(labels["objects"], key=lambda thing: thing["area"])["category"]]
    return targets


class RenderedSamples:
    """Rendered images with the labels of a task.

    Args:
        images: The images.
        target: The task.
        labels: Labels of the whole images, ``[N, …]``, for ``mulclass`` and ``sinclass``.
    """

    mend = "delete its shard and run the same lightning-tl render again"

    def __init__(self, images: RenderedImages, target: Target, labels: Tensor | None = None) -> None:
        self.images, self.target, self.labels = images, target, labels
        self.kind: Kind = _KINDS.get(target, "label")
        self._column = _Columns(images)
        # category id → class by pixel, the background being 0
        self._classes = np.full(max(self._column, default=0) + 1, 0, np.uint8)
        for number, column in self._column.items():
            self._classes[number] = column + 1

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        """Return the split's folder and the number of the image."""
        return f"{self.images.manifest.folder}: image {index}"

    def read(self, index: int) -> tuple[Image.Image, Any]:
        """Return an image, not yet decoded, and its target; only the members that the task needs are read."""
        image = self.images.open_rgb(index)
        if self.labels is not None:
            return image, self.labels[index]
        if self.target == "normal":
            return image, self.images.normal(index).copy()
        if self.target == "semseg":
            return image, self._mask(index)
        objects = [thing for thing in self.images.labels(index)["objects"] if min(thing["bbox"][2:]) > 0]
        boxes = np.array([thing["bbox"] for thing in objects], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return image, {
            "boxes": boxes,
            "labels": np.array([self._column[thing["category"]] + 1 for thing in objects], np.int64),
            "iscrowd": np.zeros(len(objects), np.int64),
            "area": np.array([thing["area"] for thing in objects], np.float32),
            "image_id": np.int64(index),
        }

    def _mask(self, index: int) -> np.ndarray:
        numbers = self.images.category(index)
        listed = numbers < len(self._classes)
        classes = self._classes[np.where(listed, numbers, 0)]
        wrong = numbers[(classes == 0) & (numbers != 0)]
        if len(wrong):
            raise _unlisted(self.images, int(wrong[0]))
        return classes


class Rendered(BatchedDataModule):
    """The first ``n`` images of a rendered data set's train split, and the whole of its validation split.

    Renders are for pre-training, which is not tested: there is no test part. If one is requested, the validation
    images are used instead, and a line in the log says so.

    Args:
        root: The folder that ``lightning-tl render`` wrote, or its URL (``s3://bucket/set``).
        n: Pre-training size (``None``: all images).
        target: ``mulclass``: the visible categories as a float vector. ``sinclass``: the largest object's category.
            ``objdet``: boxes with the categories as labels 1 … K. ``semseg``: class by pixel, 0 the background and
            1 … K - 1 the categories. ``normal``: the surface's unit vectors by pixel.
        transform: Crops, sizes, colours. Keys of ``BatchTransform`` or ``CropTransform`` (mulclass, sinclass),
            ``ResizeTransform`` (objdet), ``ScaleCropTransform`` (semseg, normal).
        eval_batch_size: Images in a batch of validation and test (``None``: 256, for boxes, masks and normals 8).
        shared: Arguments of :class:`BatchedDataModule`. With a fixed ``steps_per_epoch`` every ``n`` is trained, and
            validated, alike.

    Raises:
        UserError: No data set there, fewer than ``n`` images, a corrupted shard, a transform of another task.
    """

    def __init__(
        self,
        root: str | Path,
        n: int | None = None,
        target: Target = "mulclass",
        transform: TransformSetting = None,
        eval_batch_size: int | None = None,
        **shared: Any,
    ) -> None:
        if target not in get_args(Target):
            raise UserError(f"data.target is '{target}'; valid: {', '.join(get_args(Target))}")
        whole = target in ("mulclass", "sinclass")
        super().__init__(eval_batch_size=eval_batch_size or (256 if whole else 8), **shared)
        self.root, self.n, self.target, self.task = to_place(root), n, target, target
        if whole:
            self.transform = build_transform(transform, target, BatchTransform, CropTransform, ResizeTransform)
        elif target == "objdet":
            self.transform = build_transform(transform, target, ResizeTransform)
        else:
            # mirrored, a normal must be mirrored with the light that it is seen by: not by default
            mirror = {"hflip": 0.0} if target == "normal" else {}
            self.transform = build_transform(transform, target, ScaleCropTransform, **mirror)
        names = read_manifest(self.root / "train").categories
        self.num_classes = {"semseg": len(names) + 1, "normal": 3}.get(target, len(names))
        #: names of the head's outputs; none for normals
        self.classes = [] if target == "normal" else [names[number] for number in sorted(names)]
        if target == "semseg":
            self.classes.insert(0, "background")

    def check(self) -> None:
        """Compare ``n`` with the manifest; no shard is read, as all of them would have to be hashed."""
        for split, n in {"train": self.n, "val": None}.items():
            RenderedImages(self.root / split, n)

    def setup(self, stage: str) -> None:
        """Open the splits that the stage needs."""
        wanted = {"train": self.n, "val": None} if stage == "fit" else {"val": None}
        for split, n in wanted.items():
            if split not in self.splits:
                self.splits[split] = self._open(RenderedImages(self.root / split, n))
        self.splits["test"] = self.splits["val"]
        if stage in ("test", "predict"):
            rank_zero_info(
                f"{self.root}: renders have no test part; their validation images stand in for test images, so an "
                "error is of images that choices may have used"
            )

    def _open(self, images: RenderedImages) -> Split:
        images.open_shards()
        labels = {"mulclass": visible_categories, "sinclass": largest_category}.get(self.target)
        targets = None if labels is None else labels(images)
        if targets is not None and isinstance(self.transform, BatchTransform):
            return Batches(images.rgb, targets, self.transform, self.seed)
        return ImageDataset(RenderedSamples(images, self.target, targets), self.transform, self.seed)
