"""Torchvision's own data sets of classification and segmentation, by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import torchvision
from PIL import Image

from lightning_tl.data.image_dataset import MEND_FILE, Kind
from lightning_tl.data.image_files import mask
from lightning_tl.data.image_geometry import IGNORED
from lightning_tl.data.image_module import ImageDataModule, TrainingImages
from lightning_tl.data.transforms import CropTransform, ScaleCropTransform, build_transform
from lightning_tl.errors import UserError, nearest

TorchvisionTarget = Literal["sinclass", "semseg"]
# how torchvision's data sets name their splits: parameter, and values for training, validation and test
_SPLITS: tuple[tuple[str, dict[str, tuple[Any, ...]]], ...] = (
    ("train", {"train": (True,), "test": (False,)}),
    ("image_set", {"train": ("train",), "val": ("val",), "test": ("test",)}),
    ("split", {"train": ("train", "trainval"), "val": ("val", "valid"), "test": ("test",)}),
)
# the labels of their test split are not public, or it is not there (VOC: only the year 2007 has one)
_NO_TEST = ("CLEVRClassification", "Cityscapes", "FER2013", "VOCSegmentation")


def dataset_class(name: str) -> type[Any]:
    """Return torchvision's data set of a name.

    Raises:
        UserError: Torchvision has no data set of this name.
    """
    names = [known for known in torchvision.datasets.__all__ if inspect.isclass(getattr(torchvision.datasets, known))]
    if name not in names:
        raise UserError(f"data.name is '{name}', no data set of torchvision{nearest(name, names)}")
    chosen: type[Any] = getattr(torchvision.datasets, name)
    return chosen


class TorchvisionSamples:
    """A split of a torchvision data set.

    Args:
        name: The data set's class.
        root: Its folder.
        options: Further arguments of the class.
        target: ``sinclass`` or ``semseg``.
        num_classes: K; classes are 0 … K - 1, in masks also ``IGNORED``.

    Raises:
        UserError: Torchvision's own error: missing files, unknown arguments.
    """

    mend = MEND_FILE

    def __init__(
        self, name: str, root: Path, options: dict[str, Any], target: TorchvisionTarget, num_classes: int | None
    ) -> None:
        kind = dataset_class(name)
        self.title = f"{name}({', '.join(f'{key}={value!r}' for key, value in options.items())})"
        if "root" in inspect.signature(kind).parameters:
            options = {"root": str(root)} | options
        try:
            self.dataset = kind(**options)
        except Exception as error:  # each data set has its own
            hint = "" if options.get("download") else "; data.download: true fetches what can be fetched"
            raise UserError(f"{self.title} in {root}: {' '.join(str(error).split())}{hint}") from error
        self.kind: Kind = "mask" if target == "semseg" else "label"
        self.num_classes = num_classes

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, index: int) -> str:
        """Return what to call a sample."""
        return f"{self.title}[{index}]"

    def labels(self) -> np.ndarray | None:
        """Return the class of each sample, ``[N]``, if that needs no decoding of images."""
        for attribute in ("targets", "labels", "_labels", "y"):
            values = getattr(self.dataset, attribute, None)
            if values is not None and len(values) == len(self):
                array = np.asarray(values)
                if array.ndim == 1 and array.dtype.kind in "iu":
                    return array.astype(np.int64)
        return None

    def read(self, index: int) -> tuple[Image.Image, Any]:
        """Return an image and its class, or its classes by pixel, uint8 ``[H, W]``."""
        name = self.name(index)
        try:
            image, target = self.dataset[index]
        except Exception as error:  # each data set has its own
            raise UserError(f"{name}: cannot be read ({' '.join(str(error).split())})") from error
        if not isinstance(image, Image.Image):
            raise UserError(f"{name}: gives a {type(image).__name__} and no image; this data set is not for training")
        if self.kind == "mask":
            if not isinstance(target, Image.Image):
                raise UserError(
                    f"{name}: gives no mask: it is no data set for semseg, or needs options in data.options"
                )
            return image, self._mask(name, target)
        if isinstance(target, torch.Tensor) and target.numel() == 1:
            target = int(target)
        if isinstance(target, bool) or not isinstance(target, int | np.integer):
            raise UserError(f"{name}: gives a {type(target).__name__} and no class: it is no data set for sinclass")
        if self.num_classes is not None and not 0 <= target < self.num_classes:
            raise UserError(f"{name}: has class {target}; with data.num_classes {self.num_classes} it must be below")
        return image, int(target)

    def _mask(self, name: str, target: Image.Image) -> np.ndarray:
        classes = mask(target, name)
        wrong = np.unique(classes[(classes != IGNORED) & (classes >= (self.num_classes or 0))])
        if len(wrong):
            raise UserError(
                f"{name}: a pixel of class {wrong[0]}; masks hold 0 to {(self.num_classes or 0) - 1} "
                f"(data.num_classes), and {IGNORED} for what is not counted"
            )
        return classes.astype(np.uint8)


class TorchvisionDataset(ImageDataModule):
    """Any data set of torchvision that gives (image, class) or (image, mask).

    Its splits are found by torchvision's own names (``train=True``, ``split="train"``, ``image_set="train"``, and so
    on) unless ``train``, ``val`` and ``test`` name them. If the data set has one split beside the training images, it
    is the test; two are validation and test. Missing splits are split off the training images, class by class if the
    data set lists its classes, the same for every fraction, draw and seed.

    Args:
        name: Its class in ``torchvision.datasets``, such as ``CIFAR10`` or ``VOCSegmentation``.
        root: Its folder.
        target: ``sinclass`` or ``semseg``.
        num_classes: K (``None``: the data set's number of classes; required for ``semseg``).
        options: More arguments of the data set, for all splits.
        train: Arguments for the training split.
        val: Arguments for the validation split: the test, if ``test`` is missing.
        test: Arguments for the test split.
        val_share: Share of the training images to split off for validation, if the data set has no such split.
        test_share: The same for the test.
        download: Let torchvision download a missing data set.
        transform: Keys of ``CropTransform`` (sinclass) or ``ScaleCropTransform`` (semseg).
        equal_classes: Draw the fraction with the same number of images from every class, instead of the same share. A
            class that has fewer gives all of its images.
        eval_batch_size: Images in a batch of validation and test (``None``: 64, for semseg 1).
        shared: Arguments of :class:`ImageDataModule`.

    Raises:
        UserError: No such data set, torchvision's errors about missing files, samples that do not fit the target.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        target: TorchvisionTarget = "sinclass",
        num_classes: int | None = None,
        options: dict[str, Any] | None = None,
        train: dict[str, Any] | None = None,
        val: dict[str, Any] | None = None,
        test: dict[str, Any] | None = None,
        val_share: float = 0.1,
        test_share: float = 0.1,
        download: bool = False,
        transform: dict[str, Any] | None = None,
        equal_classes: bool = False,
        eval_batch_size: int | None = None,
        **shared: Any,
    ) -> None:
        if target not in (valid := get_args(TorchvisionTarget)):
            raise UserError(f"data.target is '{target}'; TorchvisionDataset has: {', '.join(valid)}")
        super().__init__(
            transform=build_transform(transform, target, CropTransform if target == "sinclass" else ScaleCropTransform),
            eval_batch_size=eval_batch_size or (64 if target == "sinclass" else 1),
            **shared,
        )
        self.val_share, self.test_share, self.equal_classes = val_share, test_share, equal_classes
        if (train is None) != (val is None) or (test is not None and val is None):
            raise UserError(
                "data.train, data.val and data.test name the splits of the data set: give the first two, or all three, "
                "or none"
            )
        self._name, self.root, self.task = name, Path(root), target
        self._accepted = inspect.signature(dataset_class(name)).parameters
        self._options = dict(options or {})
        if download:
            if "download" not in self._accepted:
                raise UserError(f"data.download: {name} cannot be downloaded by torchvision: put its files into {root}")
            self._options["download"] = True
        self._splits = None if train is None else {"train": train, "val": val, "test": test}
        first = self._open("train", num_classes)
        self._options.pop("download", None)
        classes = getattr(first.dataset, "classes", None)
        if num_classes is None and target == "sinclass":
            labels = first.labels()
            num_classes = len(classes) if classes is not None else None if labels is None else int(labels.max()) + 1
        if num_classes is None:
            raise UserError(f"data.num_classes: {name} does not tell how many classes it has; set it")
        if num_classes < 1:
            raise UserError(f"data.num_classes is {num_classes}; it must be at least 1")
        self.num_classes = first.num_classes = num_classes
        if classes is not None and len(classes) == num_classes:
            self.classes = [str(name) for name in classes]
        self._first = first

    def _split(self, split: str) -> dict[str, Any] | None:
        """Return the arguments of a split; ``None`` if there is no such split."""
        if self._splits is not None:
            return self._splits[split]
        for parameter, names in _SPLITS:
            if parameter in self._accepted and parameter not in self._options:
                values = self._values(parameter, names)
                return {parameter: values[split]} if split in values else None
        return {} if split == "train" else None

    def _values(self, parameter: str, names: dict[str, tuple[Any, ...]]) -> dict[str, Any]:
        """Return the value of each split that the data set's source code names; there is no other list."""
        source = inspect.getsource(dataset_class(self._name))
        arguments = {
            split: next((value for value in values if isinstance(value, bool) or f'"{value}"' in source), None)
            for split, values in names.items()
            if split != "test" or self._name not in _NO_TEST
        }
        if arguments["train"] is None:
            raise UserError(
                f"data.train, data.val: the splits of {self._name} are not plain; name them ({parameter}=…)"
            )
        return {split: value for split, value in arguments.items() if value is not None}

    def _open(self, split: str, num_classes: int | None) -> TorchvisionSamples:
        options = self._options | (self._split(split) or {})
        any_key = any(parameter.kind is parameter.VAR_KEYWORD for parameter in self._accepted.values())
        unknown = [key for key in options if key not in self._accepted and not any_key]
        if unknown:
            raise UserError(
                f"data.options: {self._name} has no argument '{unknown[0]}'{nearest(unknown[0], self._accepted)}"
            )
        return TorchvisionSamples(self._name, self.root, options, self.task, num_classes)

    def setup(self, stage: str) -> None:
        """Open the splits that the stage needs."""

        def opener(split: str) -> Callable[[], TorchvisionSamples] | None:
            return None if self._split(split) is None else lambda: self._open(split, self.num_classes)

        labels = self._first.labels() if self.task == "sinclass" else None
        self.open_splits(stage, lambda: TrainingImages(self._first, labels), opener("val"), opener("test"))
