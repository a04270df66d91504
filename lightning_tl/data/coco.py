"""Boxes in COCO's format: a JSON of instances and a folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from PIL import Image

from lightning_tl._io.files import check_regular
from lightning_tl._io.json_text import parse_json
from lightning_tl.data.image_dataset import MEND_FILE, Kind
from lightning_tl.data.image_files import existing_folder, open_image
from lightning_tl.data.image_module import ImageDataModule, TrainingImages
from lightning_tl.data.transforms import ResizeTransform
from lightning_tl.errors import UserError, shortened

_MOST = 10**12  # of ids, sides, areas
CocoTarget = Literal["objdet", "mulclass"]


def _rows(path: Path, content: dict[str, Any], key: str, fields: tuple[str, ...]) -> list[dict[str, Any]]:
    rows = content.get(key)
    if not isinstance(rows, list):
        raise UserError(f"{path}: no list '{key}'; an instances file has 'images', 'annotations' and 'categories'")
    for number, row in enumerate(rows):
        for field in fields:
            if not isinstance(row, dict) or field not in row:
                raise UserError(f"{path}: {key}[{number}] has no '{field}'")
    return rows


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -_MOST <= value <= _MOST


class Instances:
    """An instances file: images and their boxes, by index in the order of the file.

    Boxes without area, or wholly outside of their image, are left out, with a warning that counts them; others are
    cut at the image's edges.

    Args:
        path: The JSON.

    Raises:
        UserError: No such file, no JSON, a missing key, a duplicate or unknown id, an invalid box.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            check_regular(path, str(path))
            content = parse_json(path.read_bytes())
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"{path}: cannot be read as JSON ({shortened(error)})") from None
        if not isinstance(content, dict):
            raise UserError(f"{path}: holds no object at its top, but a {type(content).__name__}")
        images = _rows(path, content, "images", ("id", "file_name", "width", "height"))
        self.categories = self._categories(_rows(path, content, "categories", ("id", "name")))
        self.ids = np.array([self._number("images", i, row, "id") for i, row in enumerate(images)], np.int64)
        if not len(images):
            raise UserError(f"{path}: lists no images")
        self.files = [str(row["file_name"]) for row in images]
        self.sizes = np.array(
            [[self._number("images", i, row, key) for key in ("width", "height")] for i, row in enumerate(images)]
        )
        places = {int(number): i for i, number in enumerate(self.ids)}
        if len(places) < len(images):
            twice = next(int(n) for n, count in zip(*np.unique(self.ids, return_counts=True), strict=True) if count > 1)
            raise UserError(f"{path}: two images have the id {twice}")
        self._read_boxes(_rows(path, content, "annotations", ("image_id", "category_id", "bbox")), places)

    def _number(self, key: str, place: int, row: dict[str, Any], field: str) -> int:
        value = row[field]
        least = 1 if field in ("width", "height") else -_MOST
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _MOST:
            said = shortened(repr(value))
            raise UserError(f"{self.path}: {key}[{place}].{field} is {said}; it must be a whole number in its range")
        return value

    def _categories(self, rows: list[dict[str, Any]]) -> dict[int, str]:
        categories: dict[int, str] = {}
        for place, row in enumerate(rows):
            number = self._number("categories", place, row, "id")
            if number in categories:
                raise UserError(f"{self.path}: two categories have the id {number}")
            categories[number] = str(row["name"])
        if not categories:
            raise UserError(f"{self.path}: lists no categories")
        return dict(sorted(categories.items()))

    def _read_boxes(self, rows: list[dict[str, Any]], places: dict[int, int]) -> None:
        self.left_out = 0
        columns = {number: i for i, number in enumerate(self.categories)}
        boxes, labels, crowds, areas, owners = [], [], [], [], []
        for place, row in enumerate(rows):
            where = f"{self.path}: annotations[{place}]"
            image, category = (self._number("annotations", place, row, key) for key in ("image_id", "category_id"))
            if image not in places:
                raise UserError(f"{where}.image_id is {image}, which no image has")
            if category not in columns:
                raise UserError(f"{where}.category_id is {category}, which 'categories' does not list")
            owner = places[image]
            box = self._box(where, row["bbox"], self.sizes[owner])
            if box is None:
                self.left_out += 1
                continue
            boxes.append(box)
            labels.append(columns[category] + 1)
            crowds.append(1 if row.get("iscrowd") else 0)
            areas.append(self._area(where, row.get("area", row["bbox"][2] * row["bbox"][3])))
            owners.append(owner)
        order = np.argsort(np.array(owners, np.int64), kind="stable")
        self.boxes = np.array(boxes, np.float32).reshape(-1, 4)[order]
        self.labels, self.crowds = np.array(labels, np.int64)[order], np.array(crowds, np.int64)[order]
        self.areas = np.array(areas, np.float32)[order]
        counts = np.bincount(np.array(owners, np.int64), minlength=len(self.files))
        self._ends = np.concatenate([[0], np.cumsum(counts)])
        if self.left_out:
            rank_zero_warn(
                f"{self.path}: {self.left_out} of {len(rows)} boxes have no area inside their image; left out"
            )

    def _box(self, where: str, box: Any, size: np.ndarray) -> list[float] | None:
        """Return the box inside the image as xyxy; ``None`` if no part of it is."""
        numbers = isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))
        if not numbers:
            said = shortened(repr(box))
            raise UserError(f"{where}.bbox is {said}; it must be four numbers: left, top, width, height in pixels")
        x, y, w, h = box
        left, top, right, bottom = max(0.0, x), max(0.0, y), min(float(size[0]), x + w), min(float(size[1]), y + h)
        return [left, top, right, bottom] if right > left and bottom > top else None

    def _area(self, where: str, area: Any) -> float:
        if not _is_number(area) or area < 0:
            raise UserError(f"{where}.area is {shortened(repr(area))}; it must be a number of pixels, at least 0")
        return float(area)

    def of(self, index: int) -> slice:
        """Return the indices of an image's boxes."""
        return slice(int(self._ends[index]), int(self._ends[index + 1]))

    def with_boxes(self) -> np.ndarray:
        """Return the indices of images with a box that is not a crowd."""
        single = np.concatenate([[0], np.cumsum(self.crowds == 0)])
        return np.flatnonzero(np.diff(single[self._ends]))


class InstanceImages:
    """Images of an instances file with their boxes, or with the categories in them.

    Args:
        instances: The file.
        folder: Its images.
        target: ``objdet`` or ``mulclass``.
        crowds: Include crowd boxes, as evaluation needs them.
    """

    mend = MEND_FILE

    def __init__(self, instances: Instances, folder: Path, target: CocoTarget, crowds: bool) -> None:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder, where the images of {instances.path} should be")
        self.instances, self.folder, self.crowds = instances, folder, crowds
        self.kind: Kind = "boxes" if target == "objdet" else "label"

    def __len__(self) -> int:
        return len(self.instances.files)

    def name(self, index: int) -> str:
        """Return the path of an image."""
        return str(self.folder / self.instances.files[index])

    def read(self, index: int) -> tuple[Image.Image, Any]:
        """Return an image, not yet decoded, and its target."""
        name = self.name(index)
        image = open_image(Path(name), name)
        width, height = self.instances.sizes[index]
        if image.size != (width, height):
            raise UserError(
                f"{name}: {image.width} x {image.height} px, but {self.instances.path} says {width} x {height}"
            )
        own = self.instances.of(index)
        labels = self.instances.labels[own]
        if self.kind == "label":
            shown = np.zeros(len(self.instances.categories), np.float32)
            shown[labels - 1] = 1
            return image, shown
        kept = slice(None) if self.crowds else self.instances.crowds[own] == 0
        return image, {
            "boxes": self.instances.boxes[own][kept],
            "labels": labels[kept],
            "iscrowd": self.instances.crowds[own][kept],
            "area": self.instances.areas[own][kept],
            "image_id": self.instances.ids[index],
        }


def _other_layout(root: Path, wanted: str) -> dict[str, tuple[str | None, str | None]] | None:
    """Return the splits of a folder as Roboflow exports it: ``train``, ``valid``, ``test``, the JSON beside the images.

    Raises:
        UserError: It is a folder in YOLO's format.
    """
    name = "_annotations.coco.json"
    folders = {own: folder for own, folder in _ROBOFLOW.items() if (root / folder / name).is_file()}
    if "train" in folders and ("val" in folders or "test" in folders):
        folders.setdefault("val", "test")  # without a validation set its test images are the test
        if folders["val"] == "test":
            folders.pop("test", None)
        rank_zero_info(f"{root}: read as Roboflow exports COCO ({', '.join(folders.values())})")
        return {own: (folders.get(own), f"{folders[own]}/{name}" if own in folders else None) for own in _ROBOFLOW}
    if any((root / file).is_file() for file in ("data.yaml", "dataset.yaml")) or (root / "labels").is_dir():
        raise UserError(f"{root / wanted}: no such file; the folder is in YOLO's format: choose --data YoloDetection")
    return None


_ROBOFLOW = {"train": "train", "val": "valid", "test": "test"}


class CocoDetection(ImageDataModule):
    """Detection, or several labels, on COCO or any data set in its format.

    COCO's own validation set is the test, as its test set has no public labels. Validation images are split off the
    training images, the same for every fraction, draw and seed. With ``test_images`` the data set's validation set is
    used as such.

    A folder as Roboflow exports it, ``ROOT/train/_annotations.coco.json`` beside ``ROOT/valid`` and ``ROOT/test``, is
    recognised where the default annotations are missing.

    The categories' ids, which may have gaps, become the labels 1 … K in their order. Crowd boxes are used in evaluation
    only. Areas are in pixels of the resized image, as the boxes are.

    Args:
        root: The folder; the next six are paths below it.
        train_images: Training images.
        train_annotations: Their instances.
        val_images: The data set's validation images: the test if there is no ``test_images``.
        val_annotations: Their instances.
        test_images: Test images, if the data set has any with labels.
        test_annotations: Their instances.
        target: ``objdet``: boxes. ``mulclass``: the categories in the image, as a float vector.
        keep_empty: Train also on images without a box other than crowds. Validation and test always have them.
        transform: Size, mirroring, colours.
        val_share: Share of the training images to split off for validation if there is no ``test_images``.
        batch_size: Images in a training batch.
        eval_batch_size: Images in a batch of validation and test.
        shared: Arguments of :class:`ImageDataModule`.

    Raises:
        UserError: A file or folder that is missing, a JSON that is damaged or contradicts itself or the images, splits
            with other categories, test images without annotations.
    """

    def __init__(
        self,
        root: Path,
        train_images: str = "train2017",
        train_annotations: str = "annotations/instances_train2017.json",
        val_images: str = "val2017",
        val_annotations: str = "annotations/instances_val2017.json",
        test_images: str | None = None,
        test_annotations: str | None = None,
        target: CocoTarget = "objdet",
        keep_empty: bool = False,
        transform: ResizeTransform | None = None,
        val_share: float = 0.1,
        batch_size: int = 8,
        eval_batch_size: int = 8,
        **shared: Any,
    ) -> None:
        super().__init__(
            transform=transform or ResizeTransform(),
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            **shared,
        )
        if target not in ("objdet", "mulclass"):
            raise UserError(f"data.target is '{target}'; CocoDetection has: objdet, mulclass")
        if (test_images is None) != (test_annotations is None):
            raise UserError("data.test_images and data.test_annotations belong together: give both, or neither")
        self.root, self.keep_empty, self.task = existing_folder(root), keep_empty, target
        self.val_share = val_share
        self._files: dict[str, tuple[str | None, str | None]] = {
            "train": (train_images, train_annotations),
            "val": (val_images, val_annotations),
            "test": (test_images, test_annotations),
        }
        if not (self.root / val_annotations).is_file():
            self._files = _other_layout(self.root, val_annotations) or self._files
            val_annotations = str(self._files["val"][1])
        # a small file: the number of classes is needed before anything is set up. No image is read here
        self._val = Instances(self.root / val_annotations)
        self.num_classes = len(self._val.categories)
        self.classes = list(self._val.categories.values())

    def setup(self, stage: str) -> None:
        """Read the splits that the stage needs."""
        has_test = self._files["test"][0] is not None
        self.open_splits(
            stage,
            self._training_images,
            val=lambda: self._evaluation_images("val"),
            test=(lambda: self._evaluation_images("test")) if has_test else None,
        )

    def _training_images(self) -> TrainingImages:
        instances = self._instances("train")
        folder = self.root / str(self._files["train"][0])
        return TrainingImages(
            InstanceImages(instances, folder, self.task, crowds=False),
            evaluated=InstanceImages(instances, folder, self.task, crowds=True),
            usable=None if self.keep_empty else instances.with_boxes(),
        )

    def _evaluation_images(self, split: str) -> InstanceImages:
        folder = self.root / str(self._files[split][0])
        return InstanceImages(self._instances(split), folder, self.task, crowds=True)

    def _instances(self, split: str) -> Instances:
        """Read a split's instances, which must have the categories of the others."""
        if split == "val":
            return self._val
        instances = Instances(self.root / str(self._files[split][1]))
        if instances.categories != self._val.categories:
            other = sorted(set(instances.categories.items()) ^ set(self._val.categories.items()))[0]
            raise UserError(
                f"{instances.path} and {self._val.path} list other categories: {other[0]} ({other[1]}) is not in both"
            )
        return instances
