"""Workers on a Ray cluster: each is an actor that runs a worker process on its node and forwards its messages."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from data_gen.check import check_environment
from data_gen.devices import gpu_of, visible_gpus
from data_gen.interpreter import named_blender
from data_gen.render_config import RenderConfig
from data_gen.scene_sampler import config_from_dict
from data_gen.temporary_folders import staging, temporary
from data_gen.worker_process import Message, WorkerProcess, worker_arguments
from lightning_tl.errors import UserError

_LAST = {"ready", "sha256", "error", "ended"}  # after one of these a worker sends nothing until it gets a shard
_GRACE = 2.0


class RayPool:
    """Workers on the nodes of a Ray cluster: one CPU each, and one GPU if images are rendered on GPUs.

    Args:
        config: configuration of the data set.
        start: first message to each worker (see ``worker.py``).
        record: file with the checked contents of the sources; its content is sent to every node.
        address: an existing cluster (``auto``, ``host:6379``, ``ray://host:10001``); ``None`` starts a new one.
        workers: largest number of workers; ``None``: as many as the cluster has room for at any time.

    Raises:
        UserError: Ray is not installed, no cluster runs at the address, or it has no room for a worker.
    """

    def __init__(
        self,
        config: RenderConfig,
        start: Mapping[str, Any],
        record: Path,
        address: str | None,
        workers: int | None,
    ) -> None:
        self._ray, self._connected_here = connect(address)
        resources = self._ray.cluster_resources()
        device = config.image.device
        self._gpus = int(device in ("cuda", "optix") or (device == "auto" and resources.get("GPU", 0) >= 1))
        self._workers = workers
        self._counted, self._room = 0.0, 0
        self._lines: list[_RayLine] = []
        self._closing: list[Any] = []
        if workers is None and self.room() < 1:
            self.close()
            raise UserError(
                f"a worker takes 1 CPU and {self._gpus} GPUs, the cluster has {resources.get('CPU', 0):g} and "
                f"{resources.get('GPU', 0):g} in all: start nodes, or give 'workers' where it grows on demand"
            )
        content = self._ray.put(record.read_bytes() if record.is_file() else b"")
        actor = self._ray.remote(num_cpus=1, num_gpus=self._gpus, max_restarts=0, scheduling_strategy="SPREAD")(_Actor)
        self._make: Callable[[], Any] = lambda: actor.remote(worker_arguments(), dict(start), content)

    def room(self) -> int:
        """Return how many workers can run now; changes as nodes join and leave."""
        if self._workers is not None:
            return self._workers
        if time.monotonic() - self._counted > 1:
            resources = self._ray.cluster_resources()
            room = int(resources.get("CPU", 0))
            self._room = min(room, int(resources.get("GPU", 0))) if self._gpus else room
            self._counted = time.monotonic()
        return self._room

    def start(self) -> _RayLine:
        """Ask Ray for a worker; it reports that it is ready once the cluster had room for it."""
        line = _RayLine(self, self._make())
        self._lines.append(line)
        return line

    def wait(self, seconds: float) -> list[tuple[_RayLine, list[Message]]]:
        """Return the workers' new messages; waits at most ``seconds`` for the first."""
        waited = {line.reply: line for line in self._lines if line.reply is not None}
        if not waited:
            time.sleep(seconds)
            return []
        self._ray.wait(list(waited), num_returns=1, timeout=seconds)
        done, _ = self._ray.wait(list(waited), num_returns=len(waited), timeout=0)
        return [(waited[reply], self._receive(waited[reply])) for reply in done]

    def _receive(self, line: _RayLine) -> list[Message]:
        errors = self._ray.exceptions
        try:
            messages: list[Message] = self._ray.get(line.reply)
        except errors.RayError as error:
            line.reply, line.dead = None, True
            if isinstance(error, errors.RayTaskError) or getattr(error, "actor_init_failed", False):
                last = (str(error).strip().splitlines() or [""])[-1]
                return [
                    {
                        "error": "user",
                        "message": f"a worker cannot run on a node of the cluster ({last}): install the same "
                        "lightning-tl[render,cluster] on all nodes",
                    }
                ]
            reason = " ".join(str(error).split())
            return [{"lost": f"the worker on {line.node} was lost", "tail": reason[:1500]}]
        for message in messages:
            line.node = message.get("node", line.node)
            if message.get("error") == "import":
                message["message"] += f" (on {line.node})"
        done = any(_LAST & message.keys() for message in messages)
        line.reply = None if done else line.actor.talk.remote()
        return messages

    def close(self) -> None:
        """Wait for workers that are stopping, and stop the cluster if it was started here."""
        if self._closing:
            self._ray.wait(self._closing, num_returns=len(self._closing), timeout=10)
        if self._connected_here:
            self._ray.shutdown()


class _RayLine:
    def __init__(self, pool: RayPool, actor: Any) -> None:
        self._pool, self.actor, self.node, self.dead = pool, actor, "a node", False
        self.reply = actor.begin.remote()

    def send(self, message: Mapping[str, Any]) -> None:
        self.reply = self.actor.talk.remote(dict(message))

    def end(self) -> None:
        pool = self._pool
        pool._lines.remove(self)
        if self.reply is None and not self.dead:
            pool._closing.append(self.actor.close.remote())  # it stops when this last handle to it is deleted
        else:
            pool._ray.kill(self.actor)


class _Actor:
    """Runs on a node, in the main thread of a process that Ray starts and stops."""

    def __init__(self, arguments: list[str], start: dict[str, Any], record: bytes) -> None:
        self._arguments, self._start, self._record = arguments, start, record
        self._stack = ExitStack()

    def begin(self) -> list[Message]:
        """Start the worker process and return its messages once it is ready."""
        import ray

        config = config_from_dict(self._start["config"])
        here: Message = {"node": f"node {ray.util.get_node_ip_address()}"}
        try:
            if named_blender():  # each node has its own
                check_environment()
            passes, shards = (self._stack.enter_context(c) for c in (temporary(config, 1), staging()))
        except UserError as error:
            return [here, {"error": "user", "message": f"{error} (on {here['node']})"}]
        record = shards / "sources.json"
        record.write_bytes(self._record)
        gpu = gpu_of(0, config.image.device, visible_gpus())
        self._process = WorkerProcess(self._arguments, {**self._start, "record": str(record)}, passes, shards, gpu)
        return [here, *self.talk()]

    def talk(self, message: Message | None = None) -> list[Message]:
        """Send the worker a message, if there is one, and return its messages of about the next second."""
        if message is not None:
            self._process.send(message)
        said = self._process.read()
        end = time.monotonic() + 1
        while not any(_LAST & m.keys() for m in said):
            if not select.select([self._process.stdout], [], [], max(0.0, end - time.monotonic()))[0]:
                break
            said += self._process.read()
        if any("ended" in m for m in said):
            # when a node is lost, Ray stops this process's children before the process itself: within this time the
            # process is gone too, so that the driver sees a lost node and not a dead worker
            time.sleep(_GRACE)
        return said

    def close(self) -> None:
        """Stop the worker and delete its folders."""
        self._process.end()
        self._stack.close()


def connect(address: str | None) -> tuple[Any, bool]:
    """Connect to a Ray cluster, or start one here.

    Args:
        address: as for :class:`RayPool`.

    Returns:
        The module ``ray``, and whether this call connected it (and not the caller before).

    Raises:
        UserError: Ray is not installed or cannot be started, or no cluster runs at the address.
    """
    try:
        import ray
    except ImportError:
        raise UserError("'engine: ray' needs Ray: pip install 'lightning-tl[cluster]'") from None
    if ray.is_initialized():
        return ray, False
    missing = f"'address': no Ray cluster at {address} ({{}}); start one with `ray start --head`"
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():  # Ray itself would wait for minutes and then end the process
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise UserError(missing.format(error)) from None
    if address is None:  # a cluster of this program's own: it reports nothing to Ray's makers, unless the user wants it
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        with _own_sigterm():
            ray.init(address=address, log_to_driver=False, include_dashboard=False if address is None else None)
    except Exception as error:  # a plain Exception if a node does not start in time
        if address is None:
            raise UserError(f"Ray cannot be started here ({error}): try again, or give an 'address'") from error
        raise UserError(missing.format(error)) from error
    return ray, True


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep this program's answer to SIGTERM, if it has one: Ray puts its own in its place."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
