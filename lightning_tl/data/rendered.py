"""Rendered shards as a data module for pre-training."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from lightning_tl.data.augment import BatchTransform
from lightning_tl.data.loading import BatchedDataModule, Batches
from lightning_tl.data.shards import RenderedImages, read_manifest
from lightning_tl.errors import UserError


class _Columns(dict[int, int]):
    """Category id → place among the classes."""

    def __init__(self, images: RenderedImages) -> None:
        self.folder = images.manifest.folder
        super().__init__((number, i) for i, number in enumerate(sorted(images.manifest.categories)))

    def __missing__(self, number: int) -> int:
        raise UserError(
            f"{self.folder}: an image is labelled with category {number}, which its manifest.json does not list; "
            "render the data set again"
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


class Rendered(BatchedDataModule):
    """The first ``n`` images of a rendered data set's train split, and the whole of its validation split.

    Args:
        root: The folder that ``lightning-tl render`` wrote.
        n: Pre-training size (``None``: all images).
        target: ``mulclass``: the visible categories as a float vector. ``sinclass``: the largest object's category.
        transform: Crops, size, colours.
        batch_size: Images in a training batch.
        seed: Of order and augmentation.
        steps_per_epoch: Training batches between two validations (``None``: one pass over the images). With a fixed
            number every ``n`` is trained, and validated, alike.
        num_workers: Loader processes.

    Raises:
        UserError: No data set there, fewer than ``n`` images, a corrupted shard.
    """

    def __init__(
        self,
        root: Path,
        n: int | None = None,
        target: Literal["mulclass", "sinclass"] = "mulclass",
        transform: BatchTransform | None = None,
        batch_size: int = 64,
        seed: int = 0,
        steps_per_epoch: int | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, seed, steps_per_epoch, num_workers=num_workers)
        self.root, self.n, self.target = Path(root), n, target
        self.transform = transform or BatchTransform()
        self.num_classes = len(read_manifest(self.root / "train").categories)
        self.task = target

    def setup(self, stage: str) -> None:
        """Open the splits that the stage needs."""
        wanted = {"train": self.n, "val": None} if stage == "fit" else {"val": None}
        for split, n in wanted.items():
            if split not in self.splits:
                images = RenderedImages(self.root / split, n)
                targets = visible_categories(images) if self.target == "mulclass" else largest_category(images)
                self.splits[split] = Batches(images.rgb, targets, self.transform, self.seed)
        self.splits["test"] = self.splits["val"]  # renders are never tested on: their validation split stands in
