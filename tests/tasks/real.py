"""Stand-ins for real data sets, in their formats on disk: bright squares whose class is their colour."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image
from tasks.toy import SIDE, Squares

NAMES = ("red", "green", "blue")


def _image(picture) -> Image.Image:
    pixels = picture.clamp(0, 1).mul(255).byte().permute(1, 2, 0).numpy()
    return Image.fromarray(np.ascontiguousarray(pixels))


def write_folders(root: Path, train: int = 48, val: int = 24) -> Path:
    """Write ``train/CLASS/*.png`` and ``val/CLASS/*.png``."""
    for split, number, seed in (("train", train, 0), ("val", val, 1)):
        for name in NAMES:
            (root / split / name).mkdir(parents=True)
        data = Squares("sinclass", number, seed=seed)
        for index in range(number):
            picture, kind = data[index]
            _image(picture).save(root / split / NAMES[int(kind)] / f"{index}.png")
    return root


def write_coco(root: Path, train: int = 48, val: int = 24) -> Path:
    """Write images and instances of 2017's names; categories have gaps in their ids."""
    (root / "annotations").mkdir(parents=True)
    for split, number, seed in (("train2017", train, 0), ("val2017", val, 1)):
        (root / split).mkdir()
        data, images, annotations = Squares("objdet", number, seed=seed), [], []
        for index in range(number):
            picture, target = data[index]
            _image(picture).save(root / split / f"{index}.png")
            images.append({"id": index, "file_name": f"{index}.png", "width": SIDE, "height": SIDE})
            x, y, right, bottom = target["boxes"][0].tolist()
            row = {"id": index + 1, "image_id": index, "category_id": 2 * int(target["labels"][0]), "iscrowd": 0}
            annotations.append(row | {"bbox": [x, y, right - x, bottom - y], "area": 784})
        categories = [{"id": 2 * (i + 1), "name": name} for i, name in enumerate(NAMES)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def write_ade20k(root: Path, train: int = 48, val: int = 24) -> Path:
    """Write images and masks in the SceneParsing layout: 0 is other, 1 the ground, 2 to 4 the squares."""
    for split, number, seed in (("training", train, 0), ("validation", val, 1)):
        for part in ("images", "annotations"):
            (root / part / split).mkdir(parents=True)
        data = Squares("semseg", number, seed=seed)
        for index in range(number):
            picture, mask = data[index]
            _image(picture).save(root / "images" / split / f"{index}.jpg", quality=95)
            stored = np.where(mask.numpy() == 255, 0, mask.numpy() + 1).astype(np.uint8)
            Image.fromarray(stored).save(root / "annotations" / split / f"{index}.png")
    return root
