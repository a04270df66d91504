"""Part files: tokenized documents of a chunk, in the order of their hashes, so that a range of hashes is one slice."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lightning_tl._io.atomic import replacing

_HEADER = struct.Struct("<8sQQ")
_MAGIC = b"tlpart01"
_HASH = 32  # bytes of a SHA-256


@dataclass
class PartBuffer:
    """Documents that wait to be written.

    Attributes:
        dtype: Type of an id.
        separator: Id that follows each document.
        hashes: SHA-256 of each text.
        ids: Ids of each text, without the separator.
        sizes: Bytes of UTF-8 of each text.
        tokens: Ids in all, the separators included.
    """

    dtype: np.dtype[Any]
    separator: int
    hashes: list[bytes] = field(default_factory=list)
    ids: list[np.ndarray] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    tokens: int = 0

    def add(self, digest: bytes, ids: np.ndarray, size: int) -> None:
        """Add a document."""
        self.hashes.append(digest)
        self.ids.append(ids)
        self.sizes.append(size)
        self.tokens += len(ids) + 1

    def write(self, path: Path) -> None:
        """Write the documents atomically, and forget them."""
        order = sorted(range(len(self.hashes)), key=self.hashes.__getitem__)
        with replacing(path, sync=True) as beside, beside.open("wb") as file:
            file.write(_HEADER.pack(_MAGIC, len(order), self.tokens))
            file.write(b"".join(self.hashes[number] for number in order))
            file.write(np.array([len(self.ids[number]) + 1 for number in order], "<u8").tobytes())
            file.write(np.array([self.sizes[number] for number in order], "<u8").tobytes())
            separator = np.array([self.separator], self.dtype).tobytes()
            for number in order:
                file.write(self.ids[number].tobytes() + separator)
        self.hashes.clear()
        self.ids.clear()
        self.sizes.clear()
        self.tokens = 0


@dataclass(frozen=True)
class Documents:
    """Documents of a range of hashes.

    Attributes:
        hashes: uint64 ``[N, 4]``, the SHA-256 as four big-endian numbers.
        lengths: Ids of each, ``[N]``.
        sizes: Bytes of UTF-8 of each, ``[N]``.
        ids: All ids, one document after another.
    """

    hashes: np.ndarray
    lengths: np.ndarray
    sizes: np.ndarray
    ids: np.ndarray


class Part:
    """A part file and where each of equal ranges of hashes begins in it.

    Args:
        path: The file.
        dtype: Type of an id.
        edges: uint64, the first eight bytes of the hash at which each range but the first begins.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any], edges: np.ndarray) -> None:
        self.path, self.dtype = path, dtype
        with path.open("rb") as file:
            _, self.count, self.tokens = _HEADER.unpack(file.read(_HEADER.size))
            first = np.fromfile(file, ">u8", self.count * 4)[::4]
            lengths = np.fromfile(file, "<u8", self.count)
        self._documents = np.array([0, *np.searchsorted(first, edges), self.count], np.int64)
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
        self._tokens = before[self._documents]

    def read(self, number: int) -> Documents:
        """Return the documents of a range of hashes."""
        begin, end = (int(each) for each in self._documents[number : number + 2])
        from_token, to_token = (int(each) for each in self._tokens[number : number + 2])
        with self.path.open("rb") as file:

            def values(dtype: np.dtype[Any] | str, offset: int, count: int) -> np.ndarray:
                file.seek(offset)
                return np.fromfile(file, dtype, count)

            hashes = _HEADER.size
            lengths = hashes + _HASH * self.count
            sizes = lengths + 8 * self.count
            ids = sizes + 8 * self.count
            return Documents(
                values(">u8", hashes + _HASH * begin, 4 * (end - begin)).reshape(-1, 4),
                values("<u8", lengths + 8 * begin, end - begin),
                values("<u8", sizes + 8 * begin, end - begin),
                values(self.dtype, ids + self.dtype.itemsize * from_token, to_token - from_token),
            )


def joined(parts: list[Documents]) -> Documents:
    """Return the documents of several parts, in the order of their hashes' parts."""
    return Documents(*(np.concatenate([getattr(each, name) for each in parts]) for name in Documents.__annotations__))
