"""A study's runs on a store that fsspec reaches, for nodes that share no folder.

Every node works in a folder on its own disk, with the same path as the study's. A node downloads a run's folder when it
starts or resumes the run, and uploads changed files while it trains, checkpoints first.
"""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lightning_tl._io.atomic import replacing, write_atomically
from lightning_tl._io.files import is_inside
from lightning_tl._io.json_text import parse_json
from lightning_tl._io.stores import delete, download, file_system, put, read_url, store_errors
from lightning_tl.errors import StoreError, UserError, disk_full, is_disk_full, shortened
from lightning_tl.study.plan_items import DataSet
from lightning_tl.study.records import load_json, read_state, write_json
from lightning_tl.study.runs import Call, Outcome, do_locked, locked
from lightning_tl.study.shapes import RunRecord, RunState, Shards, problem

_SHARE = 0.05  # largest share of a run's time that uploads may take while it trains
_AT_ONCE = 16
_CHECKPOINTS = "checkpoints/"
# These files refer to others, so they are uploaded last.
_LAST = ("checkpoints/last.ckpt", "state.json", "record.json")


class Mirror:
    """A folder and its copy on a store.

    Args:
        url: URL of the copy.
        folder: The folder on this machine.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self._known: dict[str, tuple[int, int]] = {}
        self._next = 0.0

    def fetch(self, checkpoints: bool = True) -> None:
        """Download all files from the store.

        Args:
            checkpoints: Whether to download checkpoints too.

        Raises:
            StoreError: The store cannot be reached, or refuses.
        """
        system, root = file_system(self.url)
        with store_errors(self.url):
            system.invalidate_cache()
            names = [str(path)[len(root) :].lstrip("/") for path in system.find(root)]
        if outside := [name for name in names if not is_inside(name)]:
            raise UserError(f"{self.url}: a file is called '{shortened(outside[0])}', which leads out of the folder")
        for name in _in_order(names):
            if name.rsplit("/", 1)[-1].startswith("."):  # a put that is under way, or was killed
                continue
            if checkpoints or not name.startswith(_CHECKPOINTS):
                self._get(name)

    def _get(self, name: str) -> None:
        url, path = f"{self.url}/{name}", self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside:
            download(url, beside)
        self._known[name] = _stamp(path)

    def put(self) -> None:
        """Upload files that changed since the last transfer; delete from the store what was deleted here.

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
        """Upload changed files, unless uploads would take more than a small share of the time."""
        if time.monotonic() >= self._next:
            self.put()


def _in_order(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: (_LAST.index(name) if name in _LAST else -1, name))


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def do_stored(call: Call) -> Outcome:
    """Do a run as ``do_run`` does, starting from the store's files, and upload the result.

    Args:
        call: The run; it must have a store.
    """
    folder = Path(call.folder)
    try:
        with locked(call) as acquired:
            return _do_stored(call, folder) if acquired else Outcome(call.name)
    except StoreError as error:
        return Outcome(call.name, error=str(error))
    except OSError as error:
        place = f"{error.filename or folder} on {socket.gethostname()}"
        message = disk_full(error.filename) if is_disk_full(error) else f"{place}: {error.strerror}"
        hint = "choose by --out a folder that every node can create and that has free space"
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
        shutil.rmtree(
            folder / _CHECKPOINTS, ignore_errors=True
        )  # no run starts from a fine-tuning, and there may be thousands
    return outcome


def _has_checkpoint(run: Path) -> bool:
    """Return whether a finished run's checkpoint is here; the study's own machine may have only its record."""
    checkpoint = str(load_json(run / "record.json", missing={}, shape=RunRecord).get("checkpoint", ""))
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
    """Download an ended run from the store into the study's folder.

    Args:
        store: URL of the study.
        out: The study's folder.
        name: Name of the run.
        checkpoints: Whether to download checkpoints too.

    Raises:
        StoreError: The store cannot be reached, or refuses.
    """
    Mirror(f"{store}/runs/{name}", out / "runs" / name).fetch(checkpoints)


def fetch_targets(store: str, out: Path) -> None:
    """Download the pictures of the target images.

    Raises:
        StoreError: The store cannot be reached, or refuses.
    """
    Mirror(f"{store}/targets", out / "targets").fetch()


def fetch_renders(store: str, out: Path, sets: Iterable[DataSet]) -> None:
    """Download the manifests of the complete data sets; the keys of runs depend on them.

    Raises:
        StoreError: The store cannot be reached, or refuses.
    """
    for data in sets:
        for split, wanted in (("train", data.images), ("val", data.val_images)):
            path = Path("renders", data.name, split, "manifest.json")
            manifest = _read(f"{store}/{path.as_posix()}")
            if manifest and (wrong := problem(manifest, Shards)):
                raise UserError(f"{store}/{path.as_posix()}: damaged ({wrong}): delete it and render again")
            if manifest and sum(shard["images"] for shard in manifest["shards"]) >= wanted:
                write_json(out / path, manifest)


def fetch_runs(store: str, out: Path, names: Iterable[str]) -> None:
    """Download the files, without checkpoints, of ended runs that have no record here; of running ones only the state.

    Raises:
        StoreError: The store cannot be reached, or refuses.
    """
    missing = [name for name in names if not (out / "runs" / name / "record.json").is_file()]
    there = _begun(store)

    def fetch(name: str) -> None:
        if _read(f"{store}/runs/{name}/record.json"):
            fetch_run(store, out, name)
            return
        # the run may be in progress in this very folder, so its other files are not touched
        state = _read(f"{store}/runs/{name}/state.json")
        if state and not problem(state, RunState) and state["time"] > read_state(out / "runs" / name).get("time", 0):
            write_json(out / "runs" / name / "state.json", state, sync=False)

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
    """Return the content of a JSON file on the store; an empty dict where there is none."""
    try:
        content = parse_json(read_url(url) or b"{}")
    except ValueError as error:
        raise UserError(f"{url}: damaged ({error}): delete it, and run the same command again") from error
    if not isinstance(content, dict):
        raise UserError(f"{url}: damaged (not a JSON object): delete it, and run the same command again")
    return content
