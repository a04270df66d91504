"""Workers on a Ray cluster: an actor each, which holds a warm worker process on its node and passes its messages on."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from data_gen.devices import gpu_of, visible_gpus
from data_gen.render_config import RenderConfig
from data_gen.scene_sampler import config_from_dict
from data_gen.temporary_folders import staging, temporary
from data_gen.worker_process import Message, WorkerProcess, worker_arguments
from lightning_tl.errors import UserError

_LAST = {"ready", "sha256", "error", "ended"}  # after one of these a worker says nothing until it is given a shard
_GRACE = 2.0


class RayPool:
    """Workers where Ray has room for them: a CPU each, and a GPU where the images are rendered on GPUs.

    Args:
        config: of the data set.
        start: what the workers are told first.
        record: the file with what is known of the sources; its content goes to every node.
        address: of an existing cluster (``auto``, ``host:6379``, ``ray://host:10001``); ``None`` starts one here.
        workers: at most how many; ``None``: as many as the cluster has room for at any time.

    Raises:
        UserError: Ray is not installed, there is no cluster at the address, or no room for one worker on it.
    """

    def __init__(
        self,
        config: RenderConfig,
        start: Mapping[str, Any],
        record: Path,
        address: str | None,
        workers: int | None,
    ) -> None:
        self._ray, self._mine = connect(address)
        found = self._ray.cluster_resources()
        device = config.image.device
        self._gpus = int(device in ("cuda", "optix") or (device == "auto" and found.get("GPU", 0) >= 1))
        self._workers = workers
        self._counted, self._room = 0.0, 0
        self._lines: list[_RayLine] = []
        self._closing: list[Any] = []
        if workers is None and self.room() < 1:
            self.close()
            raise UserError(
                f"a worker takes 1 CPU and {self._gpus} GPUs, the cluster has {found.get('CPU', 0):g} and "
                f"{found.get('GPU', 0):g} in all: start nodes, or give 'workers' where it grows on demand"
            )
        content = self._ray.put(record.read_bytes() if record.is_file() else b"")
        actor = self._ray.remote(num_cpus=1, num_gpus=self._gpus, max_restarts=0, scheduling_strategy="SPREAD")(_Actor)
        self._make: Callable[[], Any] = lambda: actor.remote(worker_arguments(), dict(start), content)

    def room(self) -> int:
        """Return how many workers there may be now; nodes may come and go."""
        if self._workers is not None:
            return self._workers
        if time.monotonic() - self._counted > 1:
            found = self._ray.cluster_resources()
            room = int(found.get("CPU", 0))
            self._room = min(room, int(found.get("GPU", 0))) if self._gpus else room
            self._counted = time.monotonic()
        return self._room

    def start(self) -> _RayLine:
        """Ask Ray for a worker; it says that it is ready once there was room for it."""
        line = _RayLine(self, self._make())
        self._lines.append(line)
        return line

    def wait(self, seconds: float) -> list[tuple[_RayLine, list[Message]]]:
        """Return what workers have said."""
        waited = {line.reply: line for line in self._lines if line.reply is not None}
        if not waited:
            time.sleep(seconds)
            return []
        self._ray.wait(list(waited), num_returns=1, timeout=seconds)
        done, _ = self._ray.wait(list(waited), num_returns=len(waited), timeout=0)
        return [(waited[reply], self._heard(waited[reply])) for reply in done]

    def _heard(self, line: _RayLine) -> list[Message]:
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
        """Let the workers that are ending do so, and end the cluster where it was started here."""
        if self._closing:
            self._ray.wait(self._closing, num_returns=len(self._closing), timeout=10)
        if self._mine:
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
            pool._closing.append(self.actor.close.remote())  # it ends when its last handle, this one, is gone
        else:
            pool._ray.kill(self.actor)


class _Actor:
    """Runs on a node, in the main thread of a process that Ray starts and ends."""

    def __init__(self, arguments: list[str], start: dict[str, Any], record: bytes) -> None:
        self._arguments, self._start, self._record = arguments, start, record
        self._stack = ExitStack()

    def begin(self) -> list[Message]:
        """Start the worker process and return what it says once it is ready."""
        import ray

        config = config_from_dict(self._start["config"])
        here: Message = {"node": f"node {ray.util.get_node_ip_address()}"}
        try:
            passes, shards = (self._stack.enter_context(c) for c in (temporary(config, 1), staging()))
        except UserError as error:
            return [here, {"error": "user", "message": f"{error} (on {here['node']})"}]
        record = shards / "sources.json"
        record.write_bytes(self._record)
        gpu = gpu_of(0, config.image.device, visible_gpus())
        self._process = WorkerProcess(self._arguments, {**self._start, "record": str(record)}, passes, shards, gpu)
        return [here, *self.talk()]

    def talk(self, message: Message | None = None) -> list[Message]:
        """Give the worker a message, if there is one, and return what it says within about a second."""
        if message is not None:
            self._process.send(message)
        said = self._process.read()
        end = time.monotonic() + 1
        while not any(_LAST & m.keys() for m in said):
            if not select.select([self._process.stdout], [], [], max(0.0, end - time.monotonic()))[0]:
                break
            said += self._process.read()
        if "ended" in said[-1]:
            # where a node is lost Ray ends this process's children before the process itself: then this is not to be
            # told, and the driver finds the worker lost
            time.sleep(_GRACE)
        return said

    def close(self) -> None:
        """End the worker and take away its folders."""
        self._process.end()
        self._stack.close()


def connect(address: str | None) -> tuple[Any, bool]:
    """Connect to a Ray cluster, or start one here.

    Args:
        address: as of :class:`RayPool`.

    Returns:
        The module ``ray``, and whether it was connected by this call (and not by who called).

    Raises:
        UserError: Ray is not installed, cannot be started, or there is no cluster at the address.
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
    try:
        ray.init(address=address, log_to_driver=False, include_dashboard=False if address is None else None)
    except Exception as error:  # of a plain kind where a node does not come up in time
        if address is None:
            raise UserError(f"Ray cannot be started here ({error}): try again, or give an 'address'") from error
        raise UserError(missing.format(error)) from error
    return ray, True
