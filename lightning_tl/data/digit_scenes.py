"""Real handwritten digits, several in an image, with boxes and masks: a target for every task without a download."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from PIL import Image
from scipy.ndimage import maximum_filter

from lightning_tl.data.digits import load_digits, split_digits
from lightning_tl.data.image_dataset import Kind
from lightning_tl.data.image_module import ImageDataModule, TrainingImages
from lightning_tl.data.transforms import (
    CropTransform,
    ResizeTransform,
    ScaleCropTransform,
    TransformSetting,
    build_transform,
)
from lightning_tl.errors import UserError

DigitTarget = Literal["sinclass", "objdet", "semseg"]
SIDE, DIGIT = 64, 28  # pixels per side of an image, and of a digit in it
MOST = 4  # digits in an image
TRAIN, VAL, TEST = 1000, 150, 400  # images
_APART = 20  # pixels between two digits' centres at least: they touch, but do not hide each other
_INK = 64  # from this brightness on a pixel is the digit's
_REACH = 3  # pixels around the ink that belong to the digit: strokes themselves are thinner than a network's strides
_KINDS: dict[str, Kind] = {"sinclass": "label", "objdet": "boxes", "semseg": "mask"}


class Scenes:
    """White digits on black; an image is a function of its seed and index only.

    Args:
        digits: Indices among the 5,000 digits to draw from, ``[D]``.
        length: Number of images.
        seed: Seed of their content.
        target: The task; ``sinclass`` has one digit per image.
    """

    mend = "report it"  # made here: never damaged

    def __init__(self, digits: np.ndarray, length: int, seed: int, target: DigitTarget) -> None:
        self.digits, self.length, self.seed, self.target = digits, length, seed, target
        self.kind = _KINDS[target]

    def __len__(self) -> int:
        return self.length

    def name(self, index: int) -> str:
        """Return the name of an image."""
        return f"digit scene {index} (seed {self.seed})"

    def read(self, index: int) -> tuple[Image.Image, Any]:
        """Return an image and its target."""
        pixels, classes, boxes, labels = self._draw(index)
        image = Image.fromarray(pixels).convert("RGB")
        if self.target == "sinclass":
            return image, int(labels[0])
        if self.target == "semseg":
            return image, classes
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        iscrowd = np.zeros(len(labels), np.int64)
        return image, {"boxes": boxes, "labels": labels + 1, "iscrowd": iscrowd, "area": area, "image_id": index}

    def _draw(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return colours and classes (0: background) by pixel, boxes ``[K, 4]`` (xyxy, pixels), labels ``[K]``."""
        images, classes = load_digits()
        rng = np.random.default_rng([self.seed, index])
        count = 1 if self.target == "sinclass" else int(rng.integers(1, MOST + 1))
        places = _places(rng, count)
        chosen = rng.choice(self.digits, len(places), replace=False)
        pixels, mask, brightest = np.zeros((3, SIDE, SIDE), np.uint8)
        boxes = []
        for (y, x), digit in zip(places, chosen, strict=True):
            window = (slice(y, y + DIGIT), slice(x, x + DIGIT))
            ink = images[digit]
            single = np.zeros_like(pixels)
            single[window] = ink
            grown = maximum_filter(single, 2 * _REACH + 1)
            mask = np.where((grown >= _INK) & (grown > brightest), classes[digit] + 1, mask)
            brightest = np.maximum(brightest, grown)
            pixels = np.maximum(pixels, single)
            rows, columns = np.nonzero(ink >= _INK)
            boxes.append([x + columns.min(), y + rows.min(), x + columns.max() + 1, y + rows.max() + 1])
        return pixels, mask, np.array(boxes, np.float32), classes[chosen]


def _places(rng: np.random.Generator, count: int) -> list[tuple[int, int]]:
    """Return upper left corners with enough distance between them; perhaps fewer than requested."""
    places: list[tuple[int, int]] = []
    for y, x in rng.integers(0, SIDE - DIGIT + 1, (40, 2)).tolist():
        if all(max(abs(y - row), abs(x - column)) >= _APART for row, column in places):
            places.append((y, x))
        if len(places) == count:
            break
    return places


class DigitScenes(ImageDataModule):
    """Images of 64 px with one (classification) or one to four (detection, segmentation) real handwritten digits.

    For trying any of the tasks on real images without a data set. Training images are made of the digits that
    :class:`Digits` draws its shots from, validation and test images of its other two parts.

    Args:
        target: ``sinclass``: one digit per image, its class. ``objdet``: boxes, labels 1 … 10. ``semseg``: class by
            pixel, 0 the background and 1 … 10 the digits, ink and 3 pixels about it.
        transform: Sizes, crops: keys of ``CropTransform`` (sinclass), ``ResizeTransform`` (objdet),
            ``ScaleCropTransform`` (semseg).
        batch_size: Images in a training batch.
        eval_batch_size: Images in a batch of validation and test.
        shared: Arguments of :class:`ImageDataModule`; the ``fraction`` is that of 1,000 training images.

    Raises:
        UserError: An unknown target, a transform of another task, an invalid fraction.
    """

    def __init__(
        self,
        target: DigitTarget = "objdet",
        transform: TransformSetting = None,
        batch_size: int = 16,
        eval_batch_size: int = 50,
        **shared: Any,
    ) -> None:
        if target not in get_args(DigitTarget):
            raise UserError(f"data.target is '{target}'; valid: {', '.join(get_args(DigitTarget))}")
        families: dict[str, tuple[type, dict[str, Any]]] = {
            "sinclass": (CropTransform, {"size": SIDE, "eval_resize": SIDE, "scale": (0.5, 1.0), "hflip": 0.0}),
            "objdet": (ResizeTransform, {"size": SIDE, "hflip": 0.0}),
            "semseg": (
                ScaleCropTransform,
                {"crop": SIDE, "shorter": (SIDE - 8, SIDE + 24), "eval_shorter": SIDE, "hflip": 0.0},
            ),
        }
        family, settings = families[target]
        super().__init__(
            transform=build_transform(transform, target, family, **settings),
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            **shared,
        )
        self.target, self.task = target, target
        self.classes = [*(["background"] if target == "semseg" else []), *"0123456789"]
        self.num_classes = len(self.classes)

    def setup(self, stage: str) -> None:
        """Make the three splits."""
        if self.splits:
            return
        parts = split_digits(shots=100, draw=0)
        train = Scenes(parts["train"], TRAIN, 0, self.target)
        single = self.target == "sinclass"
        labels = np.array([train.read(index)[1] for index in range(TRAIN)]) if single else None
        self.add_training_split(TrainingImages(train, labels))
        self.add_split("val", Scenes(parts["val"], VAL, 1, self.target))
        self.add_split("test", Scenes(parts["test"], TEST, 2, self.target))
