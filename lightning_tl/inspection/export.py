"""`lightning-tl dataset export`: renders as COCO, YOLO, BOP, HDF5, Parquet or one folder per class."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lightning_tl._io.atomic import remove_leftovers, write_atomically
from lightning_tl._io.json_text import parse_json
from lightning_tl.data.rendered_images import RenderedImages
from lightning_tl.errors import UserError, nearest, shortened
from lightning_tl.inspection.bop import write_bop
from lightning_tl.inspection.data_card import write_data_card
from lightning_tl.inspection.frames import Frame, Frames, read_frames
from lightning_tl.inspection.hdf5 import write_hdf5
from lightning_tl.inspection.parquet import write_parquet
from lightning_tl.inspection.splits import split_folders
from lightning_tl.progress import progress_bar

MARKER = "lightning-tl-export.json"


def _coco(splits: list[RenderedImages], out: Path, frames: Frames) -> list[str]:
    from faster_coco_eval.core import mask as rle

    for images in splits:
        manifest = images.manifest
        pictures: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for frame in frames(images):
            suffix, content = frame.colours()
            height, width = frame.labels["size"]
            number = frame.index + 1
            pictures.append({"id": number, "file_name": frame.key + suffix, "height": height, "width": width})
            write_atomically(out / manifest.split / (frame.key + suffix), content)
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
        write_atomically(out / "annotations" / f"instances_{manifest.split}.json", json.dumps(whole))
    return []


def _yolo(splits: list[RenderedImages], out: Path, frames: Frames) -> list[str]:
    import yaml

    categories = splits[0].manifest.categories
    classes = {number: place for place, number in enumerate(sorted(categories))}
    for images in splits:
        for frame in frames(images):
            suffix, content = frame.colours()
            height, width = frame.labels["size"]
            write_atomically(out / "images" / frame.split / (frame.key + suffix), content)
            lines = []
            for thing in frame.labels["objects"]:
                x, y, w, h = thing["bbox"]
                box = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
                lines.append(" ".join([str(classes[thing["category"]]), *(f"{value:.6f}" for value in box)]))
            write_atomically(out / "labels" / frame.split / f"{frame.key}.txt", "".join(f"{line}\n" for line in lines))
    folders = {images.manifest.split: f"images/{images.manifest.split}" for images in splits}
    names = {place: categories[number] for number, place in classes.items()}
    # without "path" the folders are those beside this file
    listing = yaml.safe_dump({**folders, "names": names}, sort_keys=False, allow_unicode=True)
    write_atomically(out / "data.yaml", listing)
    return []


def _imagefolder(splits: list[RenderedImages], out: Path, frames: Frames) -> list[str]:
    notes = []
    for images in splits:
        names = _folder_names(images)
        for name in names.values():
            (out / images.manifest.split / name).mkdir(parents=True, exist_ok=True)
        without = 0
        for frame in frames(images):
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
            write_atomically(out / frame.split / names[present[0]] / (frame.key + suffix), content)
        for folder in sorted(out / images.manifest.split / name for name in names.values()):
            if not any(folder.iterdir()):  # readers treat a class without images as an error
                folder.rmdir()
                notes.append(f"{images.manifest.split}: no image of {folder.name}, so it has no folder")
        if without:
            notes.append(f"{images.manifest.split}: {without} images without an object left out")
    return notes


def _folder_names(images: RenderedImages) -> dict[int, str]:
    """Return the name of each category's folder."""
    folders: dict[int, str] = {}
    for number, name in images.manifest.categories.items():
        folder = name.replace("/", "_").replace("\\", "_").lstrip(".") or "_"
        if folder in folders.values() or len(folder.encode()) > 255:
            raise UserError(
                f"{images.manifest.folder}: category {number}, '{shortened(name)}', gives no folder of its own: "
                "rename it in the sources and render again, or use --format coco"
            )
        folders[number] = folder
    return folders


Format = Literal["coco", "yolo", "bop", "hdf5", "parquet", "imagefolder"]
FORMATS: dict[Format, Callable[[list[RenderedImages], Path, Frames], list[str]]] = {
    "coco": _coco,
    "yolo": _yolo,
    "bop": write_bop,
    "hdf5": write_hdf5,
    "parquet": write_parquet,
    "imagefolder": _imagefolder,
}


def export(root: str | Path, form: Format, out: Path, license: str | None = None) -> list[str]:
    """Write a rendered data set in another format; colour images are copied.

    Every file is written atomically, so that the same command after an interruption writes only missing files.

    Args:
        root: What ``lightning-tl render`` wrote, a folder or URL, or one of its splits.
        form: One of ``FORMATS``.
        out: Folder to write; must be new, empty, or from an earlier export of the same data set.
        license: Identifier of the images' licence, for the data card of ``parquet`` and ``imagefolder``.

    Returns:
        What the format could not store, one sentence each.

    Raises:
        UserError: No such format, a folder with other things in it, a data set that the format cannot store.
    """
    if form not in FORMATS:
        raise UserError(f"--format is '{form}'{nearest(form, FORMATS)}")
    splits = [RenderedImages(folder) for folder in split_folders(root)]
    shards = {images.manifest.split: [shard["sha256"] for shard in images.manifest.shards] for images in splits}
    _claim(out, {"format": form, "shards": shards})
    total, done = sum(map(len, splits)), 0
    with progress_bar("exporting", "images") as advance:

        def counted(images: RenderedImages) -> Iterator[Frame]:
            nonlocal done
            for frame in read_frames(images):
                yield frame
                done += 1
                advance(done, total)

        notes = FORMATS[form](splits, out, counted)
    if form in ("parquet", "imagefolder"):
        write_data_card(splits, out, form, license)
    return notes


def _claim(out: Path, what: dict[str, Any]) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"--out is {out}: a file; give a folder")
    marker = out / MARKER
    if out.is_dir() and any(out.iterdir()):
        try:
            before = parse_json(marker.read_bytes())
        except (OSError, ValueError):
            before = None
        if before != what:
            raise UserError(f"{out}: holds something else than this export: give a new folder by --out, or empty it")
        remove_leftovers(out)
    write_atomically(marker, json.dumps(what))
