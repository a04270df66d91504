"""Tar shards of images with labels, written atomically.

A shard is written beside its place, flushed to the disk and renamed; its hash is put beside it (``000000.tar.sha256``)
before that. So a process may die at any moment, and nothing that was finished is lost.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_gen.errors import disk_full, is_disk_full
from data_gen.labels import View
from data_gen.scene_sampler import ImageConfig
from data_gen.storage import Shard, hash_file, hash_record, write_atomically


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


def write_shard(path: Path, members: Iterable[tuple[str, bytes]]) -> Shard:
    """Write a shard and the file with its hash, so that they are there whole or not at all.

    Args:
        path: where; the folder must exist.
        members: names and contents in order.

    Returns:
        The SHA-256 and the size of the file.

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
        shard = Shard(hashed.sha256.hexdigest(), hashed.size)
        write_atomically(hash_file(path), hash_record(path.name, shard))
        beside.replace(path)
        _sync_folder(path.parent)
    except BaseException as error:
        beside.unlink(missing_ok=True)
        if isinstance(error, OSError) and is_disk_full(error):
            raise disk_full(path, max(written, 1 << 20)) from None
        raise
    return shard


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_shard(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the names and contents of a shard's members."""
    with tarfile.open(path, "r:") as tar:
        for info in tar:
            content = tar.extractfile(info)
            if content is not None:
                yield info.name, content.read()
