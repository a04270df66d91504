"""Fast readers of a shard's members and pixels in the form that the renderer writes.

Anything in another form is read by ``tarfile`` and Pillow.
"""

from __future__ import annotations

import io
import struct
import tarfile
import zlib

import numpy as np
from PIL import Image

_BLOCK = 512
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: bit depth and colour type → bytes per pixel
_KINDS = {(8, 2): 3, (16, 0): 2}
_UP = 2


def tar_members(content: bytes) -> list[tuple[str, bytes]]:
    """Return names and contents of a tar file's members, in order.

    Raises:
        tarfile.TarError: The content is not a readable tar file.
    """
    members = _plain_members(content)
    if members is not None:
        return members
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return [(m.name, content[m.offset_data : m.offset_data + m.size]) for m in archive]


def _plain_members(content: bytes) -> list[tuple[str, bytes]] | None:
    """Read a tar file of ordinary files with short names; ``None`` if it is anything else."""
    members: list[tuple[str, bytes]] = []
    at = 0
    while at + _BLOCK <= len(content):
        header = content[at : at + _BLOCK]
        if not header.strip(b"\0"):
            return members
        try:
            size, checksum = int(header[124:135], 8), int(header[148:154], 8)
        except ValueError:
            return None
        # the checksum counts its own eight bytes as spaces
        if header[156:157] not in b"0\0" or header[345] or checksum != sum(header) - sum(header[148:156]) + 256:
            return None
        at += _BLOCK
        if at + size > len(content):
            return None
        members.append((header[:100].split(b"\0", 1)[0].decode("utf-8", "surrogateescape"), content[at : at + size]))
        at += -(-size // _BLOCK) * _BLOCK
    return None


def png_pixels(content: bytes) -> np.ndarray | None:
    """Decode a PNG as the renderer writes it: 8 bit × 3 or 16 bit grey, each line as the difference to that above.

    Args:
        content: Content of the file.

    Returns:
        uint8 ``[H, W, 3]`` or uint16 ``[H, W]``; ``None`` if it is another kind of PNG, or damaged.
    """
    if not content.startswith(_SIGNATURE):
        return None
    chunks: dict[bytes, bytes] = {}
    at = len(_SIGNATURE)
    try:
        while b"IEND" not in chunks:
            (size,) = struct.unpack_from(">I", content, at)
            kind, data = content[at + 4 : at + 8], content[at + 8 : at + 8 + size]
            (checksum,) = struct.unpack_from(">I", content, at + 8 + size)
            if kind in chunks or zlib.crc32(data, zlib.crc32(kind)) != checksum:
                return None
            chunks[kind] = data
            at += 12 + size
        width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
        step = _KINDS.get((depth, colour))
        if step is None or interlaced or len(chunks) != 3:  # such as a palette, a colour that is transparent
            return None
        length = height * (1 + step * width)
        raw = zlib.decompressobj().decompress(chunks[b"IDAT"], length + 1)
        lines = np.frombuffer(raw, np.uint8).reshape(height, 1 + step * width)
    except (struct.error, KeyError, ValueError, zlib.error):
        return None
    if (lines[:, 0] != _UP).any():
        return None
    rows = np.cumsum(lines[:, 1:], axis=0, dtype=np.uint8)
    return rows.reshape(height, width, 3) if step == 3 else rows.view(">u2").astype(np.uint16)


def pixels(content: bytes) -> np.ndarray:
    """Decode an image as it is stored.

    Args:
        content: PNG or JPEG.

    Raises:
        OSError: The content is neither, or is damaged.
        SyntaxError: A broken PNG.
        ValueError: Likewise.
    """
    array = png_pixels(content)
    return np.asarray(_opened(content)) if array is None else array


def colours(content: bytes, least: int) -> tuple[tuple[int, int], np.ndarray]:
    """Decode colours.

    Args:
        content: PNG or JPEG.
        least: Sufficient pixels per side. A JPEG is decoded to a half, a quarter or an eighth if that has as many.

    Returns:
        Height and width of the image, and uint8 ``[h, w, 3]``, which may be smaller.

    Raises:
        OSError: The content is neither, or is damaged.
        SyntaxError: A broken PNG.
        ValueError: Likewise.
    """
    array = png_pixels(content)
    if array is not None and array.ndim == 3:
        return array.shape[:2], array
    image = _opened(content)
    size = image.size[::-1]
    image.draft("RGB", (least, least))
    return size, np.asarray(image.convert("RGB"))


def _opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content), formats=("PNG", "JPEG"))
