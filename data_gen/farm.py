"""Rendering: starts workers, here or on a cluster, for the shards that a data set lacks. Never imports Blender."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from data_gen.check import check_environment
from data_gen.devices import default_workers
from data_gen.interpreter import render_python
from data_gen.local_pool import LocalPool
from data_gen.manifest import Split
from data_gen.scene_sampler import RenderConfig, check_config, config_to_dict
from data_gen.shard_writer import ShardRecord
from data_gen.sources import Catalogue, open_catalogue
from data_gen.temporary_folders import staging
from data_gen.worker_process import Message
from lightning_tl._io.locks import lock_owner, try_lock, waiting_lock
from lightning_tl._io.urls import is_url
from lightning_tl.errors import UserError

LOCK = ".render.lock"
_MOST_LOST = 20
Engine = Literal["local", "ray"]
OnError = Literal["continue", "skip"]


@dataclass(frozen=True)
class RenderSummary:
    """What :func:`render` did.

    Attributes:
        images: number of images of each split now (whole shards, so there may be more than requested).
        rendered: number of images that this call rendered; 0 where none was missing and the call only verified hashes.
        seconds: duration of the call.
        skipped: scenes that could not be rendered and were left out, by split.
        notes: what the user should know about the sources: what is missing, left out or made smaller.
    """

    images: dict[str, int]
    rendered: int
    seconds: float
    skipped: dict[str, list[int]]
    notes: tuple[str, ...] = ()


class LostScenes(UserError):
    """Scenes could not be rendered.

    Args:
        message: Which scenes, why the first one failed, and how to see it.
        reason: Why the first one failed.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class WorkerLine(Protocol):
    """The connection to one worker."""

    def send(self, message: Mapping[str, Any]) -> None:
        """Send the worker a shard to render."""
        ...

    def end(self) -> None:
        """Stop the worker at once."""
        ...


class Pool(Protocol):
    """Where workers run: :class:`.local_pool.LocalPool` or :class:`.ray_pool.RayPool`."""

    def room(self) -> int:
        """Return how many workers can run now."""
        ...

    def start(self) -> WorkerLine:
        """Start a worker."""
        ...

    def wait(self, seconds: float) -> Sequence[tuple[WorkerLine, list[Message]]]:
        """Return the workers' new messages.

        In addition to a worker's own messages (see ``worker.py``) there are ``{"ended": how}``, its process has died,
        and ``{"lost": how}``, its machine was lost.

        Args:
            seconds: longest time to wait for the first message.
        """
        ...

    def close(self) -> None:
        """Release what the pool holds."""
        ...


@dataclass(frozen=True)
class _Task:
    split: Split
    shard: int

    def __str__(self) -> str:
        scenes = self.split.scenes(self.shard)
        return f"scenes {scenes.start} to {scenes.stop - 1} of {self.split.name}"


@dataclass
class _Worker:
    line: WorkerLine
    task: _Task | None = None
    ready: bool = False
    scenes: int = 0
    in_shard: int = 0
    scene: int = 0
    memory: int = 0
    failed: str = ""
    tail: str = ""
    lost: bool = False


def render(
    config: RenderConfig,
    out: Path | str,
    images: int,
    val_images: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    recycle_scenes: int = 2000,
    recycle_mib: int = 4096,
    on_error: OnError = "continue",
    say: Callable[[str], None] | None = None,
    engine: Engine = "local",
    address: str | None = None,
    wait: bool = False,
) -> RenderSummary:
    """Render a data set, or the shards that it lacks, and verify the others.

    The bytes depend only on the configuration: not on the engine, the number of workers or nodes, nor on
    interruptions. Whole shards are rendered, so ``images`` is rounded up to a multiple of
    ``scenes_per_shard × views``.

    Args:
        config: what to render.
        out: folder, or URL that fsspec knows (``s3://bucket/set``); gets ``train/`` and ``val/``. In a folder the
            hashes of finished shards are verified, on a store their sizes. A folder is locked by one process at a time;
            a store cannot be locked, so only one process may write a data set there. With ``ray`` all nodes must see
            the folder.
        images: number of training images, 1 or more.
        val_images: number of validation images, 0 or more.
        workers: number of processes, of one thread each; ``None``: one per core or GPU, with ``ray`` as many as the
            cluster has room for at any time. A cluster that grows on demand grows to this number.
        progress: called with (images done, images in all) at the start and as scenes finish.
        recycle_scenes: a worker is replaced by a new one after about this many scenes, so that its memory stays flat.
        recycle_mib: a worker is also replaced after the shard in which its memory reaches this size.
        on_error: what to do with a scene that fails twice. ``continue``: all other shards are rendered, then an error
            names the scene, and its shard is missing. ``skip``: the scene is left out of its shard, and the manifest
            lists it.
        say: called with each note on the sources before rendering starts, and when a node is lost.
        engine: ``local``: processes of this machine. ``ray``: processes of a Ray cluster.
        address: address of the cluster (``auto``, ``host:6379``, ``ray://host:10001``); ``None`` starts one here.
        wait: wait while another process renders into the folder, instead of raising an error.

    Raises:
        UserError: anything wrong with the arguments, the folder or store, the machine, the cluster or a scene, in
            one message.
        KeyboardInterrupt: on Ctrl-C, with all workers stopped; finished shards are kept.
    """
    started = time.monotonic()
    check_config(config)
    for key, value, valid in (("on_error", on_error, get_args(OnError)), ("engine", engine, get_args(Engine))):
        if value not in valid:
            raise UserError(f"'{key}' cannot be {value!r}; valid: {', '.join(valid)}")
    for name, count, least in (("images", images, 1), ("val_images", val_images, 0), ("workers", workers, 1)):
        if name == "workers" and count is None:
            continue
        if isinstance(count, bool) or not isinstance(count, int) or count < least:
            raise UserError(f"'{name}' must be a whole number of at least {least}, not {count!r}")
    out = str(out).rstrip("/") if is_url(out) else str(out).removeprefix("file://")
    with _locked_output(out, wait, say) as record:
        catalogue = open_catalogue(config, record, _checking(say))
        for note in catalogue.notes:
            if say is not None:
                say(note)
        splits = [Split(f"{out}/train", config, images, catalogue)]
        if val_images:
            splits.append(Split(f"{out}/val", config, val_images, catalogue))
        tasks = [_Task(split, shard) for split in splits for shard in split.missing]
        farm = _Farm(config, out, splits, tasks, progress, recycle_scenes, recycle_mib, on_error, say)
        farm.report()
        if tasks:
            if is_url(out):
                for split in splits:  # so that a store that refuses is known now, not when the first shard is ready
                    split.write_manifest()
            farm.run(_pool(config, catalogue, record, engine, address, workers))
        for split in splits:
            if gone := split.vanished():
                raise UserError(
                    f"{split.folder.at()}: {len(gone)} finished shards are gone, the first {gone[0]}: were they "
                    "deleted meanwhile? Run the same command again"
                )
            split.write_manifest()
        if farm.lost:
            raise farm.lost_scenes()
    return RenderSummary(
        {s.name: s.images_done for s in splits},
        sum(task.split.images(task.shard) for task in tasks),
        time.monotonic() - started,
        {s.name: sorted(s.skipped) for s in splits if s.skipped},
        catalogue.notes,
    )


@contextmanager
def _locked_output(out: str, wait: bool, say: Callable[[str], None] | None) -> Iterator[Path]:
    """Lock the output, if it is a folder; yield the path of the record of the sources."""
    if is_url(out):
        with staging() as folder:
            yield folder / "sources.json"
        return
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the output folder {out}: {error.strerror}") from None
    with ExitStack() as stack:
        if not stack.enter_context(try_lock(folder / LOCK)):
            other = f"another process (id {lock_owner(folder / LOCK)}) is rendering into {folder}"
            if not wait:
                raise UserError(f"{other}: wait for it, end it, or choose another folder")
            if say is not None:
                say(f"{other}: waiting for it")
            stack.enter_context(waiting_lock(folder / LOCK))
        yield folder / "sources.json"


def _pool(
    config: RenderConfig,
    catalogue: Catalogue,
    record: Path,
    engine: Engine,
    address: str | None,
    workers: int | None,
) -> Pool:
    start = {"config": _with_full_paths(config_to_dict(config)), "contents": catalogue.fingerprint}
    if engine == "ray":
        from data_gen.ray_pool import RayPool

        return RayPool(config, start, record, address, workers)
    check_environment()
    return LocalPool(config, start, record, workers or default_workers(config.image.device))


def _checking(say: Callable[[str], None] | None) -> Callable[[int, int], None] | None:
    """Return a progress function that reports the checking of many meshes ten times, and that of few not at all."""

    def advance(done: int, total: int) -> None:
        if say is not None and total >= 200 and done * 10 // total > (done - 1) * 10 // total:
            say(f"checked {done} of {total} meshes")

    return advance


def _with_full_paths(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration with absolute paths, as a worker may be started in another folder."""
    for values, key in (
        *((source, "path") for source in config["sources"]),
        (config["camera"], "intrinsics"),
        (config["lights"], "hdris"),
        (config["room"], "materials"),
    ):
        if values[key]:
            values[key] = str(Path(values[key]).absolute())
    return config


@dataclass
class _Farm:
    config: RenderConfig
    out: str
    splits: list[Split]
    tasks: list[_Task]
    progress: Callable[[int, int], None] | None
    recycle_scenes: int
    recycle_mib: int
    on_error: str
    say: Callable[[str], None] | None
    workers: list[_Worker] = field(default_factory=list)
    failures: dict[_Task, int] = field(default_factory=dict)
    excused: set[_Task] = field(default_factory=set)
    false_starts: int = 0
    waits: bool = False
    lost: dict[tuple[str, int], str] = field(default_factory=dict)

    def report(self) -> None:
        if self.progress is not None:
            done = sum(s.images_done for s in self.splits)
            done += sum(w.in_shard for w in self.workers) * self.config.camera.views
            self.progress(done, sum(s.wanted * s.per_shard for s in self.splits))

    def run(self, pool: Pool) -> None:
        """Give tasks to workers until none is left; close the pool."""
        waiting = deque(self.tasks)
        try:
            while waiting or any(w.task for w in self.workers):
                busy = sum(w.task is not None for w in self.workers)
                if not self.workers and pool.room() == 0 and not self.waits:
                    self._report("the cluster has no room for a worker now: waiting for a node")
                self.waits = pool.room() == 0
                while len(self.workers) < min(pool.room(), len(waiting) + busy):
                    self.workers.append(_Worker(pool.start()))
                for worker in self.workers:
                    if worker.ready and worker.task is None and waiting:
                        self._assign(worker, waiting.popleft())
                for line, messages in pool.wait(1.0):
                    worker = next(w for w in self.workers if w.line is line)
                    for message in messages:
                        self._receive(worker, message)
                for worker in list(self.workers):
                    old = worker.ready and worker.task is None and self._is_old(worker)
                    if worker.failed or old:
                        self.workers.remove(worker)
                        worker.line.end()
                    if worker.failed:
                        self._failed(worker, waiting, pool)
        finally:
            for worker in self.workers:
                worker.line.end()
            self.workers.clear()
            pool.close()
            for split in self.splits:
                split.clear()

    def _report(self, what: str) -> None:
        if self.say is not None:
            self.say(what)

    def _is_old(self, worker: _Worker) -> bool:
        return worker.scenes >= self.recycle_scenes or worker.memory >= self.recycle_mib

    def _assign(self, worker: _Worker, task: _Task) -> None:
        worker.task, worker.in_shard, worker.scene = task, 0, task.split.scenes(task.shard).start
        skip = sorted(set(task.split.scenes(task.shard)) & set(task.split.skipped))
        path = task.split.shard_path(task.shard)
        path = path if is_url(path) else str(Path(path).absolute())
        worker.line.send({"split": task.split.name, "shard": task.shard, "path": path, "skip": skip})

    def _receive(self, worker: _Worker, message: Message) -> None:
        task = worker.task
        worker.tail = message.get("tail", worker.tail)
        if "error" in message:
            if message["error"] == "user":
                raise UserError(message["message"])
            if message["error"] == "import":
                raise UserError(f"Blender cannot be imported: {message['message']}; try `python -m data_gen.check`")
            if message["error"] == "store":
                if task in self.excused:
                    raise UserError(message["message"])
                worker.lost = True
            worker.failed = message["message"]
            worker.scene = message.get("scene", worker.scene)
        elif "ended" in message or "lost" in message:
            worker.lost = worker.lost or "lost" in message
            worker.failed = worker.failed or message.get("ended") or message["lost"]
        elif "ready" in message:
            for split in self.splits:
                split.set_software(message["ready"])
            worker.ready, self.false_starts = True, 0
        elif "scene" in message:
            worker.scenes += 1
            worker.in_shard += 1
            worker.scene = message["scene"] + 1
            worker.memory = message.get("mib", 0)
            self.report()
        elif task is not None:
            worker.task, worker.in_shard = None, 0
            task.split.finish(task.shard, ShardRecord(message["sha256"], message["bytes"]))

    def _failed(self, worker: _Worker, waiting: deque[_Task], pool: Pool) -> None:
        """Give a dead worker's shard to another one; after a second failure skip the scene or give up the shard.

        A worker that was lost with its node, or could not put its shard on the store, says nothing about the scene: its
        shard gets one more try.
        """
        task = worker.task
        if worker.lost:
            where = f"another renders {task}" if task else "another is started"
            self._report(f"{worker.failed.splitlines()[0]}; {where}")
        reason = f"{worker.failed}. The end of its messages:\n{worker.tail or '(none)'}"
        if task is None and worker.scenes:  # it died between two shards, which loses nothing
            return
        if task is None:
            self.false_starts += 1
            if worker.lost and self.false_starts < 3 * max(1, pool.room()):
                return
            raise UserError(f"a render worker died before it began: {reason}")
        if worker.lost and task not in self.excused:
            self.excused.add(task)
            waiting.appendleft(task)
            return
        self.failures[task] = self.failures.get(task, 0) + 1
        if self.failures[task] == 1:
            waiting.appendleft(task)
            return
        if self.on_error == "skip":
            task.split.skip(worker.scene, worker.failed)
            self.failures[task] = 0
            waiting.appendleft(task)
        else:
            self.lost[task.split.name, worker.scene] = reason
        if max(len(self.lost), sum(len(s.skipped) for s in self.splits)) >= _MOST_LOST:
            raise self.lost_scenes()

    def lost_scenes(self) -> LostScenes:
        """Return the error that names the scenes that could not be rendered, and the command that shows one."""
        lost = self.lost or {(s.name, scene): why for s in self.splits for scene, why in s.skipped.items()}
        (split, scene), reason = next(iter(lost.items()))
        names = ", ".join(f"scene {number} of {name}" for name, number in sorted(lost))
        left = sum(len(s.missing) for s in self.splits)
        state = f"{left} shards are missing, finished ones are kept" if left else "all others are there"
        return LostScenes(
            f"{names} (seed {self.config.seed}) cannot be rendered: two workers failed at it; {state}. To see one:\n"
            f"  {render_python()} -m data_gen.reproduce {self.out} --split {split} --scene {scene}\n"
            "Run the same command again to try again, or with --on-error skip to leave such scenes out.\n"
            f"The first: {reason}",
            reason,
        )
