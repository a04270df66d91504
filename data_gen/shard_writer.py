"""Tar shards of images with labels, written in one step.

A shard is written to a temporary file, flushed to the disk and renamed; before that, a record of its hash and size is
written as ``000000.tar.sha256``. So no finished shard is lost when a process dies.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_gen.labels import View
from data_gen.render_config import ImageConfig
from lightning_tl._io.atomic import replacing, sync_to_disk, write_atomically
from lightning_tl._io.stores import put
from lightning_tl.errors import UserError, disk_full, is_disk_full

SHARDS = "shards"
"""The folder of the shards in that of a split."""


class ShardRecord(NamedTuple):
    """Hash and size of a finished shard.

    Attributes:
        sha256: of the file, in hexadecimal.
        size: bytes; -1 if it was not recorded.
    """

    sha256: str
    size: int


def shard_name(index: int) -> str:
    """Return the file name of a shard."""
    return f"{index:06d}.tar"


def encode_png(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """Encode an image as PNG (ISO/IEC 15948), always to the same bytes for the same pixels and version of zlib.

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


def write_shard(path: Path, members: Iterable[tuple[str, bytes]]) -> ShardRecord:
    """Write a shard and its record atomically.

    Args:
        path: file to write; its folder must exist.
        members: names and contents, in order.

    Raises:
        UserError: the disk is full.
    """
    written = 0
    try:
        with replacing(path) as beside:
            with beside.open("wb") as raw:
                hashed = _Hashed(raw)
                with tarfile.open(fileobj=hashed, mode="w|", format=tarfile.USTAR_FORMAT) as tar:  # type: ignore[call-overload]
                    for name, content in members:
                        info = tarfile.TarInfo(name)  # time and owner stay 0
                        info.size = len(content)
                        written += len(content)
                        tar.addfile(info, io.BytesIO(content))
            sync_to_disk(beside)
            record = ShardRecord(hashed.sha256.hexdigest(), hashed.size)
            write_atomically(record_path(path), format_record(path.name, record), sync=True)
        sync_to_disk(path.parent)
    except OSError as error:
        if is_disk_full(error):
            raise UserError(disk_full(error.filename, max(written, 1 << 20))) from None
        raise
    return record


def record_path(shard: Path) -> Path:
    """Return the path of a shard's record."""
    return shard.with_name(shard.name + ".sha256")


def format_record(name: str, record: ShardRecord) -> bytes:
    """Return the content of a record file, in the format of ``sha256sum -c``."""
    return f"{record.sha256}  {name}\n# {record.size} bytes\n".encode()


def parse_record(content: bytes | None) -> ShardRecord | None:
    """Parse the content of a record file; ``None`` if it is empty or damaged."""
    words = (content or b"").decode(errors="replace").split()
    if not words:
        return None
    return ShardRecord(words[0], int(words[3]) if len(words) > 3 and words[3].isdigit() else -1)


def put_shard(file: Path, url: str) -> None:
    """Put a shard and its record on a store, and delete the local files.

    The record is written first. So a complete shard counts at once, and a partial one, on a store that shows partial
    files, does not.

    Args:
        file: the shard, as :func:`write_shard` wrote it.
        url: URL of the shard.

    Raises:
        StoreError: the store cannot be reached, refuses, or has no such bucket.
    """
    record = record_path(file)
    put(f"{url}.sha256", record)
    put(url, file)
    file.unlink()
    record.unlink()


def read_shard(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the names and contents of a shard's members."""
    with tarfile.open(path, "r:") as tar:
        for info in tar:
            content = tar.extractfile(info)
            if content is not None:
                yield info.name, content.read()
