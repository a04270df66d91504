"""The base of all data modules: whole batches, whose order and augmentation follow from (seed, step)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.utilities.seed import pl_worker_init_function
from lightning.pytorch.utilities import rank_zero_warn
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from lightning_tl._io.processes import die_with_parent
from lightning_tl.data.batch_transform import BatchTransform
from lightning_tl.data.sample_order import EvalBatches, StepBatches, StepPicks, step_generator
from lightning_tl.errors import UserError, one_line, shared_memory_full

Batch = tuple[Tensor, Tensor]


class Split(Protocol):
    """A split of a data set that gives whole batches."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def __getitem__(self, indices: Any) -> Any:
        """Return the batch of a list of indices, or of ``StepPicks`` in training."""


class Batches(Dataset[Batch]):
    """Images of one size with their targets, read one batch at a time.

    Args:
        images: Index → uint8 image ``[H, W, C]`` or ``[H, W]``.
        targets: ``[N, …]``, one row per image.
        transform: From uint8 ``[B, C, H, W]`` to the network's input.
        seed: Seed of the augmentation, which is applied if the indices are the ``StepPicks`` of a training step.
        cache_bytes: Decoded images are kept in memory if all of them, in all loader processes, need no more bytes than
            this.
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
            cached: np.ndarray = self._cache[index]
            return cached
        image = self.images(index)
        worker = get_worker_info()  # each process of a loader keeps its own
        if self._cache is None and image.nbytes * len(self) * (worker.num_workers if worker else 1) <= self.cache_bytes:
            self._cache = np.empty((len(self), *image.shape), np.uint8)
        if self._cache is not None:
            self._cache[index], self._cached[index] = image, True
        return image

    def _images(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        if self._cache is not None and self._cached[indices].all():
            cached: np.ndarray = self._cache[indices]
            return cached
        return np.stack([self._image(index) for index in indices])

    def __getitem__(self, indices: int | Sequence[int] | StepPicks) -> Batch:
        """Return a whole batch, float images ``[B, C, size, size]`` and their targets ``[B, …]``; or one sample."""
        if isinstance(indices, int):
            images, targets = self[[indices]]
            return images[0], targets[0]
        picks = indices if isinstance(indices, StepPicks) else None
        numbers = np.asarray(picks.samples if picks else indices)
        pixels = torch.from_numpy(self._images(numbers))
        pixels = pixels.unsqueeze(1) if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
        targets = self.targets[torch.from_numpy(numbers)]
        if picks is None:
            return self.transform(pixels), targets
        generator = step_generator(self.seed, picks.step)
        return self.transform(pixels, generator, picks.first, picks.total), targets


class _ErrorsAsValues(Dataset[Any]):
    """A split whose errors are returned: raised in a loader process, they would become a traceback."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, indices: Any) -> Any:
        if isinstance(indices, int):
            return UserError(
                "the sampler was replaced by another one, as trainer.overfit_batches does: to train on a few images "
                "set data.n or data.fraction instead"
            )
        try:
            batch = self.split[indices]
        except UserError as error:
            return error
        return batch if get_worker_info() is None else _shared(batch)


def _shared(batch: Any) -> Any:
    """Move a batch into the memory that processes share, or return the error if there is no room.

    torch would do it later, in a thread: there an error is only printed, and the training waits for the batch forever.
    """
    try:
        return apply_to_collection(batch, Tensor, Tensor.share_memory_)
    except (RuntimeError, OSError) as error:
        return UserError(shared_memory_full() if "No space left" in str(error) else one_line(error))


class Loader(DataLoader[Any]):
    """A DataLoader of whole batches, whose order follows from the trainer's own counters.

    Lightning's checkpoints hold these counters, so the loader has no state of its own.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        batches = super().__iter__() if self.num_workers else self._in_this_process()
        for batch in batches:
            if isinstance(batch, UserError):
                raise batch
            yield batch

    def _in_this_process(self) -> Iterator[Any]:
        """Yield the batches as torch's iterator does, at a fraction of its time per batch (0.15 ms)."""
        torch.empty((), dtype=torch.int64).random_(generator=self.generator)  # torch's seed of loader processes
        for indices in self.sampler:
            batch = self.collate_fn(self.dataset[indices])  # arrays to tensors
            yield apply_to_collection(batch, Tensor, Tensor.pin_memory) if self.pin_memory else batch

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state: there is no other state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Ignore the state."""


def _begin_worker(number: int) -> None:
    """Begin a loader process: it ends with its parent; Lightning would seed it if no function were given."""
    die_with_parent()
    if os.environ.get("PL_SEED_WORKERS") == "1":
        pl_worker_init_function(number)


_ENDLESS = 1 << 40  # batches


class BatchedDataModule(pl.LightningDataModule):
    """A data module over splits that give whole batches; a subclass's ``setup`` fills ``splits``.

    The arguments here are shared by all data modules: a subclass takes them as ``**shared`` and passes them on, and
    names only those with a different default.

    Under DDP ``batch_size`` is that of one process, as everywhere in Lightning; each process takes its part of a
    step's batch, and in validation and test its part of the images.

    Args:
        batch_size: Images in a training batch.
        eval_batch_size: Images in a batch of validation and test.
        seed: Seed of the order and of the augmentation.
        steps_per_epoch: Training batches between two validations (``None``: one pass over the images).
        num_workers: Loader processes. 0: batches are made in the training process.

    Raises:
        UserError: A number out of range.
    """

    augmented = True  # samples depend on the step, so that their splits need to know it

    def __init__(
        self,
        *,
        batch_size: int = 64,
        eval_batch_size: int = 256,
        seed: int = 0,
        steps_per_epoch: int | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if value < 1:
                raise UserError(f"data.{name} is {value}; it must be at least 1")
        for name, value in (("num_workers", num_workers), ("seed", seed)):
            if value < 0:
                raise UserError(f"data.{name} is {value}; it must be at least 0")
        if steps_per_epoch is not None and steps_per_epoch < 1:
            raise UserError(f"data.steps_per_epoch is {steps_per_epoch}; it must be at least 1, or null for one pass")
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.seed, self.steps_per_epoch, self.num_workers = seed, steps_per_epoch, num_workers
        self.splits: dict[str, Split] = {}

    def check(self) -> None:
        """Find out whether there are files and enough images, before a training, without decoding the images.

        Raises:
            UserError: A folder is missing, or there are too few images.
        """
        self.prepare_data()
        self.setup("fit")

    def _done(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 0
        # "processed" is right whether the checkpoint was written before or after the batch was counted as completed
        progress = self.trainer.fit_loop.epoch_loop.batch_progress
        return progress.total.processed, progress.current.processed  # type: ignore[attr-defined]

    def _process(self) -> dict[str, int]:
        if self.trainer is None:
            return {"rank": 0, "processes": 1}
        return {"rank": self.trainer.global_rank, "processes": self.trainer.world_size}

    def _loader(self, split: str, sampler: StepBatches | EvalBatches) -> Loader:
        # by keyword: to predict, Lightning makes the loader anew with arguments of its own
        return Loader(
            _ErrorsAsValues(self.splits[split]),
            sampler=sampler,
            batch_size=None,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0 and split == "train",
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_begin_worker,
        )

    def train_dataloader(self) -> Loader:
        """Return the loader of the training split."""
        length = len(self.splits["train"])
        return self._loader("train", self._steps(length, self.batch_size, self.steps_per_epoch, self._done))

    def _steps(
        self, length: int, batch_size: int, steps: int | None, done: Callable[[], tuple[int, int]]
    ) -> StepBatches:
        return StepBatches(length, batch_size, self.seed, steps, done, **self._process(), augmented=self.augmented)

    def training_batches(self, first: int = 0, batch_size: int | None = None) -> Iterator[Any]:
        """Yield this process's training batches from a step on, without end: those that a training sees there.

        Args:
            first: The number of training batches before the first one.
            batch_size: Images in a batch of one process (``None``: as configured).
        """
        length, size = len(self.splits["train"]), batch_size or self.batch_size
        loader = self._loader("train", self._steps(length, size, _ENDLESS, lambda: (first, 0)))
        loader.generator = torch.Generator()  # else its iterator draws from the global one
        return iter(loader)

    def _eval_dataloader(self, split: str) -> Loader:
        if split not in self.splits:
            raise UserError(
                f"{type(self).__name__} has no {split} split: its setup must put one into self.splits['{split}'], with "
                "images that are in no other split"
            )
        sampler = EvalBatches(len(self.splits[split]), self.eval_batch_size, **self._process())
        if sampler.repeated:
            rank_zero_warn(
                f"{len(self.splits[split])} images of {split} on {sampler.num_replicas} processes, one at a time: "
                f"{sampler.repeated} counted twice; evaluate on one process for the exact score"
            )
        return self._loader(split, sampler)

    def val_dataloader(self) -> Loader:
        """Return the loader of the validation split."""
        return self._eval_dataloader("val")

    def test_dataloader(self) -> Loader:
        """Return the loader of the test split."""
        return self._eval_dataloader("test")

    def predict_dataloader(self) -> Loader:
        """Return the loader of the test split, to predict it."""
        return self._eval_dataloader("test")
