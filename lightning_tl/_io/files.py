"""Checks of files and names that come from outside: data sets, archives, tables, stores."""

from __future__ import annotations

import io
import os
import re
import stat
import threading
from pathlib import Path, PurePosixPath

from lightning_tl.errors import UserError

_NAME = re.compile(r"[\w][\w.+\- ]*")
_KINDS = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket"}


def check_regular(path: Path, name: str) -> None:
    """Refuse what is not an ordinary file: reading a pipe or a device could wait, or fill the memory, for ever.

    Args:
        path: the file.
        name: how messages call it.

    Raises:
        UserError: there is no such file, it cannot be reached, or it is a folder, a pipe, a socket or a device.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{name}: no such file") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{name}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if not stat.S_ISREG(mode):
        kind = next((kind for test, kind in _KINDS.items() if test(mode)), "a device")
        raise UserError(f"{name}: {kind}, not a file")


def is_file_name(name: object) -> bool:
    """Return whether a value is a plain name of one file or folder: no path, no link to a parent, no odd characters."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None and len(name.encode()) <= 200


def is_inside(name: object) -> bool:
    """Return whether a relative path stays in its folder: no absolute path, no ``..``, no control characters."""
    if not isinstance(name, str) or not name.isprintable() or not name or "\\" in name:
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and path.parts != ()


_reading = threading.Lock()


def read_at(file: io.FileIO, size: int, offset: int) -> bytes:
    """Return bytes of an open file, whatever position other threads and processes have left it at.

    Args:
        file: The file.
        size: Number of bytes; fewer are returned at its end.
        offset: Where they begin.
    """
    if hasattr(os, "pread"):
        return os.pread(file.fileno(), size, offset)
    with _reading:  # Windows has no pread; its processes do not share positions
        file.seek(offset)
        return file.read(size) or b""
