"""Temporary folders of a render: in memory for render passes, on the disk for shards before upload."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_gen.render_config import RenderConfig
from lightning_tl._io.processes import is_alive
from lightning_tl.errors import UserError, disk_full

_PREFIX = "lightning-tl-render-"


@contextmanager
def temporary(config: RenderConfig, workers: int) -> Iterator[Path]:
    """Make a folder for render passes, in memory if there is room, and delete those of dead processes."""
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
    raise UserError(disk_full(places[-1] / _PREFIX, 2 * needed))


@contextmanager
def staging() -> Iterator[Path]:
    """Make a folder on the disk for shards before upload, and delete those of dead processes."""
    place = Path(tempfile.gettempdir())
    _clear(place)
    with _made(place) as folder:
        yield folder


def _clear(place: Path) -> None:
    for old in place.glob(f"{_PREFIX}*-*"):
        process_id = old.name.removeprefix(_PREFIX).split("-")[0]
        if not (process_id.isdecimal() and is_alive(int(process_id))):
            shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _made(place: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=place))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
