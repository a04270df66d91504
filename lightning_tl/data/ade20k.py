"""ADE20K in its SceneParsing layout: images and masks of classes by pixel."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image

from lightning_tl.data.image_dataset import MEND_FILE, Kind
from lightning_tl.data.image_files import existing_folder, mask, open_image
from lightning_tl.data.image_folder import image_files
from lightning_tl.data.image_geometry import IGNORED
from lightning_tl.data.image_module import ImageDataModule, TrainingImages
from lightning_tl.data.transforms import ScaleCropTransform
from lightning_tl.errors import UserError

_OFFICIAL = 150  # classes of ADE20K
_LOOKED_AT = 100  # masks, to see which classes there are


class ScenePairs:
    """The images of ``ROOT/images/SPLIT`` with the masks of ``ROOT/annotations/SPLIT``.

    A mask's 0 (other) becomes ``IGNORED``, its 1 … K become 0 … K - 1.

    Args:
        root: The folder.
        split: ``training`` or ``validation``.
        num_classes: K.

    Raises:
        UserError: No images, an image without a mask, a mask without an image.
    """

    kind: Kind = "mask"
    mend = MEND_FILE

    def __init__(self, root: Path, split: str, num_classes: int) -> None:
        self.images, self.masks, self.num_classes = root / "images" / split, root / "annotations" / split, num_classes
        for folder in (self.images, self.masks):
            if not folder.is_dir():
                raise UserError(
                    f"{folder}: no such folder; expected {root}/images/{{training,validation}} and "
                    f"{root}/annotations/{{training,validation}}"
                )
        self.files = image_files(self.images)
        if not self.files:
            raise UserError(f"{self.images}: no images in it")
        stems = {os.path.splitext(file)[0] for file in self.files}
        masks = {os.path.splitext(file)[0] for file in image_files(self.masks)}
        for name, missing, what in ((self.images, stems - masks, "mask"), (self.masks, masks - stems, "image")):
            if missing:
                other = self.masks if what == "mask" else self.images
                raise UserError(
                    f"{name / min(missing)}.*: no {what} of that name in {other} ({len(missing)} such): "
                    "add it, or remove this"
                )

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        """Return the path of an image."""
        return str(self.images / self.files[index])

    def read(self, index: int) -> tuple[Image.Image, np.ndarray]:
        """Return an image, not yet decoded, and its classes by pixel, uint8 ``[H, W]``."""
        path = self.masks / f"{os.path.splitext(self.files[index])[0]}.png"
        stored = mask(open_image(path, str(path)), str(path))
        largest = int(stored.max())
        if largest > self.num_classes:
            raise UserError(
                f"{path}: a pixel of class {largest}; the masks hold 0 (other) and 1 to {self.num_classes}: "
                "set data.num_classes if there are more"
            )
        image = open_image(self.images / self.files[index], self.name(index))
        return image, np.where(stored == 0, IGNORED, stored - 1).astype(np.uint8)


class ADE20K(ImageDataModule):
    """Semantic segmentation in ADE20K's layout: ``ROOT/images/training/*.jpg``, ``ROOT/annotations/training/*.png``.

    ``ROOT/images/validation`` and its masks are the test. Validation images are split off the training images, the same
    for every fraction, draw and seed. Evaluation images keep their proportions, so they come one by one, with masks of
    the resized image's size.

    Args:
        root: The folder.
        num_classes: K: masks hold 1 to K, and 0 for what is not counted. Where it is not given it is 150, that of
            ADE20K itself.
        transform: Crops, sizes, colours.
        val_share: Share of the training images to split off for validation.
        batch_size: Images in a training batch.
        eval_batch_size: Images in a batch of validation and test; more than 1 only where all are of one size.
        shared: Arguments of :class:`ImageDataModule`.

    Raises:
        UserError: No such folders, an image without a mask, a mask of another size or with a class above K; no
            ``num_classes``, and masks that are not those of ADE20K's 150 classes.
    """

    task = "semseg"

    def __init__(
        self,
        root: Path,
        num_classes: int | None = None,
        transform: ScaleCropTransform | None = None,
        val_share: float = 0.1,
        batch_size: int = 16,
        eval_batch_size: int = 1,
        **shared: Any,
    ) -> None:
        super().__init__(
            transform=transform or ScaleCropTransform(),
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            **shared,
        )
        if num_classes is not None and not 1 <= num_classes <= IGNORED:
            raise UserError(f"data.num_classes is {num_classes}; it must be between 1 and {IGNORED}")
        self.given = num_classes is not None
        self.num_classes = _OFFICIAL if num_classes is None else num_classes
        self.root, self.val_share = existing_folder(root), val_share

    def _check_classes(self, pairs: ScenePairs) -> None:
        """Look at some masks: with far fewer classes than the head has, the number is probably another data set's.

        An error where nobody gave the number, else a warning: a part of a data set may lack classes.
        """
        looked = np.unique(np.linspace(0, len(pairs) - 1, min(len(pairs), _LOOKED_AT)).astype(int))
        files = [pairs.masks / f"{os.path.splitext(pairs.files[index])[0]}.png" for index in looked]
        largest = max(int(mask(open_image(path, str(path)), str(path)).max()) for path in files)
        if 2 * largest > self.num_classes:
            return
        found = f"the largest class in {len(files)} masks of {pairs.masks} is {largest}"
        if self.given:
            rank_zero_warn(
                f"data.num_classes is {self.num_classes}, but {found}: if there are no more, set data.num_classes to "
                f"{largest}"
            )
        else:
            raise UserError(
                f"data.num_classes is not given, and {found}, where ADE20K has {self.num_classes} classes: set "
                f"data.num_classes to {largest}, or to the number of classes that the data set has"
            )

    def setup(self, stage: str) -> None:
        """List the images of the splits that the stage needs."""
        if stage == "fit" and "train" not in self.splits and self.on_error == "raise":
            self._check_classes(ScenePairs(self.root, "training", self.num_classes))
        self.open_splits(
            stage,
            lambda: TrainingImages(ScenePairs(self.root, "training", self.num_classes)),
            val=lambda: ScenePairs(self.root, "validation", self.num_classes),
        )
