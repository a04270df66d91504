"""Reading rendered data sets by index: `DIR/train` or `DIR/val` with a manifest and tar shards."""

from __future__ import annotations

import io
import re
import tarfile
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lightning_tl._io.checksums import file_sha256
from lightning_tl._io.files import read_at
from lightning_tl._io.folders import read_file
from lightning_tl._io.json_text import parse_json
from lightning_tl._io.urls import Url, to_place
from lightning_tl.data.image_files import Undecodable, decode, open_image
from lightning_tl.data.rendered_labels import label_problems
from lightning_tl.data.rendered_manifest import manifest_problems
from lightning_tl.data.shard_cache import cached, fetch, fetch_all
from lightning_tl.errors import UserError, shortened

_KEPT_OPEN = 128  # shards; processes may commonly have a thousand files
FORMAT_VERSION = 1
_MEMBER = re.compile(r"(\d{7,12}-\d{2,6})\.([a-z]+(?:\.[a-z]+)?)")
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
    #: ``config``, ``seed`` and ``software`` of the rendering, as far as they are there
    made: dict[str, Any] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """Return the number of images in all shards."""
        return sum(shard["images"] for shard in self.shards)


def read_manifest(folder: str | Path) -> Manifest:
    """Read a split's manifest.

    Args:
        folder: ``DIR/train`` or ``DIR/val``, or its URL on a store that fsspec supports.

    Raises:
        UserError: No manifest, not JSON, of another format version, a key that is missing or of a wrong type, a name
            that is no plain name; a store cannot be reached.
    """
    folder = to_place(folder)
    path = folder / "manifest.json"
    text = read_file(path)
    if text is None:
        above = isinstance(folder, Path) and (folder / "train").is_dir()
        hint = f"; its splits are {folder}/train and {folder}/val" if above else ""
        raise UserError(f"{path}: no such file, so {folder} is no rendered split{hint} (lightning-tl render makes one)")
    try:
        content = parse_json(text)
        version = content["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path}: format version {shortened(version)}; this release reads {FORMAT_VERSION}: render it again"
        )
    problem = next(manifest_problems(content), None)
    if problem is not None:
        raise _damaged(path, problem)
    return Manifest(
        folder=folder,
        split=content["split"],
        categories={int(number): name for number, name in content["categories"].items()},
        image_size=(content["image_size"][0], content["image_size"][1]),
        shards=[{key: shard[key] for key in ("name", "images", "sha256")} for shard in content["shards"]],
        made={key: content[key] for key in ("config", "seed", "software") if key in content},
    )


def _damaged(path: Path | Url, problem: str) -> UserError:
    return UserError(f"{path}: damaged ({problem}): delete it and render again")


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
        if not available:
            raise UserError(f"{self.manifest.folder} has no images yet: run the same lightning-tl render to its end")
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
            size = path.stat().st_size
            with tarfile.open(path, "r:") as archive:
                for member in archive:
                    name = _MEMBER.fullmatch(member.name)
                    if name is None or not member.isreg() or member.issparse():
                        what = f"its member '{shortened(member.name)}' is no file named <scene>-<view>.<kind>"
                        raise UserError(f"{path}: {what}, as lightning-tl render names them: {mend}")
                    if member.offset_data + member.size > size:
                        raise UserError(f"{path}: its member {member.name} is longer than the file: {mend}")
                    by_key.setdefault(name[1], {})[name[2]] = (member.offset_data, member.size)
        except (tarfile.TarError, ValueError, EOFError) as error:
            if isinstance(error, UserError):
                raise
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
        return read_at(file, size, offset)

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

    def _array(self, index: int, extension: str, channels: tuple[int, ...] = ()) -> np.ndarray:
        key, content = self.member(index, extension)
        try:
            array = np.asarray(open_image(content, key))
        except (OSError, SyntaxError, ValueError) as error:  # a broken PNG is Pillow's SyntaxError
            raise self._undecodable(index, f"{key}.{extension}", error) from error
        expected = (*self.manifest.image_size, *channels)
        if array.shape != expected or array.dtype not in (np.uint8, np.uint16):
            said = f"is {array.dtype} of {_by(array.shape)}, the manifest says {_by(expected)}"
            raise self._unfit(index, f"{key}.{extension} {said}")
        return array

    def _undecodable(self, index: int, name: str, error: Exception) -> UserError:
        return self._unfit(index, f"{name} cannot be decoded ({error})")

    def _unfit(self, index: int, problem: str) -> UserError:
        shard = self.shard_path(bisect_right(self._ends, index))
        return UserError(
            f"{shard}: {problem}: delete the shard and render it again (lightning-tl dataset validate lists all faults)"
        )

    def open_rgb(self, index: int) -> Image.Image:
        """Return the colours' image, opened but not decoded."""
        key, content = self.member(index, "rgb.png", "rgb.jpg")
        try:
            image = open_image(content, key)
        except Undecodable as error:
            raise self._undecodable(index, f"{key}.rgb.png", error.reason) from error
        expected = self.manifest.image_size
        if (image.height, image.width) != expected:
            said = f"is {image.height} x {image.width} px, the manifest says {_by(expected)}"
            raise self._unfit(index, f"{key}.rgb.png {said}")
        return image

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
        return self._array(index, "normal.png", (3,))

    def labels(self, index: int) -> dict[str, Any]:
        """Return the image's JSON: visible category ids, objects with boxes, the camera."""
        key, content = self.member(index, "json")
        try:
            labels = parse_json(content)
        except ValueError as error:
            raise self._undecodable(index, f"{key}.json", error) from error
        if problem := next(label_problems(labels), None):
            raise self._unfit(index, f"{key}.json: {problem}")
        return dict(labels)


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
