"""Renders what is missing of a data set with worker processes. This process never imports Blender."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from data_gen.check import check_environment
from data_gen.devices import gpu_of, visible_gpus
from data_gen.errors import DataGenError
from data_gen.folders import locked, temporary
from data_gen.shards import Split
from data_gen.sources import Catalogue, open_catalogue
from data_gen.spec import RenderConfig, check_config, config_to_dict

_MOST_LOST = 20


@dataclass(frozen=True)
class RenderSummary:
    """What :func:`render` did.

    Attributes:
        images: images that are there now, by split (whole shards, so perhaps more than asked for).
        rendered: images rendered by this call; 0 where all were there and only their hashes were verified.
        seconds: duration of the call.
        skipped: scenes that could not be rendered and were left out, by split.
        notes: what the user should know of the sources: what is missing, left out or made smaller.
    """

    images: dict[str, int]
    rendered: int
    seconds: float
    skipped: dict[str, list[int]]
    notes: tuple[str, ...] = ()


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
    scene: int = 0
    slot: int = 0
    memory: int = 0
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
    recycle_mib: int = 4096,
    on_error: Literal["continue", "skip"] = "continue",
    say: Callable[[str], None] | None = None,
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
        recycle_mib: and after the shard in which it came to take so much memory.
        on_error: what becomes of a scene that fails twice. ``continue``: all other shards are rendered, then an error
            names it, and its shard is missing. ``skip``: it is left out of its shard and the manifest says so.
        say: called with each of the notes on the sources, before rendering starts.

    Raises:
        DataGenError: anything wrong with the arguments, the folder, the machine or a scene, in one message.
        KeyboardInterrupt: on Ctrl-C, with all workers ended; what is finished is kept.
    """
    started = time.monotonic()
    check_config(config)
    if on_error not in ("continue", "skip"):
        raise DataGenError(f"'on_error' cannot be {on_error!r}; valid: continue, skip")
    for name, value, least in (("images", images, 1), ("val_images", val_images, 0), ("workers", workers, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise DataGenError(f"'{name}' must be a whole number of at least {least}, not {value!r}")
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataGenError(f"cannot make the output folder {out}: {error.strerror}") from None
    with locked(out):
        record = out / "sources.json"
        catalogue = open_catalogue(config, record, _checking(say))
        for note in catalogue.notes:
            if say is not None:
                say(note)
        splits = [Split(out / "train", config, images, catalogue)]
        if val_images:
            splits.append(Split(out / "val", config, val_images, catalogue))
        tasks = [_Task(split, shard) for split in splits for shard in split.missing]
        farm = _Farm(config, splits, tasks, workers, progress, recycle_scenes, recycle_mib, on_error, catalogue, record)
        farm.report()
        if tasks:
            check_environment()
            with temporary(config, workers) as folder:
                farm.run(folder)
        for split in splits:
            split.write_manifest()
        if farm.lost:
            raise farm.lost_scenes(out)
    return RenderSummary(
        {s.folder.name: s.images_done for s in splits},
        sum(task.split.images(task.shard) for task in tasks),
        time.monotonic() - started,
        {s.folder.name: sorted(s.skipped) for s in splits if s.skipped},
        catalogue.notes,
    )


def _checking(say: Callable[[str], None] | None) -> Callable[[int, int], None] | None:
    """Tell ten times how far the checking of many meshes has come; of few nothing."""

    def tell(done: int, total: int) -> None:
        if say is not None and total >= 200 and done * 10 // total > (done - 1) * 10 // total:
            say(f"checked {done} of {total} meshes")

    return tell


@dataclass
class _Farm:
    config: RenderConfig
    splits: list[Split]
    tasks: list[_Task]
    count: int
    progress: Callable[[int, int], None] | None
    recycle_scenes: int
    recycle_mib: int
    on_error: str
    catalogue: Catalogue
    record: Path
    workers: list[_Worker] = field(default_factory=list)
    failures: dict[_Task, int] = field(default_factory=dict)
    lost: dict[tuple[str, int], str] = field(default_factory=dict)
    gpus: list[str] = field(default_factory=visible_gpus)

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
                        old = worker.ready and worker.task is None and self._is_old(worker)
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
        slot = next(i for i in range(self.count) if all(w.slot != i for w in self.workers))
        gpu = gpu_of(slot, self.config.image.device, self.gpus)
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        process = subprocess.Popen(
            worker_command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=environment
        )
        worker = _Worker(process, stderr, slot=slot)
        message = {"config": config_to_dict(self.config), "contents": self.catalogue.fingerprint}
        places = {"record": str(self.record), "temporary": str(temporary), "parent": os.getpid()}
        self._tell(worker, {**message, **places})
        return worker

    def _is_old(self, worker: _Worker) -> bool:
        return worker.scenes >= self.recycle_scenes or worker.memory >= self.recycle_mib

    def _give(self, worker: _Worker, task: _Task) -> None:
        worker.task, worker.in_shard, worker.scene = task, 0, task.split.scenes(task.shard).start
        path = str(task.split.shard_path(task.shard).absolute())
        skip = sorted(set(task.split.scenes(task.shard)) & set(task.split.skipped))
        self._tell(worker, {"split": task.split.folder.name, "shard": task.shard, "path": path, "skip": skip})

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
            worker.scene = message.get("scene", worker.scene)
        elif "ready" in message:
            for split in self.splits:
                split.set_software(message["ready"])
            worker.ready = True
        elif "scene" in message:
            worker.scenes += 1
            worker.in_shard += 1
            worker.scene = message["scene"] + 1
            worker.memory = message.get("mib", 0)
            self.report()
        elif task is not None:
            worker.task, worker.in_shard = None, 0
            task.split.finish(task.shard, message["sha256"])

    def _failed(self, worker: _Worker, waiting: deque[_Task]) -> None:
        """Give a dead worker's shard to another, once; then its scene goes, or takes the shard along."""
        task = worker.task
        reason = f"{worker.failed}. The end of its messages:\n{worker.tail() or '(none)'}"
        if task is None:
            raise DataGenError(f"a render worker died before it began: {reason}")
        self.failures[task] = self.failures.get(task, 0) + 1
        if self.failures[task] == 1:
            waiting.appendleft(task)
            return
        if self.on_error == "skip":
            task.split.skip(worker.scene, worker.failed)
            self.failures[task] = 0
            waiting.appendleft(task)
        else:
            self.lost[task.split.folder.name, worker.scene] = reason
        if max(len(self.lost), sum(len(s.skipped) for s in self.splits)) >= _MOST_LOST:
            raise self.lost_scenes(self.splits[0].folder.parent)

    def lost_scenes(self, out: Path) -> DataGenError:
        """Make the error that names the scenes that could not be rendered, and how to look into them."""
        lost = self.lost or {(s.folder.name, scene): why for s in self.splits for scene, why in s.skipped.items()}
        (split, scene), reason = next(iter(lost.items()))
        names = ", ".join(f"scene {number} of {name}" for name, number in sorted(lost))
        left = sum(len(s.missing) for s in self.splits)
        state = f"{left} shards are missing, what is finished is kept" if left else "all others are there"
        return DataGenError(
            f"{names} (seed {self.config.seed}) cannot be rendered: two workers failed at it; {state}. See one alone:\n"
            f"  {sys.executable} -m data_gen.reproduce {out} --split {split} --scene {scene}\n"
            "run the same command again to try again, or with --on-error skip to leave such scenes out.\n"
            f"The first: {reason}"
        )


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
