"""`lightning-tl dataset export`: renders as COCO, YOLO, BOP, HDF5 or one folder a class, with the images' own bytes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightning_tl.data.rendered_images import RenderedImages
from lightning_tl.errors import UserError, nearest
from lightning_tl.inspection.members import pixels
from lightning_tl.inspection.splits import split_folders
from lightning_tl.progress import progress_bar

MARKER = "lightning-tl-export.json"


@dataclass(frozen=True)
class Frame:
    """One image to be exported, with access to its members by ``images`` and ``index``."""

    images: RenderedImages
    index: int
    key: str
    labels: dict[str, Any]

    @property
    def split(self) -> str:
        """Return the split's name."""
        return self.images.manifest.split

    def colours(self) -> tuple[str, bytes]:
        """Return the colours' suffix, ``.png`` or ``.jpg``, and file content."""
        _, content = self.images.member(self.index, "rgb.png", "rgb.jpg")
        return (".png" if content.startswith(b"\x89PNG") else ".jpg"), content

    def depth(self) -> tuple[bytes, np.ndarray] | None:
        """Return the depth's file content and uint16 ``[H, W]``, millimetres; ``None`` where it was not rendered.

        Raises:
            UserError: It cannot be decoded.
        """
        try:
            content = self.images.member(self.index, "depth.png")[1]
        except UserError:
            return None  # it is optional
        try:
            return content, pixels(content)
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(
                f"{self.images.manifest.folder}: {self.key}.depth.png cannot be decoded ({error}): see lightning-tl "
                "dataset validate"
            ) from error


def frames(images: RenderedImages) -> Iterator[Frame]:
    """Yield a split's images in their order.

    Raises:
        UserError: Labels without objects, or of a category that the manifest lacks.
    """
    for index in range(len(images)):
        key, _ = images.member(index, "json")
        labels = images.labels(index)
        at = f"{images.manifest.folder}: {key}.json"
        try:
            unknown = {thing["category"] for thing in labels["objects"]} - images.manifest.categories.keys()
            lacking = {"instance", "bbox", "area", "visible_fraction"} - set.intersection(
                *(set(thing) for thing in labels["objects"]), {"instance", "bbox", "area", "visible_fraction"}
            )
        except (KeyError, TypeError) as error:
            raise UserError(f"{at} lacks {error}: see lightning-tl dataset validate") from error
        if unknown or lacking:
            what = f"category {min(unknown)} is not in the manifest" if unknown else f"an object lacks {min(lacking)}"
            raise UserError(f"{at}: {what}: see lightning-tl dataset validate")
        yield Frame(images, index, key, labels)


def write(path: Path, content: bytes | str) -> None:
    """Write a whole file: beside, then renamed; the folders above it are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(part, path)


def _coco(splits: list[RenderedImages], out: Path, shown: Callable[..., Iterator[Frame]]) -> list[str]:
    from faster_coco_eval.core import mask as rle

    for images in splits:
        manifest = images.manifest
        pictures: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for frame in shown(images):
            suffix, content = frame.colours()
            height, width = frame.labels["size"]
            number = frame.index + 1
            pictures.append({"id": number, "file_name": frame.key + suffix, "height": height, "width": width})
            write(out / manifest.split / (frame.key + suffix), content)
            instance = images.instance(frame.index)
            for thing in frame.labels["objects"]:
                encoded = rle.encode(np.asfortranarray(instance == thing["instance"], np.uint8))
                counts = encoded["counts"]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": thing["category"],
                        "bbox": thing["bbox"],
                        "area": thing["area"],
                        "iscrowd": 0,
                        "segmentation": {
                            "size": list(encoded["size"]),
                            "counts": counts.decode() if isinstance(counts, bytes) else counts,
                        },
                    }
                )
        categories = [{"id": number, "name": name} for number, name in manifest.categories.items()]
        whole = {"info": {}, "licenses": [], "images": pictures, "annotations": annotations, "categories": categories}
        write(out / "annotations" / f"instances_{manifest.split}.json", json.dumps(whole))
    return []


def _yolo(splits: list[RenderedImages], out: Path, shown: Callable[..., Iterator[Frame]]) -> list[str]:
    import yaml

    categories = splits[0].manifest.categories
    classes = {number: place for place, number in enumerate(sorted(categories))}
    for images in splits:
        for frame in shown(images):
            suffix, content = frame.colours()
            height, width = frame.labels["size"]
            write(out / "images" / frame.split / (frame.key + suffix), content)
            lines = []
            for thing in frame.labels["objects"]:
                x, y, w, h = thing["bbox"]
                box = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
                lines.append(" ".join([str(classes[thing["category"]]), *(f"{value:.6f}" for value in box)]))
            write(out / "labels" / frame.split / f"{frame.key}.txt", "".join(f"{line}\n" for line in lines))
    folders = {images.manifest.split: f"images/{images.manifest.split}" for images in splits}
    names = {place: categories[number] for number, place in classes.items()}
    # without "path" the folders are those beside this file
    write(out / "data.yaml", yaml.safe_dump({**folders, "names": names}, sort_keys=False, allow_unicode=True))
    return []


def _imagefolder(splits: list[RenderedImages], out: Path, shown: Callable[..., Iterator[Frame]]) -> list[str]:
    notes = []
    for images in splits:
        for name in images.manifest.categories.values():
            (out / images.manifest.split / _folder_name(name)).mkdir(parents=True, exist_ok=True)
        without = 0
        for frame in shown(images):
            present = sorted({thing["category"] for thing in frame.labels["objects"]})
            if len(present) > 1:
                raise UserError(
                    f"{images.manifest.folder}: {frame.key} shows {len(present)} categories, and a folder a class "
                    "takes one: use --format coco or yolo, or render with --appearance single"
                )
            if not present:
                without += 1
                continue
            suffix, content = frame.colours()
            name = _folder_name(images.manifest.categories[present[0]])
            write(out / frame.split / name / (frame.key + suffix), content)
        for folder in (out / images.manifest.split).iterdir():
            if not any(folder.iterdir()):  # readers take a class without images for a mistake
                folder.rmdir()
                notes.append(f"{images.manifest.split}: no image of {folder.name}, so it has no folder")
        if without:
            notes.append(f"{images.manifest.split}: {without} images without an object left out")
    return notes


def _folder_name(name: str) -> str:
    return name.replace("/", "_").replace("\\", "_").lstrip(".") or "_"


def _bop(splits: list[RenderedImages], out: Path, shown: Callable[..., Iterator[Frame]]) -> list[str]:
    from lightning_tl.inspection.bop import write_bop

    return write_bop(splits, out, shown)


def _hdf5(splits: list[RenderedImages], out: Path, shown: Callable[..., Iterator[Frame]]) -> list[str]:
    from lightning_tl.inspection.hdf5 import write_hdf5

    return write_hdf5(splits, out, shown)


FORMATS: dict[str, Callable[[list[RenderedImages], Path, Callable[..., Iterator[Frame]]], list[str]]] = {
    "coco": _coco,
    "yolo": _yolo,
    "bop": _bop,
    "hdf5": _hdf5,
    "imagefolder": _imagefolder,
}


def export(root: str | Path, form: str, out: Path) -> list[str]:
    """Write a rendered data set in another format; colours are the renders' own files.

    Every file is written whole, so that the same command after an interruption writes what was missing.

    Args:
        root: What ``lightning-tl render`` wrote, a folder or URL, or one of its splits.
        form: One of ``FORMATS``.
        out: Folder to write; must be new, empty, or of an earlier export of the same.

    Returns:
        What the format could not hold, one sentence each.

    Raises:
        UserError: No such format, a folder with other things in it, a data set that the format cannot hold.
    """
    if form not in FORMATS:
        raise UserError(f"--format is '{form}'{nearest(form, FORMATS)}")
    splits = [RenderedImages(folder) for folder in split_folders(root)]
    shards = {images.manifest.split: [shard["sha256"] for shard in images.manifest.shards] for images in splits}
    _claim(out, {"format": form, "shards": shards})
    total, done = sum(map(len, splits)), 0
    with progress_bar("exporting", "images") as advance:

        def shown(images: RenderedImages) -> Iterator[Frame]:
            nonlocal done
            for frame in frames(images):
                yield frame
                done += 1
                advance(done, total)

        return FORMATS[form](splits, out, shown)


def _claim(out: Path, what: dict[str, Any]) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"--out is {out}: a file; give a folder")
    marker = out / MARKER
    if out.is_dir() and any(out.iterdir()):
        try:
            before = json.loads(marker.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            before = None
        if before != what:
            raise UserError(f"{out}: holds something else than this export: give a new folder by --out, or empty it")
    write(marker, json.dumps(what))
