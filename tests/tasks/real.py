"""Stand-ins for renders and real data sets, in their formats on disk: bright squares whose class is their colour."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rendered_set import CATEGORIES, write_split
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


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def rendered_view(rng: np.random.Generator, scene: int, view: int) -> dict[str, bytes]:
    """Return a view as the renderer writes it; unlike the common ones', its normals lean with the colour."""
    seed, index = int(rng.integers(1 << 20)), int(rng.integers(1000))
    picture, mask = Squares("semseg", seed=seed)[index]
    ids = np.array([0, *CATEGORIES])[np.where(mask.numpy() == 255, 0, mask.numpy())].astype(np.uint16)
    normals = Squares("normal", seed=seed)[index][1]
    stored = torch.where(normals.square().sum(0) > 0, ((normals + 1) / 2 * 255).round(), 128)
    ys, xs = np.nonzero(ids)
    category = int(ids.max())
    box = [int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1]
    thing = {"instance": 1, "category": category, "name": CATEGORIES[category], "bbox": box}
    labels = {"scene": scene, "view": view, "size": [SIDE, SIDE], "labels": [category], "camera": {}}
    labels["objects"] = [thing | {"area": len(ys), "visible_fraction": 1.0}]
    return {
        "rgb.png": _png(np.asarray(_image(picture))),
        "category.png": _png(ids),
        "instance.png": _png((ids > 0).astype(np.uint16)),
        "normal.png": _png(np.ascontiguousarray(stored.byte().permute(1, 2, 0).numpy())),
        "json": json.dumps(labels).encode(),
    }


def write_renders(root: Path, train: int = 24, val: int = 8) -> Path:
    """Write shards of squares; numbers are scenes of two views."""
    write_split(root / "train", "train", train, seed=1, draw=rendered_view, side=SIDE)
    write_split(root / "val", "val", val, seed=2, draw=rendered_view, side=SIDE)
    return root
