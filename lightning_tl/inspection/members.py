"""Members of a shard and their pixels, the way the renderer writes them, without the cost of general readers.

Whatever is not as the renderer writes it is left to ``tarfile`` and Pillow, whose word on it counts.
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
#: bit depth and colour type → bytes a pixel
_KINDS = {(8, 2): 3, (16, 0): 2}
_UP = 2


def tar_members(content: bytes) -> list[tuple[str, bytes]]:
    """Return names and contents of a tar file's members, in order.

    Raises:
        tarfile.TarError: It is no readable tar file.
    """
    found = _plain_members(content)
    if found is not None:
        return found
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return [(m.name, content[m.offset_data : m.offset_data + m.size]) for m in archive]


def _plain_members(content: bytes) -> list[tuple[str, bytes]] | None:
    """Read a tar file of ordinary files with short names; ``None`` where it is anything else."""
    found: list[tuple[str, bytes]] = []
    at = 0
    while at + _BLOCK <= len(content):
        header = content[at : at + _BLOCK]
        if not header.strip(b"\0"):
            return found
        try:
            size, told = int(header[124:135], 8), int(header[148:154], 8)
        except ValueError:
            return None
        # the checksum counts its own eight bytes as spaces
        if header[156:157] not in b"0\0" or header[345] or told != sum(header) - sum(header[148:156]) + 256:
            return None
        at += _BLOCK
        if at + size > len(content):
            return None
        found.append((header[:100].split(b"\0", 1)[0].decode("utf-8", "surrogateescape"), content[at : at + size]))
        at += -(-size // _BLOCK) * _BLOCK
    return None


def png_pixels(content: bytes) -> np.ndarray | None:
    """Decode a PNG as the renderer writes it: 8 bit × 3 or 16 bit grey, each line as the difference to that above.

    Args:
        content: The file.

    Returns:
        uint8 ``[H, W, 3]`` or uint16 ``[H, W]``; ``None`` where it is another kind of PNG, or damaged.
    """
    if not content.startswith(_SIGNATURE):
        return None
    chunks: dict[bytes, bytes] = {}
    at = len(_SIGNATURE)
    try:
        while b"IEND" not in chunks:
            (size,) = struct.unpack_from(">I", content, at)
            kind, data = content[at + 4 : at + 8], content[at + 8 : at + 8 + size]
            (told,) = struct.unpack_from(">I", content, at + 8 + size)
            if kind in chunks or zlib.crc32(data, zlib.crc32(kind)) != told:
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
        OSError: It is neither, or damaged.
        SyntaxError: A broken PNG.
        ValueError: Likewise.
    """
    found = png_pixels(content)
    return np.asarray(_opened(content)) if found is None else found


def colours(content: bytes, least: int) -> tuple[tuple[int, int], np.ndarray]:
    """Decode colours.

    Args:
        content: PNG or JPEG.
        least: Pixels a side that are enough. A JPEG is decoded to a half, a quarter or an eighth where that is no less.

    Returns:
        Height and width of the image, and uint8 ``[h, w, 3]``, which may be smaller.

    Raises:
        OSError: It is neither, or damaged.
        SyntaxError: A broken PNG.
        ValueError: Likewise.
    """
    found = png_pixels(content)
    if found is not None and found.ndim == 3:
        return found.shape[:2], found
    image = _opened(content)
    size = image.size[::-1]
    image.draft("RGB", (least, least))
    return size, np.asarray(image.convert("RGB"))


def _opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content), formats=("PNG", "JPEG"))
