"""The data module of images of any size: fractions of the training set, and what is done about broken images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from lightning_tl.data.loading import BatchedDataModule
from lightning_tl.data.samples import Samples, Source
from lightning_tl.data.subsets import fraction_subset
from lightning_tl.data.transforms import Plan
from lightning_tl.errors import UserError
from lightning_tl.progress import progress_bar

OnError = Literal["raise", "skip"]


class SampledDataModule(BatchedDataModule):
    """What the data modules for fine-tuning share.

    Args:
        transform: Family of transforms.
        fraction: Share of the training images to train on. Smaller fractions of a draw are inside its larger ones;
            which images they are stands in ``subset.txt`` in the trainer's ``default_root_dir``.
        draw: Which draw of the fraction.
        on_error: What to do about an image that cannot be used (missing, damaged, labels that do not fit): ``raise``
            an error that names it, or ``skip`` it. To skip, every image is decoded once before the run; those that
            are left out are counted in a warning and stand in ``skipped_<split>.txt``.
        batch_size: Images in a training batch.
        eval_batch_size: Images in a batch of validation and test.
        seed: Of order and augmentation.
        steps_per_epoch: Training batches between two validations (``None``: one pass over the images).
        num_workers: Loader processes.
    """

    def __init__(
        self,
        transform: Plan,
        fraction: float,
        draw: int,
        on_error: OnError,
        batch_size: int,
        eval_batch_size: int,
        seed: int,
        steps_per_epoch: int | None,
        num_workers: int,
    ) -> None:
        super().__init__(batch_size, seed, steps_per_epoch, eval_batch_size, num_workers)
        if not 0 < fraction <= 1:
            raise UserError(f"data.fraction is {fraction}; it must be above 0 and at most 1 (0.01 is one per cent)")
        if draw < 0:
            raise UserError(f"data.draw is {draw}; it must be at least 0")
        if on_error not in ("raise", "skip"):
            raise UserError(f"data.on_error is '{on_error}'; valid: raise, skip")
        self.transform, self.fraction, self.draw, self.on_error = transform, fraction, draw, on_error

    def _train(self, source: Source, labels: np.ndarray | None = None, indices: np.ndarray | None = None) -> None:
        """Fill in the training split: the fraction of a source, class by class where there are labels.

        Args:
            source: The training images.
            labels: Class of each, ``[N]``, for a fraction that has all classes alike.
            indices: Which of the source's images are for training (``None``: all).
        """
        pool = np.arange(len(source)) if indices is None else indices
        if self.fraction < 1:
            chosen = fraction_subset(len(pool), None if labels is None else labels[pool], self.fraction, self.draw)
            pool = pool[chosen]
            self._note("subset.txt", [source.name(int(index)) for index in pool])
        self._add("train", source, pool)

    def _add(self, split: str, source: Source, indices: np.ndarray | None = None) -> None:
        """Fill in a split."""
        pool = np.arange(len(source)) if indices is None else indices
        if not len(pool):
            raise UserError(f"no image for {split} in the data set: nothing to do")
        samples = Samples(source, self.transform, self.seed, pool)
        if self.on_error == "skip":
            samples.indices = pool[self._usable(split, samples)]
        self.splits[split] = samples

    def _usable(self, split: str, samples: Samples) -> np.ndarray:
        def problem(index: int) -> str:
            try:
                samples.sample(index)
            except UserError as error:
                return str(error)
            return ""

        found: list[str] = []
        with (
            ThreadPoolExecutor(os.cpu_count()) as pool,
            progress_bar(f"looking through {split}", "images") as progress,
        ):
            for start in range(0, len(samples), 1024):  # not a million tasks at once
                found += pool.map(problem, range(start, min(start + 1024, len(samples))))
                progress(len(found), len(samples))
        texts = [text for text in found if text]
        if len(texts) == len(samples):
            raise UserError(f"no image of {split} can be used; the first: {texts[0]}")
        if texts:
            rank_zero_warn(f"{len(texts)} of {len(samples)} images of {split} are skipped; the first: {texts[0]}")
        self._note(f"skipped_{split}.txt", texts)
        return np.array([not text for text in found])

    def _note(self, name: str, lines: Sequence[str]) -> None:
        if self.trainer is None or not self.trainer.is_global_zero:
            return
        folder = Path(self.trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
