"""A reader for the one kind of OpenEXR file that the renderer writes: flat, uncompressed, 32-bit floats.

OpenCV reads only one layer of such a file; here all passes of a render come from a single small file.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

_MAGIC = 20000630


def read_exr(data: bytes) -> dict[str, NDArray[np.float32]]:
    """Read all channels.

    Args:
        data: the file's content.

    Returns:
        Arrays of shape ``[height, width]`` by channel name, such as ``"ViewLayer.Normal.X"``.

    Raises:
        ValueError: the file is not OpenEXR, or it is tiled, multi-part, compressed or not of 32-bit floats.
    """
    magic, version = struct.unpack_from("<II", data)
    if magic != _MAGIC or version & 0x1A00:
        raise ValueError("not a flat, single-part OpenEXR file")
    attributes: dict[str, bytes] = {}
    at = 8
    while data[at]:
        end = data.index(b"\0", at)
        name = data[at:end]
        at = data.index(b"\0", end + 1) + 1  # over the name of the attribute's type
        (size,) = struct.unpack_from("<i", data, at)
        attributes[name.decode()] = data[at + 4 : at + 4 + size]
        at += 4 + size
    at += 1
    if attributes["compression"] != b"\0":
        raise ValueError("a compressed OpenEXR file")
    left, top, right, bottom = struct.unpack("<4i", attributes["dataWindow"])
    width, height = right - left + 1, bottom - top + 1
    channels = _channels(attributes["channels"])
    # a table of offsets, then for each line: its number, its size, and the channels one after the other
    line = np.dtype([("y", "<i4"), ("size", "<i4"), ("pixels", "<f4", (len(channels), width))])
    lines = np.frombuffer(data, line, count=height, offset=at + 8 * height)
    pixels = lines["pixels"][np.argsort(lines["y"], kind="stable")]
    return {name: np.ascontiguousarray(pixels[:, i]) for i, name in enumerate(channels)}


def _channels(table: bytes) -> list[str]:
    names = []
    at = 0
    while table[at]:
        end = table.index(b"\0", at)
        (kind,) = struct.unpack_from("<i", table, end + 1)
        if kind != 2:
            raise ValueError("an OpenEXR file with channels that are not 32-bit floats")
        names.append(table[at:end].decode())
        at = end + 17
    return names
