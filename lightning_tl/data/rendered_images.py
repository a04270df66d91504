"""Reading rendered data sets by index: `DIR/train` or `DIR/val` with a manifest and tar shards."""

from __future__ import annotations

import io
import json
import os
import tarfile
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lightning_tl._io.checksums import file_sha256
from lightning_tl._io.folders import read_file
from lightning_tl._io.urls import Url, to_place
from lightning_tl.data.image_files import Undecodable, decode, open_image
from lightning_tl.data.shard_cache import cached, fetch, fetch_all
from lightning_tl.errors import UserError

_KEPT_OPEN = 128  # shards; processes may commonly have a thousand files
FORMAT_VERSION = 1
# by image: key, and by extension the (offset, size) of its bytes
_Members = list[tuple[str, dict[str, tuple[int, int]]]]


@dataclass(frozen=True)
class Manifest:
    """The contents of `manifest.json` that readers need."""

    folder: Path | Url
    split: str
    categories: dict[int, str]
    image_size: tuple[int, int]
    shards: list[dict[str, Any]]

    @property
    def images(self) -> int:
        """Return the number of images in all shards."""
        return sum(shard["images"] for shard in self.shards)


def read_manifest(folder: str | Path) -> Manifest:
    """Read a split's manifest.

    Args:
        folder: ``DIR/train`` or ``DIR/val``, or its URL on a store that fsspec supports.

    Raises:
        UserError: No manifest, not JSON, of another format version, or a key is missing; a store cannot be reached.
    """
    folder = to_place(folder)
    path = folder / "manifest.json"
    text = read_file(path)
    if text is None:
        above = isinstance(folder, Path) and (folder / "train").is_dir()
        hint = f"; its splits are {folder}/train and {folder}/val" if above else ""
        raise UserError(f"{path}: no such file, so {folder} is no rendered split{hint} (lightning-tl render makes one)")
    damaged = f"{path}: damaged ({{}}): delete it and render again"
    try:
        content = json.loads(text)
        version = content["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(damaged.format(f"{type(error).__name__}: {error}")) from error
    if version != FORMAT_VERSION:
        raise UserError(f"{path}: format version {version}; this release reads {FORMAT_VERSION}: render it again")
    try:
        size = content["image_size"]
        return Manifest(
            folder=folder,
            split=content["split"],
            categories={int(number): name for number, name in content["categories"].items()},
            image_size=(int(size[0]), int(size[1])),
            shards=[
                {"name": str(shard["name"]), "images": int(shard["images"]), "sha256": str(shard["sha256"])}
                for shard in content["shards"]
            ],
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise UserError(damaged.format(f"{type(error).__name__}: {error}")) from error


class RenderedImages:
    """The first ``n`` images of a rendered split, by index.

    A shard's headers are read, and its sha256 is checked, when its first image is asked for. A shard on a store
    is fetched at that moment, once, and kept in ``$LIGHTNING_TL_CACHE`` (``~/.cache/lightning_tl``).

    Args:
        folder: ``DIR/train`` or ``DIR/val``, or its URL on a store that fsspec supports (``s3://bucket/set/train``).
        n: How many images, counted from the first (``None``: all). The images of a smaller ``n`` are the first of a
            larger one.
        verify: Check each shard against the manifest's sha256 before it is used.

    Raises:
        UserError: No such data set, fewer than ``n`` images in it, a missing or corrupted shard.
    """

    def __init__(self, folder: str | Path, n: int | None = None, verify: bool = True) -> None:
        self.manifest = read_manifest(folder)
        self.verify = verify
        available = self.manifest.images
        if n is not None and not 1 <= n <= available:
            raise UserError(
                f"{n} images asked for, but {self.manifest.folder} has {available}: "
                f"ask for at most {available}, or render more (lightning-tl render --images {n} adds to it)"
            )
        self.n = available if n is None else n
        self._ends = list(accumulate(shard["images"] for shard in self.manifest.shards))
        self._members: dict[int, _Members] = {}
        self._files: dict[int, io.FileIO] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": {}}  # another process opens its own

    def __len__(self) -> int:
        return self.n

    def shard_path(self, shard: int) -> Path:
        """Return the file of a shard, by its number in the manifest; for a store, the file in the cache."""
        location = self._at(shard)
        return cached(self.manifest.shards[shard]["sha256"]) if isinstance(location, Url) else location

    def _at(self, shard: int) -> Path | Url:
        name = str(self.manifest.shards[shard]["name"])
        return self.manifest.folder / "shards" / Path(name).with_suffix(".tar").name

    def _open(self, shard: int) -> _Members:
        if shard in self._members:
            return self._members[shard]
        path, entry = self.shard_path(shard), self.manifest.shards[shard]
        mend = "delete it and run the same lightning-tl render again"
        url = self._at(shard)
        if isinstance(url, Url):
            fetch(url, entry["sha256"])
            mend = "delete it, and it is fetched again"
        if not path.is_file():
            raise UserError(f"{path}: this shard is in the manifest but not on disk: run the same render again")
        if self.verify and file_sha256(path) != entry["sha256"]:
            raise UserError(f"{path}: corrupted: its sha256 is not the manifest's: {mend}")
        by_key: dict[str, dict[str, tuple[int, int]]] = {}
        try:
            with tarfile.open(path) as archive:
                for member in archive:
                    key, _, extension = member.name.partition(".")
                    by_key.setdefault(key, {})[extension] = (member.offset_data, member.size)
        except tarfile.TarError as error:
            raise UserError(f"{path}: not a readable tar file ({error}): {mend}") from error
        if len(by_key) != entry["images"]:
            raise UserError(f"{path}: holds {len(by_key)} images where the manifest says {entry['images']}: {mend}")
        self._members[shard] = sorted(by_key.items())
        return self._members[shard]

    def open_shards(self) -> None:
        """Check and index all shards now, so that not every loader process has to do it.

        Raises:
            UserError: A missing or corrupted shard.
        """
        shards = range(bisect_left(self._ends, self.n) + 1)
        urls = [(url, self.manifest.shards[i]["sha256"]) for i in shards if isinstance(url := self._at(i), Url)]
        fetch_all(urls)
        for shard in shards:
            self._open(shard)

    def _read(self, shard: int, offset: int, size: int) -> bytes:
        file = self._files.get(shard)
        if file is None:
            if len(self._files) >= _KEPT_OPEN:
                self._files.pop(next(iter(self._files))).close()
            file = self._files[shard] = io.FileIO(self.shard_path(shard))
        return os.pread(file.fileno(), size, offset)  # has no position that processes could share

    def member(self, index: int, *extensions: str) -> tuple[str, bytes]:
        """Return an image's key and the bytes of the first of the extensions that it has.

        Raises:
            UserError: It has none of them.
            IndexError: ``index`` is not in ``[0, n)``.
        """
        if not 0 <= index < self.n:
            raise IndexError(f"image {index} of {self.n}")
        shard = bisect_right(self._ends, index)
        members = self._open(shard)
        key, parts = members[index - (self._ends[shard] - len(members))]
        for extension in extensions:
            if extension in parts:
                offset, size = parts[extension]
                return key, self._read(shard, offset, size)
        raise UserError(f"{self.shard_path(shard)}: image {key} has no {' or '.join(extensions)}")

    def _array(self, index: int, *extensions: str) -> np.ndarray:
        key, content = self.member(index, *extensions)
        try:
            return np.asarray(Image.open(io.BytesIO(content)))
        except (OSError, SyntaxError, ValueError) as error:  # a broken PNG is Pillow's SyntaxError
            raise self._undecodable(index, f"{key}.{extensions[0]}", error) from error

    def _undecodable(self, index: int, name: str, error: Exception) -> UserError:
        shard = self.shard_path(bisect_right(self._ends, index))
        return UserError(f"{shard}: {name} cannot be decoded ({error}): delete the shard and render it again")

    def open_rgb(self, index: int) -> Image.Image:
        """Return the colours' image, opened but not decoded."""
        key, content = self.member(index, "rgb.png", "rgb.jpg")
        try:
            return open_image(content, key)
        except Undecodable as error:
            raise self._undecodable(index, f"{key}.rgb.png", error.reason) from error

    def rgb(self, index: int) -> np.ndarray:
        """Return colours, uint8 ``[H, W, 3]``."""
        image = self.open_rgb(index)
        try:
            return decode(image, "")
        except Undecodable as error:
            raise self._undecodable(
                index, f"{self.member(index, 'rgb.png', 'rgb.jpg')[0]}.rgb.png", error.reason
            ) from error

    def category(self, index: int) -> np.ndarray:
        """Return category ids by pixel, uint16 ``[H, W]``; 0 is the background."""
        return self._array(index, "category.png")

    def instance(self, index: int) -> np.ndarray:
        """Return instance ids by pixel, uint16 ``[H, W]``; 0 is the background."""
        return self._array(index, "instance.png")

    def normal(self, index: int) -> np.ndarray:
        """Return normals as stored, uint8 ``[H, W, 3]``: (n + 1)/2·255 in the camera's frame; 128s are none."""
        return self._array(index, "normal.png")

    def labels(self, index: int) -> dict[str, Any]:
        """Return the image's JSON: visible category ids, objects with boxes, the camera."""
        key, content = self.member(index, "json")
        try:
            return dict(json.loads(content))
        except (ValueError, TypeError) as error:
            raise self._undecodable(index, f"{key}.json", error) from error
