"""Atomic writing: to a temporary file in the same folder, which is then renamed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, sync: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; when the block ends, it is renamed to ``path``.

    If the block raises, the temporary file is deleted and ``path`` is unchanged.

    Args:
        path: the file to make or replace; its folder must exist.
        sync: flush the file to the disk before it is renamed, so that it is also complete after a power failure, not
            only after a kill of the process.

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
    """Write a file atomically; missing folders are made.

    Args:
        path: the file to make or replace.
        content: bytes, or text, which is written as UTF-8 with unchanged line ends.
        sync: as for :func:`replacing`.

    Raises:
        OSError: with ``path`` as its file name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, sync) as beside:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files of killed processes in a folder and its sub-folders.

    Call it only while no other process writes there.
    """
    for path in folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def sync_to_disk(path: Path) -> None:
    """Flush a file, or a folder's list of files, to the disk; Windows cannot be asked to."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
