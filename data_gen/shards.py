"""A data set on disk: tar shards of images with labels, and a manifest for each split, all written atomically.

``DIR/<split>/manifest.json`` lists the shards from the first on without a gap, so that its order is the order in which
images count towards n. A shard is written beside its place, flushed to the disk and renamed; its hash is put beside
it (``000000.tar.sha256``) before that, and goes into the manifest when all shards before it are there. So a process
may die at any moment, and nothing that was finished is lost.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import struct
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_gen.errors import DataGenError, disk_full, is_disk_full
from data_gen.labels import View
from data_gen.sources import Catalogue, open_catalogue
from data_gen.spec import ImageConfig, RenderConfig, config_from_dict, config_to_dict

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
SKIPPED = "skipped.json"
_SHARD = re.compile(r"\d{6}\.tar")


def shard_name(index: int) -> str:
    """Return the file's name of a shard."""
    return f"{index:06d}.tar"


def encode_png(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """Encode an image as PNG (ISO/IEC 15948), always to the same bytes for the same pixels and zlib.

    Args:
        pixels: 8 bit × 3 of shape ``[H, W, 3]``, or 16 bit of shape ``[H, W]``.
    """
    height, width = pixels.shape[:2]
    depth, colour = (8, 2) if pixels.ndim == 3 else (16, 0)
    lines = pixels.astype(">u2" if depth == 16 else np.uint8).reshape(height, -1)
    rows = np.ascontiguousarray(lines).view(np.uint8)
    # filter 2, "up": the difference to the line above
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = 2
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(filtered.tobytes(), 6)), (b"IEND", b""))
    parts = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _encode_jpeg(pixels: NDArray[np.uint8], quality: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def view_members(view: View, image: ImageConfig) -> Iterator[tuple[str, bytes]]:
    """Yield the names and contents of a view's members, in their order in the shard."""
    stem = f"{view.labels['scene']:07d}-{view.labels['view']:02d}"
    if image.format == "jpg":
        yield f"{stem}.rgb.jpg", _encode_jpeg(view.rgb, image.jpeg_quality)
    else:
        yield f"{stem}.rgb.png", encode_png(view.rgb)
    yield f"{stem}.category.png", encode_png(view.category)
    yield f"{stem}.instance.png", encode_png(view.instance)
    yield f"{stem}.normal.png", encode_png(view.normal)
    if view.depth is not None:
        yield f"{stem}.depth.png", encode_png(view.depth)
    yield f"{stem}.json", json.dumps(view.labels, separators=(",", ":")).encode()


class _Hashed:
    """A file that hashes and counts what is written to it."""

    def __init__(self, file: io.BufferedWriter) -> None:
        self.file, self.sha256, self.size = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.size += len(data)
        return self.file.write(data)


def write_shard(path: Path, members: Iterable[tuple[str, bytes]]) -> str:
    """Write a shard and the file with its hash, so that they are there whole or not at all.

    Args:
        path: where; the folder must exist.
        members: names and contents in order.

    Returns:
        The SHA-256 of the file, in hexadecimal.

    Raises:
        DataGenError: the disk is full.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    written = 0
    try:
        with beside.open("wb") as raw:
            hashed = _Hashed(raw)
            with tarfile.open(fileobj=hashed, mode="w|", format=tarfile.USTAR_FORMAT) as tar:  # type: ignore[call-overload]
                for name, content in members:
                    info = tarfile.TarInfo(name)  # time and owner stay 0
                    info.size = len(content)
                    written += len(content)
                    tar.addfile(info, io.BytesIO(content))
            raw.flush()
            os.fsync(raw.fileno())
        digest = hashed.sha256.hexdigest()
        write_atomically(_hash_file(path), f"{digest}  {path.name}\n".encode())
        beside.replace(path)
        _sync_folder(path.parent)
    except BaseException as error:
        beside.unlink(missing_ok=True)
        if isinstance(error, OSError) and is_disk_full(error):
            raise disk_full(path, max(written, 1 << 20)) from None
        raise
    return digest


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a small file by another in one step.

    Raises:
        DataGenError: the disk is full.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        if is_disk_full(error):
            raise disk_full(path, len(content)) from None
        raise


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _hash_file(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def file_sha256(path: Path) -> str:
    """Return a file's SHA-256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_shard(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the names and contents of a shard's members."""
    with tarfile.open(path, "r:") as tar:
        for info in tar:
            content = tar.extractfile(info)
            if content is not None:
                yield info.name, content.read()


class Split:
    """One split of a data set that is being made: what is finished, what is missing, what the manifest says.

    Args:
        folder: ``DIR/train`` or ``DIR/val``; made if it is not there.
        config: of the data set.
        images: how many images are wanted; whole shards are rendered, so there may be some more.
        catalogue: what the configuration's sources hold; by default they are opened.

    Raises:
        DataGenError: the folder holds a data set of another configuration, or a shard that is not what it was.
    """

    def __init__(self, folder: Path, config: RenderConfig, images: int, catalogue: Catalogue | None = None) -> None:
        self.folder, self.config = folder, config
        self.catalogue = catalogue or open_catalogue(config)
        self.shards = folder / "shards"
        self.per_shard = config.scenes_per_shard * config.camera.views
        self.wanted = -(-images // self.per_shard)
        self.shards.mkdir(parents=True, exist_ok=True)
        old = self._read_manifest()
        self.requested = max(images, old.get("requested", 0))
        self.software: dict[str, str] = old.get("software", {})
        self._done: dict[int, str] = {}
        self.skipped = self._read_skipped()
        self.clear()
        self._find(old.get("shards", []))

    def _read_manifest(self) -> dict[str, Any]:
        path = self.folder / MANIFEST
        if not path.exists():
            return {}
        try:
            old = json.loads(path.read_text())
            version, config = old["format_version"], old["config"]
        except (ValueError, KeyError, TypeError):
            raise DataGenError(f"{path} is damaged: delete it and run again; finished shards are kept") from None
        if version != FORMAT_VERSION:
            raise DataGenError(f"{path} is of format version {version}, not {FORMAT_VERSION}: choose another folder")
        difference = _first_difference(_comparable(config), _comparable(config_to_dict(self.config)), "")
        if not difference and old.get("contents", "") != self.catalogue.fingerprint:
            difference = "the files of its sources have changed since"
        if difference:
            raise DataGenError(
                f"{self.folder.parent} holds a data set of another configuration: {difference}; "
                "choose another folder, or the same configuration"
            )
        return dict(old)

    def _find(self, listed: list[dict[str, Any]]) -> None:
        """Check the shards that are there against their hashes."""
        known = {shard["name"]: shard["sha256"] for shard in listed}
        for path in sorted(self.shards.iterdir()):
            if not _SHARD.fullmatch(path.name):
                continue
            record = _hash_file(path)
            expected = known.get(path.name) or (record.read_text().split()[0] if record.exists() else None)
            if expected != file_sha256(path):
                raise DataGenError(
                    f"{path} is corrupted (its SHA-256 is not the recorded one): "
                    f"delete it with 'rm {path}' and run the same command again, it will be rendered anew"
                )
            self._done[int(path.stem)] = expected

    def clear(self) -> None:
        """Take away what dead processes left half done; only while no other process writes here."""
        for path in [*self.folder.glob(".*.tmp"), *self.shards.glob(".*.tmp")]:
            path.unlink(missing_ok=True)

    @property
    def missing(self) -> list[int]:
        """The shards still to be rendered, in order."""
        return [i for i in range(self.wanted) if i not in self._done]

    @property
    def images_done(self) -> int:
        """Images of the wanted shards that are there."""
        return sum(self.images(i) for i in range(self.wanted) if i in self._done)

    def shard_path(self, index: int) -> Path:
        """Return where a shard goes."""
        return self.shards / shard_name(index)

    def scenes(self, index: int) -> range:
        """Return the scenes of a shard."""
        count = self.config.scenes_per_shard
        return range(index * count, (index + 1) * count)

    def images(self, index: int) -> int:
        """Return the number of images of a shard, without those of scenes that are left out."""
        left_out = len(set(self.scenes(index)) & set(self.skipped))
        return self.per_shard - left_out * self.config.camera.views

    def _read_skipped(self) -> dict[int, str]:
        path = self.folder / SKIPPED
        if not path.exists():
            return {}
        try:
            return {int(scene): str(why) for scene, why in json.loads(path.read_text()).items()}
        except (ValueError, AttributeError):
            raise DataGenError(f"{path} is damaged: delete {self.folder} and render it again") from None

    def skip(self, scene: int, why: str) -> None:
        """Leave a scene out of its shard, now and in later runs.

        Args:
            scene: index.
            why: in words.
        """
        self.skipped[scene] = why
        write_atomically(self.folder / SKIPPED, (json.dumps(self.skipped, indent=1) + "\n").encode())

    def set_software(self, software: Mapping[str, str]) -> None:
        """Note the versions that render, or compare them with those that rendered what is there.

        Raises:
            DataGenError: Blender, BlenderProc or the kind of device differ: new images would not be like the old ones.
        """
        for key in ("blender", "blenderproc", "device"):
            if self.software and self.software.get(key, "CPU") != software.get(key, "CPU"):
                raise DataGenError(
                    f"{self.folder} was rendered with {key} {self.software.get(key, 'CPU')}, installed is "
                    f"{software.get(key)}: their images differ; install that version, or render into another folder"
                )
        self.software = self.software or dict(software)

    def finish(self, index: int, sha256: str) -> None:
        """Note that a shard is written, and bring the manifest up to date."""
        self._done[index] = sha256
        self.write_manifest()

    def write_manifest(self) -> None:
        """Write the manifest with all shards from the first on that are there without a gap."""
        count = next((i for i in range(len(self._done)) if i not in self._done), len(self._done))
        config = self.config
        manifest = {
            "format": "lightning-tl render",
            "format_version": FORMAT_VERSION,
            "split": self.folder.name,
            "seed": config.seed,
            "config": config_to_dict(config),
            "contents": self.catalogue.fingerprint,
            "categories": {str(number): name for number, name in self.catalogue.categories.items()},
            "image_size": list(config.image.shape),
            "software": self.software,
            "scenes_per_shard": config.scenes_per_shard,
            "views_per_scene": config.camera.views,
            "requested": self.requested,
            "images": sum(self.images(i) for i in range(count)),
            **({"skipped": sorted(self.skipped)} if self.skipped else {}),
            "shards": [
                {
                    "name": shard_name(i),
                    "scenes": [self.scenes(i).start, self.scenes(i).stop],
                    "images": self.images(i),
                    "sha256": self._done[i],
                }
                for i in range(count)
            ],
        }
        write_atomically(self.folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
        for i in range(count):
            _hash_file(self.shard_path(i)).unlink(missing_ok=True)


def _comparable(values: dict[str, Any]) -> dict[str, Any]:
    """Fill in what an older version did not write, and leave out where files lie: their contents are compared."""
    try:
        filled = config_to_dict(config_from_dict(values))
    except DataGenError:  # a key or a category that is no more
        return values
    for source in filled["sources"]:
        source["path"] = ""
    filled["camera"]["intrinsics"] = bool(filled["camera"]["intrinsics"])
    filled["lights"]["hdris"] = bool(filled["lights"]["hdris"])
    filled["room"]["materials"] = bool(filled["room"]["materials"])
    return filled


def _first_difference(old: Any, new: Any, where: str) -> str:
    """Describe the first key at which two configurations differ; empty where none does."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            found = _first_difference(old.get(key), new.get(key), f"{where}.{key}" if where else key)
            if found:
                return found
        return ""
    return "" if old == new else f"'{where}' is {old!r} there and {new!r} here"
