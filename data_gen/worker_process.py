"""One worker process (see ``worker.py``) and the pipes to it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from data_gen.interpreter import named_blender, worker_command, worker_environment
from lightning_tl._io.files import read_at

Message = dict[str, Any]


def worker_arguments() -> list[str]:
    """Return the arguments of Python for a worker."""
    return ["-m", "data_gen.worker"]


class WorkerProcess:
    """A running worker.

    Linux stops it when the thread that started it ends.

    Args:
        arguments: arguments of Python.
        start: its first message, without the values of this machine.
        temporary: folder for render passes.
        staging: folder for shards before upload.
        gpu: the GPU that it sees; ``None``: those of this process.
    """

    def __init__(
        self, arguments: Sequence[str], start: Mapping[str, Any], temporary: Path, staging: Path, gpu: str | None
    ) -> None:
        environment = worker_environment()
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        self._stderr = tempfile.TemporaryFile(dir=temporary)  # noqa: SIM115 (it lives as long as the worker)
        self._process = subprocess.Popen(
            worker_command(arguments, temporary),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=environment,
        )
        self._buffer = b""
        # in Blender, a worker's parent is the process of BlenderProc's command, which ends with this one
        parent = self._process.pid if named_blender() else os.getpid()
        self.send({**start, "temporary": str(temporary), "staging": str(staging), "parent": parent})

    @property
    def stdout(self) -> IO[bytes]:
        """The pipe with its messages."""
        if self._process.stdout is None:
            raise RuntimeError("a worker without a pipe")
        return self._process.stdout

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message; if the worker has died, :meth:`read` reports it."""
        with suppress(BrokenPipeError):
            if self._process.stdin is not None:
                self._process.stdin.write(json.dumps(message).encode() + b"\n")
                self._process.stdin.flush()

    def read(self) -> list[Message]:
        """Wait for the worker's next output and return its messages; ``{"ended": how}`` is the last one.

        Messages about errors have the end of its standard error as ``tail``.
        """
        data = os.read(self.stdout.fileno(), 1 << 16)
        if not data:
            return [{"ended": f"it ended with code {self._process.wait()}", "tail": self._tail()}]
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        # Blender and BlenderProc print some lines before the worker begins, and after it has ended
        messages = [json.loads(line) for line in lines if line.startswith(b"{")]
        return [{**m, "tail": self._tail()} if "error" in m else m for m in messages]

    def _tail(self) -> str:
        descriptor = self._stderr.fileno()  # its position is the worker's too, so it is not moved
        size = os.fstat(descriptor).st_size
        with io.FileIO(descriptor, closefd=False) as file:
            return read_at(file, 1500, max(0, size - 1500)).decode(errors="replace").strip()

    def end(self) -> None:
        """Kill the worker (unfinished work is of no use) and close its pipes."""
        self._process.kill()
        self._process.wait()
        self._stderr.close()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
