"""Chunks of sources: what a build reads at a time, and does again where it was interrupted.

Which chunks a source has follows from the names, sizes and times of its files, so that finished ones are recognised.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from lightning_tl._io.json_text import parse_json
from lightning_tl.errors import UserError, one_line, shortened

CHUNK_BYTES = 16 << 20
#: A file that is one document must be read at once.
_LARGEST_DOCUMENT = 256 << 20
_BLOCK = 1 << 20


class Document(NamedTuple):
    """A text and where it was found, for messages."""

    text: str
    where: str


@dataclass(frozen=True)
class Chunk(ABC):
    """Part of a source.

    Attributes:
        source: The source's name, as the user gave it.
        identity: Says of which bytes it consists and how they are read: two chunks of one identity have the same
            documents.
        size: Bytes to read.
    """

    source: str
    identity: str
    size: int

    @property
    def reading(self) -> dict[str, str]:
        """The user's options that say how the source is read: ``key`` or ``delimiter``."""
        return {}

    @abstractmethod
    def documents(self) -> Iterator[Document]:
        """Yield the documents.

        Raises:
            UserError: One cannot be read.
        """


@dataclass(frozen=True)
class FileGroup(Chunk):
    """Small text files, each of them one document.

    Attributes:
        files: The files.
        skip_binary: Leave out files that are not UTF-8, instead of raising.
        convert: Applied to each text.
    """

    files: tuple[Path, ...]
    skip_binary: bool = False
    convert: Callable[[str], str] = str

    def documents(self) -> Iterator[Document]:
        """Yield the files' texts."""
        for path in self.files:
            try:
                text = _decoded(path.read_bytes(), str(path))
            except UserError:
                if self.skip_binary:
                    continue
                raise
            yield Document(self.convert(text), str(path))


def file_groups(
    source: str, files: Sequence[Path], skip_binary: bool = False, convert: Callable[[str], str] = str, kind: str = ""
) -> list[Chunk]:
    """Return the chunks of files that are one document each.

    Args:
        source: The source's name.
        files: The files.
        skip_binary: As for :class:`FileGroup`.
        convert: As for :class:`FileGroup`.
        kind: Names ``convert``, for the chunk's identity.

    Raises:
        UserError: A file is too large to be one document.
    """
    chunks: list[Chunk] = []
    group: list[Path] = []
    stamps: list[tuple[str, int, int]] = []
    size = 0
    for place, path in enumerate(files):
        status = path.stat()
        if status.st_size > _LARGEST_DOCUMENT:
            raise UserError(
                f"{path}: {status.st_size >> 20} MiB are too many for one document; say where its documents end by "
                "--delimiter, such as '\\n\\n'"
            )
        group.append(path)
        stamps.append((os.path.abspath(path), status.st_size, status.st_mtime_ns))
        size += status.st_size
        if size >= CHUNK_BYTES or place == len(files) - 1:
            identity = json.dumps(["files", kind, skip_binary, stamps])
            chunks.append(FileGroup(source, identity, size, tuple(group), skip_binary, convert))
            group, stamps, size = [], [], 0
    return chunks


@dataclass(frozen=True)
class FileRange(Chunk):
    """Bytes of a file that holds many documents; begins and ends between two of them.

    Attributes:
        path: The file.
        begin: The first byte.
        delimiter: What ends a document.
        key: For JSONL, the key of the text; ``None``: the text itself.
    """

    path: Path
    begin: int
    delimiter: bytes
    key: str | None

    @property
    def reading(self) -> dict[str, str]:
        """The key of the text, or the delimiter."""
        return {"delimiter": self.delimiter.decode()} if self.key is None else {"key": self.key}

    def documents(self) -> Iterator[Document]:
        """Yield the documents."""
        with self.path.open("rb") as file:
            file.seek(self.begin)
            content = file.read(self.size)
        at = self.begin
        for number, piece in enumerate(content.split(self.delimiter)):
            if piece.strip():
                text = _decoded(piece, str(self.path), at) if self.key is None else self._value(piece, number, self.key)
                yield Document(text, f"{self.path}, the document at byte {at}")
            at += len(piece) + len(self.delimiter)

    def _value(self, line: bytes, number: int, key: str) -> str:
        try:
            row = parse_json(line.removeprefix(b"\xef\xbb\xbf"))
        except ValueError as error:
            raise self._error(number, f"not JSON ({shortened(one_line(error))}); correct or delete the line") from None
        if not isinstance(row, dict):
            raise self._error(number, 'not a JSON object; each line must be one, such as {"text": "…"}')
        if key not in row:
            raise self._error(number, f"no key '{key}'; choose the key of the text by --key (there: {', '.join(row)})")
        if not isinstance(row[key], str):
            raise self._error(
                number, f"'{key}' is not a text but {shortened(json.dumps(row[key]), 40)}; correct or delete the line"
            )
        return str(row[key])

    def _error(self, number: int, reason: str) -> UserError:
        before = 0
        with self.path.open("rb") as file:
            left = self.begin
            while left and (block := file.read(min(left, _BLOCK))):
                before += block.count(b"\n")
                left -= len(block)
        return UserError(f"{self.path}, line {before + number + 1}: {reason}")


def file_ranges(source: str, path: Path, delimiter: bytes, key: str | None = None) -> list[Chunk]:
    """Return the chunks of a file that holds many documents.

    Args:
        source: The source's name.
        path: The file.
        delimiter: What ends a document.
        key: For JSONL, the key of the text.

    Raises:
        UserError: A document is too large.
    """
    status = path.stat()
    chunks: list[Chunk] = []
    begin = 0
    with path.open("rb") as file:
        while begin < status.st_size:
            end = _next_document(file, min(begin + CHUNK_BYTES, status.st_size), delimiter, status.st_size)
            if end - begin > _LARGEST_DOCUMENT:
                raise UserError(
                    f"{path}: no {delimiter.decode()!r} in {(end - begin) >> 20} MiB after byte {begin}; a document "
                    f"has at most {_LARGEST_DOCUMENT >> 20} MiB"
                )
            stamp = [str(path.absolute()), status.st_size, status.st_mtime_ns, begin, end, delimiter.decode(), key]
            chunks.append(FileRange(source, json.dumps(["range", *stamp]), end - begin, path, begin, delimiter, key))
            begin = end
    return chunks


def _next_document(file: BinaryIO, position: int, delimiter: bytes, size: int) -> int:
    """Return where the first document after a position begins; the file's size if there is none."""
    file.seek(position)
    kept = b""  # the end of the block before, which may hold the beginning of a delimiter
    while block := file.read(_BLOCK):
        window = kept + block
        if (found := window.find(delimiter)) >= 0:
            return position - len(kept) + found + len(delimiter)
        position += len(block)
        kept = window[len(window) - len(delimiter) + 1 :]
    return size


def _decoded(content: bytes, where: str, offset: int = 0) -> str:
    """Return the text of bytes, without a byte order mark.

    Raises:
        UserError: They are not UTF-8, or contain the null character, as binary files do.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: byte {offset + error.start} is not UTF-8; convert the file (iconv -t UTF-8), or choose the text "
            "files of a folder by --pattern, such as '*.txt'"
        ) from None
    if "\0" in text:
        raise UserError(
            f"{where}: contains the null character, as binary files do; choose the text files of a folder by "
            "--pattern, such as '*.txt'"
        )
    return text
