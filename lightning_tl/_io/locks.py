"""Locks between processes: files that the operating system unlocks when their process ends or is killed.

Lock files are not deleted: deleting one while others wait for it would let two processes hold it at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Hold a lock, unless another process holds it; this process's id is written into the file.

    Args:
        path: the lock file; its folder must exist.

    Yields:
        Whether the lock is held.
    """
    import filelock  # takes a twentieth of a second

    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        yield False
        return
    try:
        if not isinstance(lock, filelock.SoftFileLock):  # which writes into the file itself
            with suppress(OSError):  # it only informs
                path.write_text(f"{os.getpid()}\n")
        yield True
    finally:
        lock.release()


def lock_owner(path: Path) -> str:
    """Return the id of the process that holds a lock, or held it last; ``unknown`` if the file does not say."""
    try:
        return path.read_text().strip() or "unknown"
    except (OSError, UnicodeDecodeError):
        return "unknown"


@contextmanager
def waiting_lock(path: Path) -> Iterator[None]:
    """Hold a lock, waiting while another process holds it.

    Args:
        path: the lock file; its folder must exist.
    """
    import filelock

    lock = filelock.FileLock(path)
    with lock:
        if not isinstance(lock, filelock.SoftFileLock):
            with suppress(OSError):
                path.write_text(f"{os.getpid()}\n")
        yield
