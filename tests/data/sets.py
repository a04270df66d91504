"""Small data sets in the formats that real ones have on disk."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

CLASSES = ("cat", "dog", "owl")


def picture(rng: np.random.Generator, height: int = 40, width: int = 48) -> Image.Image:
    """A smooth coloured picture, so that JPEG changes it little."""
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3)).astype(np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def write_folder(root: Path, counts: dict[str, tuple[int, ...]] | None = None) -> Path:
    """``root/split/class/*.jpg``; counts by split and class."""
    rng = np.random.default_rng(0)
    for split, numbers in (counts or {"train": (8, 6, 4), "val": (3, 3, 3)}).items():
        for name, count in zip(CLASSES, numbers, strict=True):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                picture(rng, 40 + i, 48).save(folder / f"{name}{i}.jpg", quality=95)
    return root


def annotation(number: int, image: int, category: int, bbox: list[float], **more: Any) -> dict[str, Any]:
    row = {"id": number, "image_id": image, "category_id": category, "bbox": bbox, "area": bbox[2] * bbox[3] * 0.5}
    return row | {"iscrowd": 0} | more


def instances() -> dict[str, Any]:
    """Six images, categories with gaps; one image without boxes, one with a crowd alone, one with a box of no area."""
    sizes = [(48, 40), (30, 60), (64, 64), (50, 50), (50, 20), (33, 47)]
    images = [
        {"id": 10 * i + 7, "file_name": f"{i:06d}.jpg", "width": w, "height": h} for i, (w, h) in enumerate(sizes)
    ]
    return {
        "info": {},
        "images": images,
        "categories": [{"id": 90, "name": "owl"}, {"id": 2, "name": "cat"}, {"id": 17, "name": "dog"}],
        "annotations": [
            annotation(1, 17, 90, [3, 4, 10, 20]),
            annotation(2, 7, 2, [5.5, 6, 20, 10.25]),
            annotation(3, 7, 17, [40, 30, 20, 20]),  # over the edge of 48 x 40
            annotation(4, 7, 90, [0, 0, 48, 40], iscrowd=1, segmentation={"counts": [1], "size": [40, 48]}),
            annotation(5, 27, 17, [10, 10, 0, 5]),  # no area
            annotation(6, 27, 2, [1, 2, 30, 40]),
            annotation(7, 47, 2, [0, 0, 50, 20], iscrowd=1),
            annotation(8, 57, 90, [1, 1, 5, 5]),
        ],
    }


def write_coco(root: Path) -> Path:
    """COCO 2017's layout; image 37 has no boxes."""
    rng = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        content = instances()
        (root / split).mkdir()
        for row in content["images"]:
            picture(rng, row["height"], row["width"]).save(root / split / row["file_name"], quality=95)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def write_ade20k(root: Path, classes: int = 5) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("training", 6), ("validation", 3)):
        for part in ("images", "annotations"):
            (root / part / split).mkdir(parents=True)
        for i in range(count):
            height, width = 40 + 3 * i, 60 - 2 * i
            picture(rng, height, width).save(root / "images" / split / f"ADE_{i}.jpg", quality=95)
            blocks = Image.fromarray(rng.integers(0, classes + 1, (4, 6)).astype(np.uint8))
            mask = blocks.resize((width, height), Image.Resampling.NEAREST)
            mask.save(root / "annotations" / split / f"ADE_{i}.png")
    return root


def write_voc(root: Path) -> Path:
    """VOCdevkit 2012's layout, masks as palette PNGs with 255 at the edges."""
    rng = np.random.default_rng(0)
    base = root / "VOCdevkit" / "VOC2012"
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (base / part).mkdir(parents=True)
    for split, count in (("train", 4), ("val", 2)):
        names = [f"2012_{split}{i}" for i in range(count)]
        (base / "ImageSets/Segmentation" / f"{split}.txt").write_text("\n".join(names))
        for name in names:
            picture(rng, 40, 50).save(base / "JPEGImages" / f"{name}.jpg")
            classes = np.kron(rng.integers(0, 21, (4, 5)), np.ones((10, 10))).astype(np.uint8)
            classes[0] = 255
            mask = Image.fromarray(classes).convert("P")
            mask.putpalette([int(v) for v in rng.integers(0, 256, 768)])
            mask.putdata([int(v) for v in classes.ravel()])
            mask.save(base / "SegmentationClass" / f"{name}.png")
    return root


def write_dtd(root: Path) -> Path:
    """DTD's layout: lists of training, validation and test images of 3 classes."""
    rng = np.random.default_rng(0)
    base = root / "dtd" / "dtd"
    (base / "labels").mkdir(parents=True)
    for split, count in (("train", 4), ("val", 2), ("test", 3)):
        names = [f"{name}/{name}_{split}{i}.jpg" for name in CLASSES for i in range(count)]
        (base / "labels" / f"{split}1.txt").write_text("\n".join(names))
        for name in names:
            (base / "images" / name).parent.mkdir(parents=True, exist_ok=True)
            picture(rng).save(base / "images" / name)
    return root


def cifar_batch(rng: np.random.Generator, count: int) -> dict[str, Any]:
    labels = [int(v) for v in rng.permutation(np.arange(count) % 10)]
    return {"data": rng.integers(0, 256, (count, 3072)).astype(np.uint8), "labels": labels}


def write_cifar10(root: Path, monkeypatch: Any) -> Path:
    """CIFAR-10's pickles; torchvision's own checksums are those of the real ones, so they are replaced."""
    import hashlib

    from torchvision.datasets import CIFAR10

    folder = root / CIFAR10.base_folder
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)

    def write(name: str, content: Any) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    train = [write(name, cifar_batch(rng, 40)) for name, _ in CIFAR10.train_list]
    test = [write(name, cifar_batch(rng, 20)) for name, _ in CIFAR10.test_list]
    meta = write("batches.meta", {"label_names": [f"kind{i}" for i in range(10)]})
    monkeypatch.setattr(CIFAR10, "train_list", train)
    monkeypatch.setattr(CIFAR10, "test_list", test)
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"filename": meta[0], "md5": meta[1]})
    return root


def write_yolo(root: Path, coco: Path, roboflow: bool = False) -> Path:
    """The COCO set of the tests without its crowds; its two splits as train and val."""
    content = instances()
    order = [row["id"] for row in sorted(content["categories"], key=lambda row: row["id"])]
    for own, theirs in (("train", "train2017"), ("val", "val2017")):
        images = root / own / "images" if roboflow else root / "images" / own
        labels = root / own / "labels" if roboflow else root / "labels" / own
        labels.mkdir(parents=True)
        shutil.copytree(coco / theirs, images)
        for image in content["images"]:
            w, h, lines = image["width"], image["height"], []
            for row in content["annotations"]:
                x, y, bw, bh = row["bbox"]
                if row["image_id"] == image["id"] and not row["iscrowd"]:
                    box = [(x + bw / 2) / w, (y + bh / 2) / h, bw / w, bh / h]
                    lines.append(f"{order.index(row['category_id'])} " + " ".join(f"{value:.9f}" for value in box))
            if lines:
                (labels / image["file_name"]).with_suffix(".txt").write_text("\n".join(lines) + "\n")
    places = {own: f"../{own}/images" if roboflow else f"images/{own}" for own in ("train", "val")}
    names = ["cat", "dog", "owl"]
    (root / "data.yaml").write_text(
        yaml.safe_dump({**places, "nc": 3, "names": names if roboflow else dict(enumerate(names))})
    )
    return root
