"""The base of the data modules of images of any size: splits, fractions of the training set, broken images."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_tl.data.batched_module import BatchedDataModule
from lightning_tl.data.image_dataset import MEND_FILE, ImageDataset, Source
from lightning_tl.data.subsets import fraction_subset, split_off
from lightning_tl.data.transforms import Plan, without_enlarging
from lightning_tl.errors import UserError
from lightning_tl.progress import progress_bar

OnError = Literal["raise", "skip"]
_MEASURED = 64  # images whose size is looked at
_READS = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("test",)}


@dataclass(frozen=True)
class TrainingImages:
    """A data set's training images, before validation and test images are split off.

    Attributes:
        source: The images as training reads them.
        labels: Class of each image, ``[N]``, or ``None``.
        evaluated: The same images as evaluation reads them (``None``: the same).
        usable: Indices of the images that can be trained on (``None``: all).
    """

    source: Source
    labels: np.ndarray | None = None
    evaluated: Source | None = None
    usable: np.ndarray | None = None


class ImageDataModule(BatchedDataModule):
    """A data module of images that are read, and augmented, one by one; a subclass's ``setup`` calls ``open_splits``.

    There are always three disjoint splits. Early stopping, checkpoints and chosen values use ``val``; ``test`` is read
    only by ``trainer.test`` and ``trainer.predict``. If a data set has one set beside its training images, that is the
    test; two are validation and test. What is missing is split off the training images (see
    :func:`lightning_tl.data.subsets.split_off`), before the fraction is drawn from the rest. So validation and test
    are the same images for every fraction, draw and seed.

    Args:
        transform: Augmentation and sizes of the images.
        fraction: Share of the training images to train on; they are listed in ``subset.txt`` in the run's folder
            (``trainer.default_root_dir``).
        draw: Which draw of the fraction. The smaller fractions of a draw are inside its larger ones.
        shrink_to_photos: Lower the transform's sizes where it would enlarge the photos: to their shorter edge, the
            median of up to 64 training images.
        on_error: What to do with an image that cannot be used (missing, damaged, labels that do not fit): ``raise``
            an error that names it, or ``skip`` it. To skip, every image is decoded once before the run; those that
            are left out are counted in a warning and listed in ``skipped_<split>.txt``.
        shared: Arguments of :class:`BatchedDataModule`.

    Attributes:
        val_share: Share of the training images that are split off for validation, if the data set has no such part;
            a subclass may make it an argument.
        test_share: The same for the test.
        equal_classes: The fraction has the same number of images from every class, instead of the same share.

    Raises:
        UserError: A value out of range.
    """

    val_share = 0.1
    test_share = 0.1
    equal_classes = False

    def __init__(
        self,
        transform: Plan,
        fraction: float = 1.0,
        draw: int = 0,
        on_error: OnError = "raise",
        shrink_to_photos: bool = False,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if not 0 < fraction <= 1:
            raise UserError(f"data.fraction is {fraction}; it must be above 0 and at most 1 (0.01 is one per cent)")
        if draw < 0:
            raise UserError(f"data.draw is {draw}; it must be at least 0")
        if on_error not in get_args(OnError):
            raise UserError(f"data.on_error is '{on_error}'; valid: {', '.join(get_args(OnError))}")
        self.transform, self.fraction, self.draw, self.on_error = transform, fraction, draw, on_error
        self.shrink_to_photos = shrink_to_photos
        self._test: Source | None = None

    def check(self) -> None:
        """List the images; see the base class. Images that ``on_error: skip`` would leave out are not looked for."""
        on_error, self.on_error = self.on_error, "raise"
        try:
            super().check()
        finally:
            self.on_error = on_error

    def open_splits(
        self,
        stage: str,
        training: Callable[[], TrainingImages],
        val: Callable[[], Source] | None = None,
        test: Callable[[], Source] | None = None,
    ) -> None:
        """Open the splits that a stage reads and that are not open yet.

        Args:
            stage: Lightning's stage (``fit``, ``validate``, ``test``, ``predict``).
            training: Opens the training images.
            val: Opens the data set's own validation images; without ``test`` they are the test.
            test: Opens the data set's own test images.
        """
        if test is None:
            val, test = None, val
        training = cache(training)
        if self.shrink_to_photos:
            self._shrink(training().source)
            self.shrink_to_photos = False
        own = {name: opener for name, opener in (("val", val), ("test", test)) if opener is not None}
        shares = {"test": self.test_share, "val": self.val_share}
        shares = {name: share for name, share in shares.items() if name not in own}
        wanted = [name for name in _READS[stage] if name not in self.splits]
        if any(name not in own for name in wanted):
            images = training()
            parts = split_off(len(images.source), images.labels, shares)
            for name in wanted:
                if name in shares:
                    self.add_split(name, images.evaluated or images.source, parts[name])
                    rank_zero_info(
                        f"{len(parts[name])} of {len(images.source)} training images are split off for {name} "
                        f"(data.{name}_share: {shares[name]:g})"
                    )
            if "train" in wanted:
                self.add_training_split(images, parts["train"])
        if self._test is None and "test" in own and stage in ("fit", "test", "predict"):
            # for a fit its images are listed, so that missing files are reported before the training, but not read
            self._test = own["test"]()
        for name in wanted:
            if name == "test" and self._test is not None:
                self.add_split(name, self._test)
            elif name in own:
                self.add_split(name, own[name]())

    def _shrink(self, source: Source) -> None:
        """Fit the transform's sizes to the photos. Evaluation goes by the training images too."""
        edges = []
        for index in np.unique(np.linspace(0, len(source) - 1, _MEASURED).astype(int)) if len(source) else ():
            try:
                with source.read(int(index))[0] as image:
                    edges.append(min(image.size))
            except (UserError, OSError):  # a damaged image is reported, or skipped, when it is used
                continue
        if not edges:
            return
        edge = max(int(np.median(edges)), 8)
        smaller = without_enlarging(self.transform, edge)
        if smaller is not self.transform:
            self.transform = smaller
            rank_zero_info(f"photos of {edge} px are not enlarged (data.shrink_to_photos): transform {smaller}")

    def add_training_split(self, images: TrainingImages, indices: np.ndarray | None = None) -> None:
        """Fill in the training split: the fraction of the images, class by class if there are labels.

        Args:
            images: The training images.
            indices: Indices of the images that were not split off (``None``: all).
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
            self._write_list("subset.txt", [source.name(int(index)) for index in pool])
            if self.equal_classes and images.labels is not None:
                _report_smaller_classes(images.labels[pool])
        self.add_split("train", source, pool)

    def add_split(self, split: str, source: Source, indices: np.ndarray | None = None) -> None:
        """Fill in a split.

        Args:
            split: ``train``, ``val`` or ``test``.
            source: Images of the split.
            indices: Indices of its images (``None``: all).

        Raises:
            UserError: There is no usable image.
        """
        pool = np.arange(len(source)) if indices is None else indices
        if not len(pool):
            raise UserError(f"no image for {split} in the data set: nothing to do")
        dataset = ImageDataset(source, self.transform, self.seed, pool)
        if self.on_error == "skip":
            dataset.indices = pool[self._usable(split, dataset)]
        self.splits[split] = dataset

    def _usable(self, split: str, dataset: ImageDataset) -> np.ndarray:
        def problem(index: int) -> str:
            try:
                dataset.sample(index)
            except UserError as error:
                return str(error).replace(f": {MEND_FILE}", "")  # which recommends what was chosen
            return ""

        problems: list[str] = []
        with (
            ThreadPoolExecutor(os.cpu_count()) as pool,
            progress_bar(f"looking through {split}", "images") as progress,
        ):
            for start in range(0, len(dataset), 1024):  # not a million tasks at once
                problems += pool.map(problem, range(start, min(start + 1024, len(dataset))))
                progress(len(problems), len(dataset))
        skipped = [text for text in problems if text]
        if len(skipped) == len(dataset):
            raise UserError(f"no image of {split} can be used; the first: {skipped[0]}")
        if skipped:
            rank_zero_warn(f"{len(skipped)} of {len(dataset)} images of {split} are skipped; the first: {skipped[0]}")
        self._write_list(f"skipped_{split}.txt", skipped)
        return np.array([not text for text in problems])

    def _write_list(self, name: str, lines: Sequence[str]) -> None:
        if self.trainer is None or not self.trainer.is_global_zero:
            return
        folder = Path(self.trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _report_smaller_classes(labels: np.ndarray) -> None:
    counts = np.unique(labels, return_counts=True)[1]
    smaller = int((counts < counts.max(initial=0)).sum())
    if smaller:
        rank_zero_info(
            f"data.equal_classes: {counts.max()} images of each class; {smaller} of {len(counts)} classes have "
            "fewer, all of which are taken"
        )
