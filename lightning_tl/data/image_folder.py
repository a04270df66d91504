"""Folders of images by class, as ImageNet's."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lightning_tl.data.image_dataset import MEND_FILE, Kind
from lightning_tl.data.image_files import EXTENSIONS, existing_folder, open_image
from lightning_tl.data.image_module import ImageDataModule, TrainingImages
from lightning_tl.data.transforms import CropTransform
from lightning_tl.errors import UserError, nearest


def class_folders(folder: Path) -> list[str]:
    """Return the names of a folder's sub-folders, sorted, without hidden ones."""
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def image_files(folder: Path) -> list[str]:
    """Return the images in a folder and its sub-folders: paths relative to the folder, sorted."""
    paths = []
    for at, _, files in os.walk(folder, followlinks=True):
        paths += [
            os.path.relpath(os.path.join(at, name), folder)
            for name in files
            if os.path.splitext(name)[1].lower() in EXTENSIONS and not name.startswith(".")
        ]
    return sorted(paths)


class ImageClasses:
    """The images of ``FOLDER/CLASS/…``, in the order of class and file.

    Args:
        folder: A folder with one sub-folder per class.
        classes: Name → number (``None``: the folders' names, sorted).

    Raises:
        UserError: No folder, a class that ``classes`` lacks, a class without images.
    """

    kind: Kind = "label"
    mend = MEND_FILE

    def __init__(self, folder: Path, classes: Mapping[str, int] | None = None) -> None:
        self.folder = folder
        names = class_folders(folder)
        if not names:
            raise UserError(f"{folder}: no folders in it; images of each class belong into a folder named after it")
        self.classes = dict(classes) if classes is not None else {name: i for i, name in enumerate(names)}
        files: list[str] = []
        labels: list[int] = []
        for name in names:
            if name not in self.classes:
                raise UserError(f"{folder / name}: no such class among those for training{nearest(name, self.classes)}")
            images = image_files(folder / name)
            if not images:
                raise UserError(
                    f"{folder / name}: no image in this class ({', '.join(sorted(EXTENSIONS))}): add some, or remove "
                    "the folder"
                )
            files += [f"{name}/{file}" for file in images]
            labels += [self.classes[name]] * len(images)
        # one array instead of a million strings, which loader processes would copy
        self.files, self.labels = np.array(files, np.bytes_ if all(map(str.isascii, files)) else None), np.array(labels)

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """Return the path of an image."""
        file = self.files[index]
        return f"{self.folder}/{file.decode() if isinstance(file, bytes) else file}"

    def read(self, index: int) -> tuple[Image.Image, int]:
        """Return an image, not yet decoded, and its class."""
        name = self.name(index)
        return open_image(Path(name), name), int(self.labels[index])


class ImageFolder(ImageDataModule):
    """Images by class: ``ROOT/train/CLASS/*.jpg`` beside ``ROOT/val`` and ``ROOT/test``, or ``ROOT/CLASS/*.jpg``.

    If both ``val`` and ``test`` exist, they are validation and test. If there is only one of them, as in ImageNet, its
    images are the test. Validation images, and without either folder test images too, are split off the training
    images, class by class, the same for every fraction, draw and seed. EXIF rotation is not applied.

    Args:
        root: The folder.
        val_share: Share of each class to split off for validation, if there are not two folders beside ``train``.
        test_share: The same for the test, if there is neither ``val`` nor ``test``.
        transform: Crops, sizes, colours.
        equal_classes: Draw the fraction with the same number of images from every class, instead of the same share. A
            class that has fewer gives all of its images.
        eval_batch_size: Images in a batch of validation and test.
        shared: Arguments of :class:`ImageDataModule`.

    Raises:
        UserError: No such folder, no classes, a class without images or that only validation or test has.
    """

    task = "sinclass"

    def __init__(
        self,
        root: Path,
        val_share: float = 0.1,
        test_share: float = 0.1,
        transform: CropTransform | None = None,
        equal_classes: bool = False,
        eval_batch_size: int = 64,
        **shared: Any,
    ) -> None:
        super().__init__(transform=transform or CropTransform(), eval_batch_size=eval_batch_size, **shared)
        self.val_share, self.test_share, self.equal_classes = val_share, test_share, equal_classes
        self.root = existing_folder(root)
        # a class may be called "train": a split holds folders, not images
        self._train_folder = self.root / "train" if class_folders(self.root / "train") else self.root
        self.classes = class_folders(self._train_folder)
        if not self.classes:
            raise UserError(
                f"{root}: no classes in it; expected {root}/train/CLASS/*.jpg and {root}/val/CLASS/*.jpg, "
                f"or {root}/CLASS/*.jpg"
            )
        self.num_classes = len(self.classes)

    def setup(self, stage: str) -> None:
        """List the images of the splits that the stage needs."""
        numbers = {name: i for i, name in enumerate(self.classes)}

        def training_images() -> TrainingImages:
            images = ImageClasses(self._train_folder, numbers)
            return TrainingImages(images, images.labels)

        def opener(split: str) -> Callable[[], ImageClasses] | None:
            folder = self.root / split
            if self._train_folder == self.root or not class_folders(folder):
                return None
            return lambda: ImageClasses(folder, numbers)

        self.open_splits(stage, training_images, opener("val"), opener("test"))
