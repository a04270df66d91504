"""A study's runs on a store that fsspec reaches, for nodes that share no folder.

Every node works in a folder of its own disk, of the same path as the study's. A run's folder is fetched when a node
takes the run up, and what changed in it is put back while it trains, checkpoints first.
"""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lightning_tl._io.atomic import replacing, write_atomically
from lightning_tl._io.stores import delete, download, file_system, put, read_url, store_errors
from lightning_tl.errors import StoreError, disk_full, is_disk_full
from lightning_tl.study.plan import DataSet
from lightning_tl.study.records import load_json, write_json
from lightning_tl.study.runs import Call, Outcome, do_locked, locked

_SHARE = 0.05  # of a run's time, that putting may take while it trains
_AT_ONCE = 16
_CHECKPOINTS = "checkpoints/"
# What a file is taken for that is there: it must not come before what it speaks of.
_LAST = ("checkpoints/last.ckpt", "state.json", "record.json")


class Mirror:
    """A folder and its copy on a store.

    Args:
        url: Of the copy.
        folder: On this machine.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self._known: dict[str, tuple[int, int]] = {}
        self._next = 0.0

    def fetch(self, checkpoints: bool = True) -> None:
        """Replace files of the folder by the store's.

        Args:
            checkpoints: These too.

        Raises:
            StoreError: The store cannot be reached, or refuses.
        """
        system, root = file_system(self.url)
        with store_errors(self.url):
            system.invalidate_cache()
            names = [str(path)[len(root) :].lstrip("/") for path in system.find(root)]
        for name in _in_order(names):
            if checkpoints or not name.startswith(_CHECKPOINTS):
                self._get(name)

    def _get(self, name: str) -> None:
        url, path = f"{self.url}/{name}", self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside:
            download(url, beside)
        self._known[name] = _stamp(path)

    def put(self) -> None:
        """Put what has changed since it was fetched or put; delete there what is gone here.

        Raises:
            StoreError: As ``fetch``.
        """
        begun = time.monotonic()
        paths = (path for path in self.folder.rglob("*") if path.is_file() and not path.name.startswith("."))
        names = _in_order(path.relative_to(self.folder).as_posix() for path in paths)
        for name in self._known.keys() - set(names):
            self._delete(name)
        for name in names:
            stamp = _stamp(self.folder / name)
            if self._known.get(name) != stamp:
                put(f"{self.url}/{name}", self.folder / name)
                self._known[name] = stamp
        now = time.monotonic()
        self._next = now + (now - begun) / _SHARE

    def _delete(self, name: str) -> None:
        delete(f"{self.url}/{name}")
        del self._known[name]

    def put_in_time(self) -> None:
        """Put what has changed, if that takes no more than a small share of all time."""
        if time.monotonic() >= self._next:
            self.put()


def _in_order(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: (_LAST.index(name) if name in _LAST else -1, name))


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size


def do_stored(call: Call) -> Outcome:
    """Do a run as ``do_run`` does, from what the store has of it, and leave it there.

    Args:
        call: With a store.
    """
    folder = Path(call.folder)
    try:
        with locked(call) as mine:
            return _do_stored(call, folder) if mine else Outcome(call.name)
    except StoreError as error:
        return Outcome(call.name, error=str(error))
    except OSError as error:
        place = f"{error.filename or folder} on {socket.gethostname()}"
        message = disk_full(error.filename) if is_disk_full(error) else f"{place}: {error.strerror}"
        hint = "give by --out a folder that every node can make and has room in"
        return Outcome(call.name, error=f"{message}; {hint}", again=False)


def _do_stored(call: Call, folder: Path) -> Outcome:
    _write_configs(call)
    if call.start is not None and not _has_checkpoint(Path(call.start)):
        start = Path(call.start)
        Mirror(f"{call.store}/runs/{start.name}", start).fetch()
    shutil.rmtree(folder, ignore_errors=True)
    mirror = Mirror(f"{call.store}/runs/{call.name}", folder)
    mirror.fetch()
    outcome = do_locked(call, mirror.put_in_time)
    mirror.put()
    _put_targets(call)
    if outcome.record is not None and call.test:
        shutil.rmtree(folder / _CHECKPOINTS, ignore_errors=True)  # nothing starts from them, and there may be thousands
    return outcome


def _has_checkpoint(run: Path) -> bool:
    """Tell whether all of a finished run is here; the study's own machine may have only its record."""
    checkpoint = str(load_json(run / "record.json", missing={}).get("checkpoint", ""))
    return checkpoint != "" and (run / checkpoint).is_file()


def _write_configs(call: Call) -> None:
    for path, text in call.configs:
        if not Path(path).is_file():
            write_atomically(Path(path), text)


def _put_targets(call: Call) -> None:
    url = f"{call.store}/targets"
    system, root = file_system(url)
    for path in Path(call.targets).glob("[!.]*.png"):
        with store_errors(url):
            known = system.exists(f"{root}/{path.name}")
        if not known:
            put(f"{url}/{path.name}", path)


def fetch_run(store: str, out: Path, name: str, checkpoints: bool = False) -> None:
    """Bring a run that has ended from the store into the study's folder.

    Args:
        store: URL of the study.
        out: The study's folder.
        name: Of the run.
        checkpoints: These too.

    Raises:
        StoreError: The store cannot be reached, or refuses.
    """
    Mirror(f"{store}/runs/{name}", out / "runs" / name).fetch(checkpoints)


def fetch_targets(store: str, out: Path) -> None:
    """Bring the pictures of what fine-tuning sees.

    Raises:
        StoreError: The store cannot be reached, or refuses.
    """
    Mirror(f"{store}/targets", out / "targets").fetch()


def fetch_renders(store: str, out: Path, sets: Iterable[DataSet]) -> None:
    """Bring the manifests, by which runs are told apart, of those data sets that are whole.

    Raises:
        StoreError: The store cannot be reached, or refuses.
    """
    for each in sets:
        for split, wanted in (("train", each.images), ("val", each.val_images)):
            path = Path("renders", each.name, split, "manifest.json")
            found = _read(f"{store}/{path.as_posix()}")
            if found and sum(shard["images"] for shard in found["shards"]) >= wanted:
                write_json(out / path, found)


def fetch_runs(store: str, out: Path, names: Iterable[str]) -> None:
    """Bring what the store has, but for checkpoints, of runs without a record here; of those that go on, their state.

    Raises:
        StoreError: The store cannot be reached, or refuses.
    """
    missing = [name for name in names if not (out / "runs" / name / "record.json").is_file()]
    there = _begun(store)

    def fetch(name: str) -> None:
        if _read(f"{store}/runs/{name}/record.json"):
            fetch_run(store, out, name)
            return
        path = out / "runs" / name / "state.json"  # all else belongs to the run, which may go on in this very folder
        state = _read(f"{store}/runs/{name}/state.json")
        if state and state.get("time", 0) > load_json(path, missing={}).get("time", 0):
            write_json(path, state, sync=False)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(fetch, [name for name in missing if name in there]))


def _begun(store: str) -> set[str]:
    system, root = file_system(f"{store}/runs")
    with store_errors(store):
        system.invalidate_cache()
        try:
            return {str(path).rstrip("/").rsplit("/", 1)[-1] for path in system.ls(root, detail=False)}
        except FileNotFoundError:
            return set()


def _read(url: str) -> dict[str, Any]:
    """Return what a JSON file on the store holds; nothing where there is none."""
    return dict(json.loads(read_url(url) or b"{}"))
