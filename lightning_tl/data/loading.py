"""What the data modules share: batches made whole, in an order and with an augmentation that (seed, step) fix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_tl.data.augment import BatchTransform
from lightning_tl.data.stream import Pick, StepBatches, step_generator
from lightning_tl.errors import UserError

Batch = tuple[Tensor, Tensor]


class Batches(Dataset[Batch]):
    """Images of one size with their targets, fetched a batch at a time.

    Args:
        images: Index → uint8 image ``[H, W, C]`` or ``[H, W]``.
        targets: ``[N, …]``, one row an image.
        transform: From uint8 ``[B, C, H, W]`` to the network's input.
        seed: Of the augmentation, where the indices are ``Pick``s of a training step.
        cache_bytes: Decoded images are kept in memory where all of them together need no more than this.
    """

    def __init__(
        self,
        images: Callable[[int], np.ndarray],
        targets: Tensor,
        transform: BatchTransform,
        seed: int = 0,
        cache_bytes: int = 1 << 30,
    ) -> None:
        self.images, self.targets, self.transform, self.seed = images, targets, transform, seed
        self.cache_bytes = cache_bytes
        self._cache: np.ndarray | None = None
        self._cached = np.zeros(len(targets), bool)

    def __len__(self) -> int:
        return len(self.targets)

    def _image(self, index: int) -> np.ndarray:
        if self._cached[index] and self._cache is not None:
            return self._cache[index]
        image = self.images(index)
        if self._cache is None and image.nbytes * len(self) <= self.cache_bytes:
            self._cache = np.empty((len(self), *image.shape), np.uint8)
        if self._cache is not None:
            self._cache[index], self._cached[index] = image, True
        return image

    def __getitem__(self, index: int) -> Batch:
        images, targets = self.__getitems__([index])
        return images[0], targets[0]

    def __getitems__(self, indices: Sequence[int | Pick]) -> Batch:
        """Return a whole batch: float images ``[B, C, size, size]`` and their targets ``[B, …]``."""
        first = indices[0]
        generator = step_generator(self.seed, first.step) if isinstance(first, Pick) else None
        numbers = [pick.sample if isinstance(pick, Pick) else pick for pick in indices]
        pixels = torch.from_numpy(np.stack([self._image(number) for number in numbers]))
        pixels = pixels.unsqueeze(1) if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
        return self.transform(pixels, generator), self.targets[numbers]


def _whole(batch: Any) -> Any:
    return batch  # Batches has collated it


class ResumableLoader(DataLoader[Any]):
    """A DataLoader whose order follows from the trainer's own counters, which Lightning's checkpoints hold."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: there is no other state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take nothing."""


class BatchedDataModule(pl.LightningDataModule):
    """A data module over ``Batches``; a subclass's ``setup`` fills ``splits``.

    Args:
        batch_size: Images in a training batch.
        seed: Of order and augmentation.
        steps_per_epoch: Training batches between two validations (``None``: one pass over the images).
        eval_batch_size: Images in a batch of validation and test.
        num_workers: Loader processes. 0 is fastest for small images, which stay decoded in memory.
    """

    def __init__(
        self,
        batch_size: int,
        seed: int,
        steps_per_epoch: int | None,
        eval_batch_size: int = 256,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if value < 1:
                raise UserError(f"data.{name} is {value}; it must be at least 1")
        if steps_per_epoch is not None and steps_per_epoch < 1:
            raise UserError(f"data.steps_per_epoch is {steps_per_epoch}; it must be at least 1, or null for one pass")
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.seed, self.steps_per_epoch, self.num_workers = seed, steps_per_epoch, num_workers
        self.splits: dict[str, Batches] = {}

    def _done(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 0
        # "processed" is right whether the checkpoint was written before or after the batch was counted as completed
        progress = self.trainer.fit_loop.epoch_loop.batch_progress
        return progress.total.processed, progress.current.processed  # type: ignore[attr-defined]

    def train_dataloader(self) -> ResumableLoader:
        """Return the loader of the training split."""
        data = self.splits["train"]
        sampler = StepBatches(len(data), self.batch_size, self.seed, self.steps_per_epoch, self._done)
        return ResumableLoader(
            data,
            batch_sampler=sampler,
            collate_fn=_whole,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )

    def _eval_dataloader(self, split: str) -> DataLoader[Any]:
        # by keyword: to predict, Lightning makes the loader anew with arguments of its own
        return DataLoader(
            self.splits[split], batch_size=self.eval_batch_size, collate_fn=_whole, num_workers=self.num_workers
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the loader of the validation split."""
        return self._eval_dataloader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the loader of the test split."""
        return self._eval_dataloader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return the loader of the test split, to predict it."""
        return self._eval_dataloader("test")
