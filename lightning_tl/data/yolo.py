"""Boxes in YOLO's format: a text file of labels for each image, and a data.yaml that names the classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image

from lightning_tl.data.image_dataset import MEND_FILE, Kind
from lightning_tl.data.image_files import existing_folder, open_image
from lightning_tl.data.image_folder import image_files
from lightning_tl.data.image_module import ImageDataModule, TrainingImages
from lightning_tl.data.transforms import ResizeTransform
from lightning_tl.errors import UserError

_SETS = ("train", "val", "test")


class YoloLayout:
    """What a ``data.yaml`` says: class names, and where the images of each set are.

    Args:
        root: The folder with the file.

    Raises:
        UserError: No such file, or it does not name classes and training images.
    """

    def __init__(self, root: Path) -> None:
        self.path = next((path for name in ("data", "dataset") if (path := root / f"{name}.yaml").is_file()), None)
        if self.path is None:
            raise UserError(f"{root}/data.yaml: no such file; it names the classes, and where the images are")
        try:
            content = yaml.safe_load(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise UserError(f"{self.path}: cannot be read as YAML ({' '.join(str(error).split())})") from None
        if not isinstance(content, dict):
            raise UserError(f"{self.path}: is not a mapping with 'names', 'train' and 'val'")
        self.names = self._names(content.get("names"))
        count = content.get("nc")
        if count is not None and count != len(self.names):
            raise UserError(f"{self.path}: nc is {count}, but there are {len(self.names)} names")
        base = content.get("path") or ""
        self.folders = {name: self._folders(root, str(base), content.get(name)) for name in _SETS}
        if not self.folders["train"]:
            raise UserError(f"{self.path}: no 'train' in it, the folder of the training images")

    def _names(self, names: Any) -> list[str]:
        if isinstance(names, dict):
            if sorted(names) != list(range(len(names))):
                raise UserError(f"{self.path}: the numbers of 'names' must be 0, 1, …, without gaps")
            names = [names[number] for number in range(len(names))]
        if not isinstance(names, list) or not names:
            raise UserError(f"{self.path}: no list 'names' in it, the names of the classes")
        return [str(name) for name in names]

    def _folders(self, root: Path, base: str, given: Any) -> list[Path]:
        """Return the image folders of a set; Roboflow writes ``../train/images`` for ``train/images``."""
        entries = given if isinstance(given, list) else [given] if given else []
        found = []
        for entry in map(str, entries):
            inside = entry.removeprefix("../").removeprefix("./")
            places = [root / base / entry, root / entry, root / inside, root / base / inside]
            folder = next((place for place in places if place.is_dir()), None)
            if folder is None:
                what = "a list of files is not read: name folders" if entry.endswith(".txt") else "no such folder"
                raise UserError(f"{self.path}: '{entry}': {what} (looked for {places[0]} and {places[2]})")
            found.append(folder)
        return found


class YoloImages:
    """Images with the boxes of their label files, or with the classes in them.

    The label file of ``…/images/a/1.jpg`` is ``…/labels/a/1.txt``; without an ``images`` folder it is beside the image.
    An image without one shows nothing. A line is ``class x y width height``, of the box's middle, as shares of the
    image's sides; or a class and a polygon, whose bounding box is taken. What is outside the image is cut off.

    Args:
        folders: Folders of images.
        layout: The classes.
        target: ``objdet`` or ``mulclass``.

    Raises:
        UserError: No image, or a wrong line.
    """

    mend = MEND_FILE

    def __init__(self, folders: list[Path], layout: YoloLayout, target: str) -> None:
        self.kind: Kind = "boxes" if target == "objdet" else "label"
        self.classes = len(layout.names)
        self.files = [folder / file for folder in folders for file in image_files(folder)]
        if not self.files:
            raise UserError(f"{', '.join(map(str, folders))}: no images in it")
        self.left_out = 0
        rows = [self._read_labels(label_file(file), layout) for file in self.files]
        if self.left_out:
            rank_zero_warn(f"{folders[0]}: {self.left_out} boxes have no area inside their image; left out")
        self._ends = np.cumsum([0, *map(len, rows)])
        self.rows = np.concatenate(rows)

    def _read_labels(self, path: Path, layout: YoloLayout) -> np.ndarray:
        """Return one row per box, float ``[n, 5]``: class, left, top, right, bottom as shares."""
        if not path.is_file():
            return np.empty((0, 5), np.float32)
        rows = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            words = line.split()
            if not words:
                continue
            where = f"{path}, line {number}"
            try:
                kind, values = float(words[0]), [float(word) for word in words[1:]]
            except ValueError:
                raise UserError(f"{where}: '{line[:60]}' is not made of numbers") from None
            if kind != int(kind) or not 0 <= kind < self.classes:
                raise UserError(
                    f"{where}: class {words[0]}, but {layout.path} names {self.classes}, 0 to {self.classes - 1}"
                )
            if len(values) == 4:
                x, y, w, h = values
                box = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
            elif len(values) >= 6 and len(values) % 2 == 0:
                box = [min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])]
            else:
                raise UserError(f"{where}: {len(words)} numbers; it must be class x y width height, or a polygon")
            if not np.isfinite(box).all() or max(map(abs, box)) > 10:
                raise UserError(f"{where}: '{line[:60]}' has pixels; YOLO's labels are shares of the image's sides")
            left, top, right, bottom = np.clip(box, 0, 1)
            if right > left and bottom > top:
                rows.append([kind, left, top, right, bottom])
            else:
                self.left_out += 1
        return np.array(rows, np.float32).reshape(-1, 5)

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        """Return the path of an image."""
        return str(self.files[index])

    def with_boxes(self) -> np.ndarray:
        """Return the indices of images with a box."""
        return np.flatnonzero(np.diff(self._ends))

    def read(self, index: int) -> tuple[Image.Image, Any]:
        """Return an image, not yet decoded, and its target."""
        image = open_image(self.files[index], self.name(index))
        rows = self.rows[self._ends[index] : self._ends[index + 1]]
        if self.kind == "label":
            shown = np.zeros(self.classes, np.float32)
            shown[rows[:, 0].astype(int)] = 1
            return image, shown
        boxes = rows[:, 1:] * np.array([image.width, image.height] * 2, np.float32)
        return image, {
            "boxes": boxes,
            "labels": rows[:, 0].astype(np.int64) + 1,
            "iscrowd": np.zeros(len(rows), np.int64),
            "area": (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
            "image_id": np.int64(index),
        }


def label_file(image: Path) -> Path:
    """Return where the labels of an image are: the last folder ``images`` of its path becomes ``labels``."""
    parts = list(image.parts)
    places = [number for number, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


class YoloDetection(ImageDataModule):
    """Detection, or several labels, on a data set in YOLO's layout, as Ultralytics and Roboflow write it.

    ``ROOT/data.yaml`` names the classes and the folders ``train``, ``val`` and ``test`` of images; the labels are in
    folders called ``labels`` beside those called ``images``. With ``test``, ``val`` is used as such; without, ``val``
    is the test, and validation images are split off the training images, the same for every fraction, draw and seed.

    Args:
        root: The folder.
        target: ``objdet``: boxes with labels 1 … K. ``mulclass``: the classes in the image, as a float vector.
        keep_empty: Train also on images without a box. Validation and test always have them.
        transform: Size, mirroring, colours.
        val_share: Share of the training images to split off for validation where it is needed.
        test_share: The same for the test, if there is neither ``val`` nor ``test``.
        batch_size: Images in a training batch.
        eval_batch_size: Images in a batch of validation and test.
        shared: Arguments of :class:`ImageDataModule`.

    Raises:
        UserError: A file or folder that is missing, a wrong label.
    """

    def __init__(
        self,
        root: Path,
        target: str = "objdet",
        keep_empty: bool = False,
        transform: ResizeTransform | None = None,
        val_share: float = 0.1,
        test_share: float = 0.1,
        batch_size: int = 8,
        eval_batch_size: int = 8,
        **shared: Any,
    ) -> None:
        super().__init__(
            transform=transform or ResizeTransform(), batch_size=batch_size, eval_batch_size=eval_batch_size, **shared
        )
        if target not in ("objdet", "mulclass"):
            raise UserError(f"data.target is '{target}'; YoloDetection has: objdet, mulclass")
        self.root, self.keep_empty, self.task = existing_folder(root), keep_empty, target
        self.val_share, self.test_share = val_share, test_share
        self.layout = YoloLayout(self.root)
        self.classes = self.layout.names
        self.num_classes = len(self.classes)

    def setup(self, stage: str) -> None:
        """Read the labels of the splits that the stage needs."""
        folders = self.layout.folders
        self.open_splits(
            stage,
            self._training_images,
            val=(lambda: self._images("val")) if folders["val"] else None,
            test=(lambda: self._images("test")) if folders["test"] else None,
        )

    def _images(self, split: str) -> YoloImages:
        return YoloImages(self.layout.folders[split], self.layout, self.task)

    def _training_images(self) -> TrainingImages:
        images = self._images("train")
        return TrainingImages(images, usable=None if self.keep_empty else images.with_boxes())
