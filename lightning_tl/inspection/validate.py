"""`lightning-tl dataset validate`: every image of a rendered data set checked, each shard read once."""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from lightning_tl._io.folders import read_file
from lightning_tl._io.json_text import parse_json
from lightning_tl._io.processes import die_with_parent
from lightning_tl._io.urls import Url, to_place
from lightning_tl.data.rendered_images import Manifest, read_manifest
from lightning_tl.errors import UserError
from lightning_tl.inspection.duplicates import near_duplicates
from lightning_tl.inspection.faults import Fault
from lightning_tl.inspection.image_checks import THUMBNAIL, Expected, check_image
from lightning_tl.inspection.members import tar_members
from lightning_tl.inspection.splits import split_folders
from lightning_tl.progress import progress_bar

_KEY = re.compile(r"\d{7}-\d{2}")
_ALONE = 2000  # up to this number of images, more processes cost more time than they save
# a category five times as rare as the average is missing from all images with at most this probability
_IMPROBABLE, _RARER = 1e-3, 5


@dataclass(frozen=True)
class _Shard:
    """A shard as listed in the manifest."""

    path: str
    sha256: str
    images: int
    scenes: tuple[int, int] | None
    views: int | None


@dataclass
class _Checked:
    """Results of the check of a shard; ``thumbnails``, one array, are in the order of ``keys``."""

    faults: list[Fault] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    thumbnails: np.ndarray = field(default_factory=lambda: np.zeros((0, THUMBNAIL, THUMBNAIL, 3), np.uint8))
    objects: Counter[int] = field(default_factory=Counter)
    images: int = 0


@dataclass
class Validation:
    """Results of ``validate``.

    Attributes:
        faults: All findings, remarks among them.
        images: Number of images checked, by split.
        objects: Number of objects by split, then by name of category.
    """

    faults: list[Fault] = field(default_factory=list)
    images: dict[str, int] = field(default_factory=dict)
    objects: dict[str, dict[str, int]] = field(default_factory=dict)

    def serious(self) -> list[Fault]:
        """Return the faults without the remarks."""
        return [fault for fault in self.faults if fault.serious]


def validate(root: str | Path, workers: int = 1) -> Validation:
    """Check a rendered data set: files, ids, masks against boxes and labels, colours, normals, balance, duplicates.

    Args:
        root: What ``lightning-tl render`` wrote, a folder or URL, or one of its splits.
        workers: Number of processes that read shards.

    Raises:
        UserError: No data set there, or a manifest that cannot be read.
    """
    result = Validation()
    keys: list[tuple[str, str, str]] = []
    thumbnails: list[np.ndarray] = []
    manifests = [(read_manifest(folder), _more(folder)) for folder in split_folders(root)]
    total = sum(manifest.images for manifest, _ in manifests)
    with progress_bar("checking", "images") as advance:
        for manifest, entries in manifests:
            expected = Expected(manifest.image_size, manifest.categories)
            result.faults += _beside(manifest)
            counts: Counter[int] = Counter()
            begun = sum(result.images.values())
            images = 0
            for shard, checked in _all(_shards(manifest, entries), expected, workers):
                result.faults += checked.faults
                counts += checked.objects
                images += checked.images
                keys += [(manifest.split, shard.path, key) for key in checked.keys]
                thumbnails.append(checked.thumbnails)
                advance(begun + images, total)
            result.images[manifest.split] = images
            result.objects[manifest.split] = {name: counts[number] for number, name in manifest.categories.items()}
            result.faults += _balance(manifest, counts)
    result.faults += _duplicates(keys, thumbnails)
    return result


def _more(folder: Path | Url) -> list[dict[str, Any]]:
    """Return the manifest's rows of shards, with keys that readers of images do not need."""
    content = parse_json(read_file(folder / "manifest.json") or b"{}")
    views = content.get("views_per_scene")
    return [{"scenes": shard.get("scenes"), "views": views} for shard in content["shards"]]


def _shards(manifest: Manifest, entries: list[dict[str, Any]]) -> Iterator[_Shard]:
    for shard, entry in zip(manifest.shards, entries, strict=True):
        path = manifest.folder / "shards" / Path(shard["name"]).with_suffix(".tar").name
        scenes, views = entry["scenes"], entry["views"]
        try:
            span = None if scenes is None else (int(scenes[0]), int(scenes[1]))
            views = None if views is None else int(views)
        except (TypeError, ValueError, IndexError, KeyError, OverflowError) as error:
            raise UserError(
                f"{manifest.folder / 'manifest.json'}: shard {shard['name']} has scenes {scenes!r}, views_per_scene is "
                f"{views!r}; they must be [first, end] and a number: render it again"
            ) from error
        yield _Shard(str(path), shard["sha256"], shard["images"], span, views)


def _all(shards: Iterator[_Shard], expected: Expected, workers: int) -> Iterator[tuple[_Shard, _Checked]]:
    listed = list(shards)
    if workers < 2 or sum(shard.images for shard in listed) <= _ALONE:
        yield from ((shard, _check_shard(shard, expected)) for shard in listed)
        return
    pool = ProcessPoolExecutor(min(workers, len(listed)), mp_context=get_context("spawn"), initializer=die_with_parent)
    try:
        yield from zip(listed, pool.map(partial(_check_shard, expected=expected), listed), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)


def _check_shard(shard: _Shard, expected: Expected) -> _Checked:
    checked = _Checked()
    say = partial(_say, checked.faults, shard.path)
    content = read_file(to_place(shard.path))
    if content is None:
        say("", "shard-missing", "not there: run the same lightning-tl render again")
        return checked
    digest = hashlib.sha256(content).hexdigest()
    if digest != shard.sha256:
        say("", "shard-hash", f"sha256 {digest[:12]}…, in the manifest {shard.sha256[:12]}…")
    by_key: dict[str, dict[str, bytes]] = {}
    try:
        for name, data in tar_members(content):
            key, _, extension = name.partition(".")
            parts = by_key.setdefault(key, {})
            if extension in parts:
                say(key, "ids", f"{name} is there twice")
            parts[extension] = data
    except tarfile.TarError as error:
        say("", "shard-unreadable", str(error))
    if len(by_key) != shard.images:
        say("", "shard-count", f"{len(by_key)} images, {shard.images} in the manifest")
    thumbnails = []
    for key, parts in by_key.items():
        _check_key(shard, key, say)
        seen = check_image(key, parts, expected, partial(say, key))
        checked.images += 1
        checked.objects.update(seen.objects)
        if seen.thumbnail is not None:
            checked.keys.append(key)
            thumbnails.append(seen.thumbnail)
    if thumbnails:
        checked.thumbnails = np.stack(thumbnails)
    return checked


def _say(faults: list[Fault], file: str, key: str, code: str, detail: str) -> None:
    faults.append(Fault(code, file, key, detail))


def _check_key(shard: _Shard, key: str, say: Any) -> None:
    if not _KEY.fullmatch(key):
        say(key, "ids", "the key is not <scene 7 digits>-<view 2 digits>")
        return
    scene, view = map(int, key.split("-"))
    if shard.scenes is not None and not shard.scenes[0] <= scene < shard.scenes[1]:
        say(key, "ids", f"scene {scene} is not in this shard's scenes {list(shard.scenes)}")
    if shard.views is not None and view >= shard.views:
        say(key, "ids", f"view {view} of {shard.views} views a scene")


def _beside(manifest: Manifest) -> Iterator[Fault]:
    folder = manifest.folder / "shards"
    listed = {Path(shard["name"]).with_suffix(".tar").name for shard in manifest.shards}
    for name in sorted(os.listdir(folder)) if isinstance(folder, Path) and folder.is_dir() else []:
        if name.removesuffix(".sha256") not in listed:
            yield Fault("extra-file", str(folder / name), "", "not in the manifest")


def _balance(manifest: Manifest, counts: Counter[int]) -> Iterator[Fault]:
    total, categories = sum(counts.values()), manifest.categories
    file = str(manifest.folder / "manifest.json")
    if not total:
        return
    absent = len(categories) * (1 - 1 / (_RARER * len(categories))) ** total
    median = float(np.median([counts[number] for number in categories]))
    for number, name in categories.items():
        count, called = counts[number], f"category {number} ({name})"
        if count == 0:
            detail = f"{called} is in none of the {manifest.images} images ({total} objects)"
            yield Fault("never-seen" if absent < _IMPROBABLE else "rare", file, "", detail)
        elif median >= 20 and not median / 10 <= count <= median * 10:
            yield Fault("imbalance", file, "", f"{called} has {count} objects, the median category {median:g}")


def _duplicates(keys: list[tuple[str, str, str]], thumbnails: list[np.ndarray]) -> Iterator[Fault]:
    if not keys:
        return
    for index, other, rms in near_duplicates(np.concatenate(thumbnails)):
        split, file, key = keys[index]
        their_split, their_file, their_key = keys[other]
        same = f"differs from {their_file} {their_key} by {rms:.2f} grey levels"
        yield Fault("near-duplicate" if split == their_split else "leak", file, key, same)
