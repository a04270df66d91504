"""A small rendered data set made without the renderer: written, taken apart, changed, and put together again."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CATEGORIES = {1: "disc", 2: "bar", 4: "frame"}  # ids need not be contiguous
SIDE, VIEWS, SCENES_PER_SHARD = 32, 2, 8

Members = dict[str, bytes]


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def _member(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def _shape(category: int, cx: int, cy: int, r: int) -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE]
    dx, dy = np.abs(x - cx), np.abs(y - cy)
    if category == 1:
        return dx**2 + dy**2 <= r * r
    if category == 2:
        return (dx <= r) & (dy <= 2)
    return (np.maximum(dx, dy) <= r) & (np.maximum(dx, dy) >= r - 1)


def rendered_view(rng: np.random.Generator, scene: int, view: int) -> dict[str, bytes]:
    """One or two coloured shapes on a noisy ground, with every label."""
    rgb = rng.integers(0, 60, (SIDE, SIDE, 3)).astype(np.uint8)
    category, instance = np.zeros((SIDE, SIDE), np.uint16), np.zeros((SIDE, SIDE), np.uint16)
    normal = np.full((SIDE, SIDE, 3), 128, np.uint8)
    kinds = rng.choice([1, 2, 4], size=rng.integers(1, 3), replace=False)
    for number, kind in enumerate(kinds, start=1):
        cx, cy = rng.integers(10, SIDE - 10, 2)
        mask = _shape(int(kind), int(cx), int(cy), int(rng.integers(5, 9)))
        rgb[mask] = rng.integers(140, 256, 3)
        category[mask], instance[mask], normal[mask] = kind, number, (128, 128, 255)
    objects = []
    for number, kind in enumerate(kinds, start=1):
        ys, xs = np.nonzero(instance == number)
        if not len(ys):
            continue
        box = [int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1]
        name = CATEGORIES[int(kind)]
        row = {"instance": number, "category": int(kind), "name": name, "bbox": box, "area": len(ys)}
        objects.append(row | {"visible_fraction": 1.0})
    labels = {
        "scene": scene,
        "view": view,
        "size": [SIDE, SIDE],
        "labels": sorted({row["category"] for row in objects}),
        "objects": objects,
        "camera": {"K": np.eye(3).tolist(), "world_to_camera": np.eye(4).tolist()},
    }
    members = {"rgb.png": rgb, "category.png": category, "instance.png": instance, "normal.png": normal}
    return {name: png(pixels) for name, pixels in members.items()} | {"json": json.dumps(labels).encode()}


def write_split(
    folder: Path,
    split: str,
    scenes: int,
    seed: int,
    draw: Callable[[np.random.Generator, int, int], dict[str, bytes]] = rendered_view,
    side: int = SIDE,
) -> None:
    """Write one split of a rendered data set, in the format on disk; ``draw`` makes the members of a view."""
    (folder / "shards").mkdir(parents=True)
    shards: list[dict[str, Any]] = []
    for number, first in enumerate(range(0, scenes, SCENES_PER_SHARD)):
        last = min(scenes, first + SCENES_PER_SHARD)
        path = folder / "shards" / f"{number:06d}.tar"
        with tarfile.open(path, "w") as archive:
            for scene in range(first, last):
                rng = np.random.default_rng([seed, scene])
                for view in range(VIEWS):
                    for name, content in draw(rng, scene, view).items():
                        _member(archive, f"{scene:07d}-{view:02d}.{name}", content)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        row = {"name": f"{number:06d}", "scenes": [first, last], "images": (last - first) * VIEWS, "sha256": digest}
        shards.append(row)
    manifest = {
        "format_version": 1,
        "config": {},
        "seed": seed,
        "split": split,
        "categories": {str(number): name for number, name in CATEGORIES.items()},
        "image_size": [side, side],
        "software": {},
        "scenes_per_shard": SCENES_PER_SHARD,
        "views_per_scene": VIEWS,
        "shards": shards,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


def write_renders(root: Path) -> Path:
    """Write 60 training and 24 validation images."""
    write_split(root / "train", "train", 30, seed=1)
    write_split(root / "val", "val", 12, seed=2)
    return root


def read(path: Path) -> Members:
    with tarfile.open(path) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


def rewrite(root: Path, change: Callable[[Members], Any], shard: str = "000001", split: str = "train") -> Path:
    """Change a shard's members; the manifest gets the new hash, so that the planted fault is the only one."""
    path = root / split / "shards" / f"{shard}.tar"
    members = read(path)
    change(members)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    manifest = json.loads((root / split / "manifest.json").read_text())
    (row,) = [row for row in manifest["shards"] if row["name"] == shard]
    row["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (root / split / "manifest.json").write_text(json.dumps(manifest))
    return path


def edit_manifest(root: Path, change: Callable[[dict[str, Any]], Any], split: str = "train") -> None:
    path = root / split / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def labels(key: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Members], None]:
    def edit(members: Members) -> None:
        content = json.loads(members[f"{key}.json"])
        change(content)
        members[f"{key}.json"] = json.dumps(content).encode()

    return edit


def pixels(name: str, change: Callable[[np.ndarray], np.ndarray | None]) -> Callable[[Members], None]:
    """Change an image in place, or by what ``change`` returns."""

    def edit(members: Members) -> None:
        array = np.array(Image.open(io.BytesIO(members[name])))
        changed = change(array)
        members[name] = png(array if changed is None else changed)

    return edit


def change_manifest(split: Path, **changes: object) -> None:
    path = split / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite_shard(split: Path, number: int, change, rename=lambda name: name) -> None:
    """Apply change(name, bytes) → bytes or None to each member, and bring the manifest's sha256 up to date."""
    path = split / "shards" / f"{number:06d}.tar"
    with tarfile.open(path) as archive:
        members = [(m.name, archive.extractfile(m).read()) for m in archive]
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            content = change(name, content)
            if content is not None:
                info = tarfile.TarInfo(rename(name))
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    shards = json.loads((split / "manifest.json").read_text())["shards"]
    shards[number]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    change_manifest(split, shards=shards)
