"""Renders what is missing of a data set with worker processes. This process never imports Blender."""

from __future__ import annotations

import fcntl
import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from data_gen.check import check_environment
from data_gen.errors import DataGenError, disk_full
from data_gen.shards import Split
from data_gen.spec import RenderConfig, check_config, config_to_dict

LOCK = ".render.lock"
_TEMPORARY = "lightning-tl-render-"


@dataclass(frozen=True)
class RenderSummary:
    """What :func:`render` did.

    Attributes:
        images: images that are there now, by split (whole shards, so perhaps more than asked for).
        rendered: images rendered by this call; 0 where all were there and only their hashes were verified.
        seconds: duration of the call.
    """

    images: dict[str, int]
    rendered: int
    seconds: float


@dataclass(frozen=True)
class _Task:
    split: Split
    shard: int

    def __str__(self) -> str:
        scenes = self.split.scenes(self.shard)
        return f"scenes {scenes.start} to {scenes.stop - 1} of {self.split.folder.name}"


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    stderr: IO[bytes]
    task: _Task | None = None
    ready: bool = False
    scenes: int = 0
    in_shard: int = 0
    buffer: bytes = b""
    failed: str = ""

    def tail(self) -> str:
        """Return the last lines that the process wrote to its standard error."""
        self.stderr.seek(0)
        return self.stderr.read().decode(errors="replace")[-1500:].strip()


def render(
    config: RenderConfig,
    out: Path,
    images: int,
    val_images: int = 0,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    recycle_scenes: int = 2000,
) -> RenderSummary:
    """Render a data set, or what is missing of it; verify the hashes of what is there.

    The bytes depend on the configuration alone: not on the number of workers, nor on interruptions. Whole shards are
    rendered, so ``images`` is rounded up to a multiple of ``scenes_per_shard × views``.

    Args:
        config: what to render.
        out: folder; gets ``train/`` and ``val/``.
        images: training images, 1 or more.
        val_images: validation images, 0 or more.
        workers: processes, of one thread each.
        progress: called with (images done, images in all) at the start and as scenes finish.
        recycle_scenes: a worker is replaced by a fresh one after about so many scenes, so that memory stays flat.

    Raises:
        DataGenError: anything wrong with the arguments, the folder, the machine or a scene, in one message.
        KeyboardInterrupt: on Ctrl-C, with all workers ended; what is finished is kept.
    """
    started = time.monotonic()
    check_config(config)
    for name, value, least in (("images", images, 1), ("val_images", val_images, 0), ("workers", workers, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise DataGenError(f"'{name}' must be a whole number of at least {least}, not {value!r}")
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataGenError(f"cannot make the output folder {out}: {error.strerror}") from None
    with _locked(out):
        splits = [Split(out / "train", config, images)]
        if val_images:
            splits.append(Split(out / "val", config, val_images))
        tasks = [_Task(split, shard) for split in splits for shard in split.missing]
        rendered = sum(task.split.per_shard for task in tasks)
        farm = _Farm(config, splits, tasks, workers, progress, recycle_scenes)
        farm.report()
        if tasks:
            check_environment()
            with _temporary(config, workers) as temporary:
                farm.run(temporary)
        for split in splits:
            split.write_manifest()
    return RenderSummary({s.folder.name: s.images_done for s in splits}, rendered, time.monotonic() - started)


@dataclass
class _Farm:
    config: RenderConfig
    splits: list[Split]
    tasks: list[_Task]
    count: int
    progress: Callable[[int, int], None] | None
    recycle_scenes: int
    workers: list[_Worker] = field(default_factory=list)
    failures: dict[_Task, int] = field(default_factory=dict)

    def report(self) -> None:
        if self.progress is not None:
            done = sum(s.images_done for s in self.splits)
            done += sum(w.in_shard for w in self.workers) * self.config.camera.views
            self.progress(done, sum(s.wanted * s.per_shard for s in self.splits))

    def run(self, temporary: Path) -> None:
        """Keep the workers busy until no task is left.

        All in one thread, because Linux ends a worker as soon as the thread that began it has ended.
        """
        waiting = deque(self.tasks)
        with selectors.DefaultSelector() as selector:
            try:
                while waiting or any(w.task for w in self.workers):
                    busy = sum(w.task is not None for w in self.workers)
                    while len(self.workers) < min(self.count, len(waiting) + busy):
                        worker = self._start(temporary)
                        self.workers.append(worker)
                        selector.register(_stdout(worker), selectors.EVENT_READ, worker)
                    for worker in self.workers:
                        if worker.ready and worker.task is None and waiting:
                            self._give(worker, waiting.popleft())
                    for key, _ in selector.select(timeout=1.0):
                        self._read(key.data)
                    for worker in list(self.workers):
                        old = worker.ready and worker.task is None and worker.scenes >= self.recycle_scenes
                        if worker.failed or old:
                            selector.unregister(_stdout(worker))
                            self.workers.remove(worker)
                            _end(worker)
                        if worker.failed:
                            self._failed(worker, waiting)
            finally:
                for worker in self.workers:
                    _end(worker)
                self.workers.clear()
                for split in self.splits:
                    split.clear()

    def _start(self, temporary: Path) -> _Worker:
        stderr = tempfile.TemporaryFile(dir=temporary)  # noqa: SIM115 (it lives as long as the worker)
        environment = dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
        root = str(Path(__file__).resolve().parent.parent)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
        process = subprocess.Popen(
            worker_command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=environment
        )
        worker = _Worker(process, stderr)
        self._tell(worker, {"config": config_to_dict(self.config), "temporary": str(temporary), "parent": os.getpid()})
        return worker

    def _give(self, worker: _Worker, task: _Task) -> None:
        worker.task, worker.in_shard = task, 0
        path = str(task.split.shard_path(task.shard).absolute())
        self._tell(worker, {"split": task.split.folder.name, "shard": task.shard, "path": path})

    def _tell(self, worker: _Worker, message: dict[str, Any]) -> None:
        try:
            if worker.process.stdin is not None:
                worker.process.stdin.write(json.dumps(message).encode() + b"\n")
                worker.process.stdin.flush()
        except BrokenPipeError:
            worker.failed = "it ended"

    def _read(self, worker: _Worker) -> None:
        data = os.read(_stdout(worker).fileno(), 1 << 16)
        if not data:
            worker.process.wait()
            worker.failed = worker.failed or f"it ended with code {worker.process.returncode}"
            return
        *lines, worker.buffer = (worker.buffer + data).split(b"\n")
        for line in lines:
            self._hear(worker, json.loads(line))

    def _hear(self, worker: _Worker, message: dict[str, Any]) -> None:
        task = worker.task
        if "error" in message:
            if message["error"] == "user":
                raise DataGenError(message["message"])
            if message["error"] == "import":
                raise DataGenError(f"Blender cannot be imported: {message['message']}; try `python -m data_gen.check`")
            worker.failed = message["message"]
        elif "ready" in message:
            for split in self.splits:
                split.set_software(message["ready"])
            worker.ready = True
        elif "scene" in message:
            worker.scenes += 1
            worker.in_shard += 1
            self.report()
        elif task is not None:
            worker.task, worker.in_shard = None, 0
            task.split.finish(task.shard, message["sha256"])

    def _failed(self, worker: _Worker, waiting: deque[_Task]) -> None:
        """Give a dead worker's shard to another, once."""
        task = worker.task
        reason = f"{worker.failed}. The end of its messages:\n{worker.tail() or '(none)'}"
        if task is None:
            raise DataGenError(f"a render worker died before it began: {reason}")
        self.failures[task] = self.failures.get(task, 0) + 1
        if self.failures[task] > 1:
            scene = task.split.scenes(task.shard).start + worker.in_shard
            raise DataGenError(
                f"scene {scene} of {task.split.folder.name} (seed {self.config.seed}) cannot be rendered: two workers "
                f"failed at {task}; the last: {reason}"
            )
        waiting.appendleft(task)


def worker_command() -> list[str]:
    """Return the command that starts a worker."""
    return [sys.executable, "-m", "data_gen.worker"]


def _stdout(worker: _Worker) -> IO[bytes]:
    if worker.process.stdout is None:
        raise RuntimeError("a worker without a pipe")
    return worker.process.stdout


def _end(worker: _Worker) -> None:
    """End a worker at once (what it has not finished is of no use) and close its pipes."""
    worker.process.kill()
    worker.process.wait()
    for pipe in (worker.process.stdin, worker.process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()


@contextmanager
def _locked(out: Path) -> Iterator[None]:
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
def _temporary(config: RenderConfig, workers: int) -> Iterator[Path]:
    """Make a folder for the passes in flight, in memory where there is room, and take away those of dead processes."""
    # each view: colour, normals, index, depth (nine channels, four bytes) in files that are deleted as they are read
    needed = workers * config.camera.views * config.image.size**2 * 9 * 4 + workers * (4 << 20)
    places = [Path("/dev/shm"), Path(tempfile.gettempdir())]
    for place in places:
        if not (place.is_dir() and os.access(place, os.W_OK)):
            continue
        for old in place.glob(f"{_TEMPORARY}*-*"):
            if not _alive(old.name.removeprefix(_TEMPORARY).split("-")[0]):
                shutil.rmtree(old, ignore_errors=True)
        if shutil.disk_usage(place).free > 2 * needed:
            folder = Path(tempfile.mkdtemp(prefix=f"{_TEMPORARY}{os.getpid()}-", dir=place))
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            return
    raise disk_full(places[-1] / _TEMPORARY, 2 * needed)


def _alive(process_id: str) -> bool:
    try:
        os.kill(int(process_id), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
