"""Shards of a data set given to workers until none is left; a worker that dies is replaced."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from data_gen.interpreter import reproduce_command
from data_gen.manifest import Split
from data_gen.scene_sampler import RenderConfig
from data_gen.shard_writer import ShardRecord
from data_gen.worker_process import Message
from lightning_tl._io.urls import is_url
from lightning_tl.errors import UserError

_MOST_LOST = 20


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
class ShardTask:
    """A shard to render."""

    split: Split
    shard: int

    def __str__(self) -> str:
        scenes = self.split.scenes(self.shard)
        return f"scenes {scenes.start} to {scenes.stop - 1} of {self.split.name}"


@dataclass
class _Worker:
    line: WorkerLine
    task: ShardTask | None = None
    ready: bool = False
    scenes: int = 0
    in_shard: int = 0
    scene: int = 0
    memory: int = 0
    failed: str = ""
    tail: str = ""
    lost: bool = False


@dataclass
class Dispatch:
    """Workers of a pool and the shards that they render.

    Args:
        config: what is rendered.
        out: the data set's folder or URL.
        splits: its splits, whose manifests record finished shards.
        tasks: the shards to render, in order.
        progress: called with (images done, images in all).
        recycle_scenes: a worker is replaced after about this many scenes.
        recycle_mib: a worker is also replaced after the shard in which its memory reaches this size.
        on_error: ``continue`` or ``skip`` (see :func:`data_gen.farm.render`).
        say: called when a worker or its node is lost.
    """

    config: RenderConfig
    out: str
    splits: list[Split]
    tasks: list[ShardTask]
    progress: Callable[[int, int], None] | None
    recycle_scenes: int
    recycle_mib: int
    on_error: str
    say: Callable[[str], None] | None
    workers: list[_Worker] = field(default_factory=list)
    failures: dict[ShardTask, int] = field(default_factory=dict)
    excused: set[ShardTask] = field(default_factory=set)
    false_starts: int = 0
    waits: bool = False
    lost: dict[tuple[str, int], str] = field(default_factory=dict)

    def report(self) -> None:
        """Report the progress."""
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

    def _assign(self, worker: _Worker, task: ShardTask) -> None:
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

    def _failed(self, worker: _Worker, waiting: deque[ShardTask], pool: Pool) -> None:
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
            f"  {reproduce_command()} {self.out} --split {split} --scene {scene}\n"
            "Run the same command again to try again, or with --on-error skip to leave such scenes out.\n"
            f"The first: {reason}",
            reason,
        )
