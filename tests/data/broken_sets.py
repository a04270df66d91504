"""Small sound data sets of each format, ways to break them, and functions that read every sample of them."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from data.sets import instances
from lightning_tl.data import ADE20K, CocoDetection, ImageFolder, TorchvisionDataset
from lightning_tl.data.transforms import CropTransform, ResizeTransform, ScaleCropTransform

SMALL = CropTransform(size=32, eval_resize=32)
SCALE = ScaleCropTransform(crop=32, shorter=(30, 50), eval_shorter=30)


def use(data, stage="fit"):
    """Set up, and read every sample of every split."""
    data.setup(stage)
    data.setup("test")
    if "train" in data.splits:
        for _ in data.train_dataloader():
            pass
    for _ in data.val_dataloader():
        pass
    for _ in data.test_dataloader():
        pass
    return data


def folder(root, **options):
    return use(ImageFolder(root / "folder", transform=SMALL, **options))


def coco(root, **options):
    return use(CocoDetection(root / "coco", transform=ResizeTransform(size=32), **options))


def ade20k(root, **options):
    return use(ADE20K(root / "ade20k", **{"num_classes": 5, "transform": SCALE} | options))


def voc(root, **options):
    settings = {"target": "semseg", "num_classes": 21, "transform": {"crop": 32, "shorter": [30, 50]}} | options
    return use(TorchvisionDataset("VOCSegmentation", root / "voc", **settings))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def edit(root: Path, change, split: str = "train2017") -> None:
    content = instances()
    changed = change(content)
    path = root / "coco" / "annotations" / f"instances_{split}.json"
    path.write_text(json.dumps(content if changed is None else changed))


def boxes(**changes):
    """Change one annotation."""
    return lambda content: content["annotations"][1].update(changes)


def drop(key, place, field):
    return lambda content: content[key][place].pop(field) and None


def mask(r, array, name="ADE_2", mode=None):
    Image.fromarray(array, mode).save(r / "ade20k/annotations/training" / f"{name}.png")
