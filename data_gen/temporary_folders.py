"""The folders of a run: the output, held by one process at a time, and places for what is in flight."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_gen.errors import DataGenError, disk_full
from data_gen.render_config import RenderConfig

LOCK = ".render.lock"
_TEMPORARY = "lightning-tl-render-"


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the folder for this process; the lock goes with the process, however it ends."""
    with (out / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise DataGenError(
                f"another process (id {owner}) is rendering into {out}: wait for it, end it, or choose another folder"
            ) from None
        file.seek(0)
        file.truncate()
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


@contextmanager
def temporary(config: RenderConfig, workers: int) -> Iterator[Path]:
    """Make a folder for the passes in flight, in memory where there is room, and take away those of dead processes."""
    # each view: colour, normals, index, depth (nine channels, four bytes) in files that are deleted as they are read
    needed = workers * config.camera.views * config.image.shape[0] * config.image.shape[1] * 9 * 4 + workers * (4 << 20)
    places = [Path("/dev/shm"), Path(tempfile.gettempdir())]
    for place in places:
        if not (place.is_dir() and os.access(place, os.W_OK)):
            continue
        _clear(place)
        if shutil.disk_usage(place).free > 2 * needed:
            with _made(place) as folder:
                yield folder
            return
    raise disk_full(places[-1] / _TEMPORARY, 2 * needed)


@contextmanager
def staging() -> Iterator[Path]:
    """Make a folder on the disk for shards on their way to a store, and take away those of dead processes."""
    place = Path(tempfile.gettempdir())
    _clear(place)
    with _made(place) as folder:
        yield folder


def _clear(place: Path) -> None:
    for old in place.glob(f"{_TEMPORARY}*-*"):
        if not _alive(old.name.removeprefix(_TEMPORARY).split("-")[0]):
            shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _made(place: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=f"{_TEMPORARY}{os.getpid()}-", dir=place))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _alive(process_id: str) -> bool:
    try:
        os.kill(int(process_id), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
