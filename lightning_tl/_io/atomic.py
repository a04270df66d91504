"""Files that are there whole or not at all: written beside their place, then renamed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, sync: bool = False) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; when the block ends it is renamed to ``path``.

    Where the block raises, the new file is deleted and ``path`` stays what it was.

    Args:
        path: the file to make or replace; its folder must exist.
        sync: flush the file to the disk before it is renamed, so that it is whole after a power cut too, not only after
            the process is killed.

    Raises:
        OSError: with ``path`` as its file name.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield beside
        if sync:
            sync_to_disk(beside)
        beside.replace(path)
    except BaseException as error:
        beside.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(beside)):
            error.filename = str(path)
        raise


def write_atomically(path: Path, content: str | bytes, sync: bool = False) -> None:
    """Write a file in one step; missing folders are made.

    Args:
        path: the file to make or replace.
        content: all of it; text is written as UTF-8, line ends as they are.
        sync: as of :func:`replacing`.

    Raises:
        OSError: with ``path`` as its file name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, sync) as beside:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)


def remove_leftovers(folder: Path) -> None:
    """Delete what killed processes left half written in a folder and the folders in it.

    Only while no other process writes there.
    """
    for path in folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def sync_to_disk(path: Path) -> None:
    """Flush a file, or a folder's list of files, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
