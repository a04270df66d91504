"""A gate before each scene: a test decides how many scenes the workers render, and so when something happens.

The gate is two named pipes. A worker writes its process id to the first when it comes to a scene, and takes a byte from
the second, which the test fills, before it renders the scene. Both sides block, so nothing depends on time; the bound
of ``_STUCK`` seconds is only there to end a test whose workers are dead. Trainings pass the same gate before each step
(``faults/step_gate.py``).
"""

from __future__ import annotations

import os
import select
from pathlib import Path

_ENVIRONMENT = "FAKE_GATE"
_STUCK = 240
_ID = 4  # bytes of a process id; so few are written and read as one


class SceneGate:
    """The test's side.

    Each worker arrives at its first scene by itself, and at one more for each scene that it was let through to, as long
    as scenes remain. So ``wait(workers)`` ends when all have begun, and after ``open(n)`` and ``wait(n)`` all stand
    before a scene again.

    Args:
        folder: where the pipes are made; a new folder for each process that is started, as a killed worker may leave
            bytes in them.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.environment = {_ENVIRONMENT: str(folder)}
        for name in ("arrivals", "permits"):
            os.mkfifo(folder / name)
        # for reading and writing: neither side ever sees an end
        self._arrivals, self._permits = (os.open(folder / name, os.O_RDWR) for name in ("arrivals", "permits"))

    def open(self, scenes: int) -> None:
        """Let this many more scenes be rendered."""
        os.write(self._permits, b"." * scenes)

    def wait(self, arrivals: int) -> list[int]:
        """Wait until workers have come to this many more scenes; return their process ids in order."""
        workers = []
        for _ in range(arrivals):
            assert select.select([self._arrivals], [], [], _STUCK)[0], "no worker comes to a scene any more"
            workers.append(self._worker())
        return workers

    def wait_or_end(self, process: int) -> int | None:
        """Wait for one arrival; return the worker's process id, or None if the process (a pidfd) has ended."""
        ready = select.select([self._arrivals, process], [], [], _STUCK)[0]
        assert ready, "no worker comes to a scene any more"
        return self._worker() if self._arrivals in ready else None

    def rest(self) -> int:
        """Return how many arrivals have not been waited for; to be called when all workers have ended."""
        count = 0
        while select.select([self._arrivals], [], [], 0)[0]:
            self._worker()
            count += 1
        return count

    def _worker(self) -> int:
        return int.from_bytes(os.read(self._arrivals, _ID), "little")

    def close(self) -> None:
        """Close the pipes."""
        os.close(self._arrivals)
        os.close(self._permits)


def pass_gate() -> None:
    """Report that a worker has come to a scene, and block until it may render it; the worker's side."""
    folder = os.environ.get(_ENVIRONMENT)
    if folder is None:
        return
    own = os.getpid().to_bytes(_ID, "little")
    for name, act in (("arrivals", lambda pipe: os.write(pipe, own)), ("permits", lambda pipe: os.read(pipe, 1))):
        pipe = os.open(Path(folder) / name, os.O_RDWR)
        try:
            act(pipe)
        finally:
            os.close(pipe)


def wait_for_end(processes: list[int]) -> None:
    """Wait until processes that are no children of this one have ended (``os.pidfd_open`` of each)."""
    for process in processes:
        assert select.select([process], [], [], _STUCK)[0], "a process has not ended"
        os.close(process)
