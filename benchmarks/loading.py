"""Images per second and core, from disk to batches: ours beside torchvision (ImageFolder, v2, DataLoader).

    python benchmarks/loading.py [--images 512] [--repeats 5] [--workers 0]

The same images lie as files in folders by class and, for renders, also in shards. Each repeat runs every loader
once, one after another in changing order, over a whole shuffled epoch with augmentation, in one thread. A loader is
made anew for each repeat ("first" epoch: nothing decoded is in memory; the system's file cache is warm) and then runs a
second epoch ("next"). Ratios are to torchvision's "next" of the same repeat; their median is shown.

Before that, only reading and decoding: the images of the shards and the same as files, in their order and shuffled.
Ratios are to the files in the same order, of the same repeat.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import random
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder as TorchvisionImageFolder
from torchvision.transforms import v2

from lightning_tl.data import ImageFolder, Rendered, RenderedImages
from lightning_tl.data.batch_transform import IMAGENET_MEAN, IMAGENET_STD

CLASSES, BATCH = 10, 64


def picture(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    """Smooth shapes under a little noise: about as many bytes as a photograph or a render of that size."""
    coarse = Image.fromarray(rng.integers(0, 256, (max(2, height // 40), max(2, width // 40), 3)).astype(np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray(np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8))


def encode(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90) if kind == "jpg" else image.save(file, "PNG")
    return file.getvalue()


def write(root: Path, images: int, height: int, width: int, kind: str, shards: bool) -> None:
    """Write the images as folders by class, and as a rendered split with all that its tasks need."""
    rng = np.random.default_rng(0)
    members: list[tuple[str, bytes]] = []
    for number in range(images):
        label = number % CLASSES
        content = encode(picture(rng, height, width), kind)
        folder = root / "folder" / "train" / f"c{label}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.{kind}").write_bytes(content)
        if shards:
            box = [0, 0, width, height]
            thing = {"instance": 1, "category": label + 1, "name": "", "bbox": box, "area": 9, "visible_fraction": 1}
            labels = {"scene": number, "view": 0, "size": [height, width], "labels": [label + 1], "objects": [thing]}
            other = encode(Image.fromarray(np.full((height, width), label + 1, np.uint16)), "png")
            stem = f"{number:07d}-00"
            members += [(f"{stem}.rgb.{kind}", content), (f"{stem}.category.png", other)]
            members += [(f"{stem}.normal.png", content), (f"{stem}.json", json.dumps(labels).encode())]
    if shards:
        write_shard(root / "renders" / "train", images, height, width, members)


def write_shard(folder: Path, images: int, height: int, width: int, members: list[tuple[str, bytes]]) -> None:
    (folder / "shards").mkdir(parents=True)
    path = folder / "shards" / "000000.tar"
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest = {
        "format_version": 1,
        "split": "train",
        "categories": {str(i + 1): f"c{i}" for i in range(CLASSES)},
        "image_size": [height, width],
        "shards": [{"name": "000000", "images": images, "sha256": digest}],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


def torchvisions(root: Path, transforms: list[Any], workers: int) -> Callable[[], DataLoader[Any]]:
    pipeline = [v2.PILToTensor(), *transforms, v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)]
    pipeline.append(v2.Normalize(IMAGENET_MEAN, IMAGENET_STD))
    data = TorchvisionImageFolder(root / "folder" / "train", v2.Compose(pipeline))
    return lambda: DataLoader(data, BATCH, shuffle=True, num_workers=workers)


def ours(data: Any) -> Callable[[], DataLoader[Any]]:
    data.setup("fit")
    return data.train_dataloader


def folders(root: Path, transform: Any, workers: int) -> Callable[[], DataLoader[Any]]:
    return ours(
        ImageFolder(root / "folder", val_share=0.001, transform=transform, batch_size=BATCH, num_workers=workers)
    )


def renders(root: Path, transform: dict[str, Any], workers: int) -> Callable[[], DataLoader[Any]]:
    (root / "renders" / "val").symlink_to("train") if not (root / "renders" / "val").exists() else None
    return ours(
        Rendered(root / "renders", target="sinclass", transform=transform, batch_size=BATCH, num_workers=workers)
    )


def epoch(make: Callable[[], DataLoader[Any]]) -> float:
    """Return images a second of one pass: of this process's own CPU time, where there are no others."""
    loader = make()
    clock = time.perf_counter if loader.num_workers else time.process_time
    start, images = clock(), 0
    for batch, _ in loader:
        images += len(batch)
    return images / (clock() - start)


def compare(title: str, loaders: dict[str, Callable[[], Callable[[], DataLoader[Any]]]], repeats: int) -> None:
    """Print the median rates, and each loader's median ratio to the first within a repeat."""
    rates: dict[str, list[float]] = {}
    for repeat in range(repeats + 1):
        order = list(loaders)
        random.Random(repeat).shuffle(order)
        for name in order:
            make = loaders[name]()
            for part in ("first", "next"):
                rate = epoch(make)
                if repeat:  # the first repeat warms up
                    rates.setdefault(f"{name}, {part} epoch", []).append(rate)
    print(title)
    base = rates[f"{next(iter(loaders))}, next epoch"]
    for name, found in rates.items():
        ratio = median(a / b for a, b in zip(found, base, strict=True))
        print(f"  {name:52} {median(found):8.0f} images/s  {ratio:6.2f} x")


def reads(title: str, root: Path, images: int, repeats: int) -> None:
    """Print the median rates of decoding single images from files and from shards, sequential and shuffled."""
    files = TorchvisionImageFolder(root / "folder" / "train")
    # the order in which they lie in the shards
    paths = sorted((path for path, _ in files.samples), key=lambda path: int(Path(path).stem))
    shards = RenderedImages(root / "renders" / "train")
    shards.open_shards()
    readers: dict[str, Callable[[int], Any]] = {
        "files": lambda index: np.asarray(files.loader(paths[index])),
        "shards": shards.rgb,
    }
    assert all((readers["files"](index) == readers["shards"](index)).all() for index in range(8))
    print(f"{title}: reading and decoding")
    for order in ("sequential", "shuffled"):
        rates: dict[str, list[float]] = {name: [] for name in readers}
        for repeat in range(repeats + 1):
            indices = list(range(images))
            if order == "shuffled":
                random.Random(repeat).shuffle(indices)
            for name in sorted(readers, reverse=bool(repeat % 2)):
                start = time.process_time()
                for index in indices:
                    readers[name](index)
                if repeat:  # the first repeat warms up
                    rates[name].append(images / (time.process_time() - start))
        for name, found in rates.items():
            ratio = median(a / b for a, b in zip(found, rates["files"], strict=True))
            print(f"  {f'{name}, {order}':52} {median(found):8.0f} images/s  {ratio:6.2f} x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    workers = given.workers
    settings = [("renders, 64 px PNG → 64 px, mirrored", 64, 64, "png", 64)]
    settings += [("renders, 256 px JPEG → 224 px, mirrored", 256, 256, "jpg", 224)]
    for title, height, width, kind, size in settings:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            write(root, given.images, height, width, kind, shards=True)
            reads(title.split(" →")[0], root, given.images, given.repeats)
            resize = {"size": size, "hflip": 0.5, "standardize": "imagenet"}
            compare(
                title,
                {
                    "torchvision ImageFolder": lambda root=root, size=size: torchvisions(
                        root, [v2.Resize((size, size), antialias=True)], workers
                    ),
                    "shards": lambda root=root, resize=resize: renders(root, resize, workers),
                },
                given.repeats,
            )
    for height, width in ((375, 500), (1200, 1600)):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            write(root, max(64, given.images * 375 // height // 4), height, width, "jpg", shards=False)
            crop = [v2.RandomResizedCrop(224, antialias=True)]
            compare(
                f"photographs, {width} x {height} px JPEG → random crop 224 px, mirrored",
                {
                    "torchvision ImageFolder": lambda root=root, crop=crop: torchvisions(root, crop, workers),
                    "ImageFolder": lambda root=root: folders(root, None, workers),
                },
                given.repeats,
            )


if __name__ == "__main__":
    main()
