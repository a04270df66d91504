"""The data module of images of any size: its splits, fractions of the training set, and broken images."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_tl.data.batched_module import BatchedDataModule
from lightning_tl.data.image_dataset import ImageDataset, Source
from lightning_tl.data.subsets import fraction_subset, split_off
from lightning_tl.data.transforms import Plan
from lightning_tl.errors import UserError
from lightning_tl.progress import progress_bar

OnError = Literal["raise", "skip"]
_READS = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("test",)}


@dataclass(frozen=True)
class Pool:
    """The images of a data set's training folder, before parts of them are split off.

    Attributes:
        source: The images as training reads them.
        labels: Class of each, ``[N]``, or ``None``.
        evaluated: The same images as evaluation reads them (``None``: the same).
        usable: Indices of those that can be trained on (``None``: all).
    """

    source: Source
    labels: np.ndarray | None = None
    evaluated: Source | None = None
    usable: np.ndarray | None = None


class ImageDataModule(BatchedDataModule):
    """What the data modules for fine-tuning share.

    There are always three disjoint splits. Early stopping, checkpoints and chosen values use ``val``; ``test`` is read
    by ``trainer.test`` and ``trainer.predict`` only. Of what a data set brings beside its training images, one set is
    the test and two are validation and test; what is missing is split off the training images (see
    :func:`lightning_tl.data.subsets.split_off`), before the fraction is drawn of what is left. So validation and test
    are the same images for every fraction, draw and seed.

    Args:
        transform: Family of transforms.
        fraction: Share of the training images to train on. Smaller fractions of a draw are inside its larger ones;
            the images are listed in ``subset.txt`` in the trainer's ``default_root_dir``.
        draw: Which draw of the fraction.
        on_error: What to do about an image that cannot be used (missing, damaged, labels that do not fit): ``raise``
            an error that names it, or ``skip`` it. To skip, every image is decoded once before the run; those that
            are left out are counted in a warning and stand in ``skipped_<split>.txt``.
        batch_size: Images in a training batch.
        eval_batch_size: Images in a batch of validation and test.
        seed: Of order and augmentation.
        steps_per_epoch: Training batches between two validations (``None``: one pass over the images).
        num_workers: Loader processes.
        val_share: Share of the training images to split off for validation, where the data set has no such part.
        test_share: The same for the test.
        equal_classes: Draw the fraction with the same number of images from every class, instead of the same share.
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
        val_share: float = 0.1,
        test_share: float = 0.1,
        equal_classes: bool = False,
    ) -> None:
        super().__init__(batch_size, seed, steps_per_epoch, eval_batch_size, num_workers)
        if not 0 < fraction <= 1:
            raise UserError(f"data.fraction is {fraction}; it must be above 0 and at most 1 (0.01 is one per cent)")
        if draw < 0:
            raise UserError(f"data.draw is {draw}; it must be at least 0")
        if on_error not in ("raise", "skip"):
            raise UserError(f"data.on_error is '{on_error}'; valid: raise, skip")
        self.transform, self.fraction, self.draw, self.on_error = transform, fraction, draw, on_error
        self.val_share, self.test_share, self.equal_classes = val_share, test_share, equal_classes
        self._test: Source | None = None

    def _fill(
        self,
        stage: str,
        pool: Callable[[], Pool],
        val: Callable[[], Source] | None = None,
        test: Callable[[], Source] | None = None,
    ) -> None:
        """Open the splits that a stage reads and that are not open yet.

        Args:
            stage: Lightning's.
            pool: Opens the training images.
            val: Opens the data set's own validation images; the test, where ``test`` is ``None``.
            test: Opens the data set's own test images.
        """
        if test is None:
            val, test = None, val
        own = {name: opener for name, opener in (("val", val), ("test", test)) if opener is not None}
        shares = {"test": self.test_share, "val": self.val_share}
        shares = {name: share for name, share in shares.items() if name not in own}
        wanted = [name for name in _READS[stage] if name not in self.splits]
        if any(name not in own for name in wanted):
            images = pool()
            parts = split_off(len(images.source), images.labels, shares)
            for name in wanted:
                if name in shares:
                    self._add(name, images.evaluated or images.source, parts[name])
                    rank_zero_info(
                        f"{len(parts[name])} of {len(images.source)} training images are split off for {name} "
                        f"(data.{name}_share: {shares[name]:g})"
                    )
            if "train" in wanted:
                self._train(images, parts["train"])
        if self._test is None and "test" in own and stage in ("fit", "test", "predict"):
            # for a fit its images are listed, so that what is missing is known before the training, but not read
            self._test = own["test"]()
        for name in wanted:
            if name == "test" and self._test is not None:
                self._add(name, self._test)
            elif name in own:
                self._add(name, own[name]())

    def _train(self, images: Pool, indices: np.ndarray | None = None) -> None:
        """Fill in the training split: the fraction of the images, class by class where there are labels.

        Args:
            images: The training images.
            indices: Which of them were not split off (``None``: all).
        """
        source = images.source
        pool = np.arange(len(source)) if indices is None else indices
        if images.usable is not None:
            pool = np.intersect1d(pool, images.usable)
        labels = None if images.labels is None else images.labels[pool]
        if self.equal_classes and labels is None:
            raise UserError(
                f"data.equal_classes is for data sets that list a class for each image, which "
                f"{type(self).__name__} does not do here: leave it out"
            )
        if self.fraction < 1:
            pool = pool[fraction_subset(len(pool), labels, self.fraction, self.draw, self.equal_classes)]
            self._note("subset.txt", [source.name(int(index)) for index in pool])
            if self.equal_classes and images.labels is not None:
                self._tell_smaller_classes(images.labels[pool])
        self._add("train", source, pool)

    def _tell_smaller_classes(self, labels: np.ndarray) -> None:
        counts = np.unique(labels, return_counts=True)[1]
        smaller = int((counts < counts.max(initial=0)).sum())
        if smaller:
            rank_zero_info(
                f"data.equal_classes: {counts.max()} images of each class; {smaller} of {len(counts)} classes have "
                "fewer, all of which are taken"
            )

    def _add(self, split: str, source: Source, indices: np.ndarray | None = None) -> None:
        """Fill in a split."""
        pool = np.arange(len(source)) if indices is None else indices
        if not len(pool):
            raise UserError(f"no image for {split} in the data set: nothing to do")
        samples = ImageDataset(source, self.transform, self.seed, pool)
        if self.on_error == "skip":
            samples.indices = pool[self._usable(split, samples)]
        self.splits[split] = samples

    def _usable(self, split: str, samples: ImageDataset) -> np.ndarray:
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
