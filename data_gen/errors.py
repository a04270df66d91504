"""The exception that bad input raises in ``data_gen``, and what its messages share."""

from __future__ import annotations

import difflib
import errno
import shutil
from collections.abc import Iterable
from pathlib import Path


class DataGenError(ValueError):
    """Something the user gave, or the machine they use, is wrong: the message says what, where, and how to mend it.

    The command line prints the message alone; from Python it is an ordinary ``ValueError``.
    """


class StoreError(DataGenError):
    """A store cannot be used or reached, which may pass."""


def nearest(name: object, valid: Iterable[object]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest valid name, or the list of valid names where none is close."""
    names = sorted(filter(None, map(str, valid)))
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else f"; valid: {', '.join(names)}"


def is_disk_full(error: OSError) -> bool:
    """Tell whether an ``OSError`` means that there is no room left (a full disk or a spent quota)."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def disk_full(path: Path, needed_bytes: int) -> DataGenError:
    """Make the error for a write that found no room.

    Args:
        path: the file that could not be written.
        needed_bytes: how many bytes it needs.
    """
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return DataGenError(
        f"the disk is full: writing {path} needs about {_mib(needed_bytes)}, {_mib(free)} are free under {folder}. "
        "Free some space or choose another output folder, then run the same command again: what is finished is kept."
    )


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
