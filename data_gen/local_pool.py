"""Worker processes on this machine."""

from __future__ import annotations

import selectors
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from data_gen.devices import gpu_of, visible_gpus
from data_gen.render_config import RenderConfig
from data_gen.temporary_folders import staging, temporary
from data_gen.worker_process import Message, WorkerProcess, worker_arguments


class LocalPool:
    """A number of worker processes.

    Everything happens in one thread, because Linux stops a worker when the thread that started it ends.

    Args:
        config: configuration of the data set.
        start: first message to each worker (see ``worker.py``).
        record: file with the checked contents of the sources.
        workers: largest number of workers.
    """

    def __init__(self, config: RenderConfig, start: Mapping[str, Any], record: Path, workers: int) -> None:
        self._config, self._start, self._workers = config, {**start, "record": str(record)}, workers
        self._gpus = visible_gpus()
        self._stack = ExitStack()
        self._temporary = self._stack.enter_context(temporary(config, workers))
        self._staging = self._stack.enter_context(staging())
        self._selector = self._stack.enter_context(selectors.DefaultSelector())
        self._slots: dict[int, _Local] = {}

    def room(self) -> int:
        """Return how many workers can run."""
        return self._workers

    def start(self) -> _Local:
        """Start a worker; GPUs are assigned in turn."""
        slot = next(i for i in range(self._workers) if i not in self._slots)
        worker = self._slots[slot] = _Local(self, slot)
        return worker

    def wait(self, seconds: float) -> list[tuple[_Local, list[Message]]]:
        """Return the workers' new messages; waits at most ``seconds`` for the first."""
        return [(key.data, key.data.process.read()) for key, _ in self._selector.select(seconds)]

    def close(self) -> None:
        """Delete the temporary folders."""
        self._stack.close()


class _Local:
    def __init__(self, pool: LocalPool, slot: int) -> None:
        self._pool, self._slot = pool, slot
        gpu = gpu_of(slot, pool._config.image.device, pool._gpus)
        self.process = WorkerProcess(worker_arguments(), pool._start, pool._temporary, pool._staging, gpu)
        pool._selector.register(self.process.stdout, selectors.EVENT_READ, self)

    def send(self, message: Mapping[str, Any]) -> None:
        self.process.send(message)

    def end(self) -> None:
        self._pool._selector.unregister(self.process.stdout)
        del self._pool._slots[self._slot]
        self.process.end()
