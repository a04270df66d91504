"""Commands that are interrupted when they have come so far: counted scenes, steps and checkpoints, never seconds."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from scene_gate import SceneGate

HERE = Path(__file__).parent
MAIN = [sys.executable, "-m", "lightning_tl.cli.main"]
_FREE = 10_000  # more permits than any command here has scenes, steps and checkpoints
_WAIT = 600  # seconds, only to end a test whose command hangs


def environment(**more: str) -> dict[str, str]:
    """The environment of a command that finds ``step_gate`` and ``scene_gate``."""
    own = [str(HERE), str(HERE.parent / "data_gen")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*own, os.environ.get("PYTHONPATH", "")]), **more}


def start(command: list[str], log: Path, **more: str) -> subprocess.Popen[bytes]:
    """Start a command in a process group of its own, with its output in a file."""
    return subprocess.Popen(
        command,
        env=environment(**more),
        stdout=log.open("ab"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
        # where the tests run in a shell's background, Ctrl-C is ignored, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def finish(command: list[str], log: Path) -> None:
    """Run a command to its end, undisturbed."""
    process = start(command, log)
    assert process.wait(_WAIT) == 0, log.read_text()[-4000:]


@dataclass
class Campaign:
    """Interruptions of one kind of command, drawn from a seed.

    Args:
        folder: for gates and logs.
        seed: of all choices.
        most: the command is interrupted after 1 to so many scenes, steps and checkpoints.
        whole: whether a command goes on by itself when one of its workers is killed; it is then interrupted again.
    """

    folder: Path
    seed: int
    most: int
    whole: bool = False
    sent: Counter[str] = field(default_factory=Counter)
    rounds: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self._random = random.Random(self.seed)

    @property
    def log(self) -> Path:
        """The output of all commands."""
        return self.folder / "log.txt"

    def interrupt(self, command: list[str]) -> bool:
        """Run a command and interrupt it; return whether it has ended well, as it has where that came too late."""
        self.rounds += 1
        gate = SceneGate(self.folder / f"gate{self.rounds}")
        process = start(command, self.log, **gate.environment)
        ended = os.pidfd_open(process.pid)
        gate.open(_FREE)
        may_fail = False
        while not may_fail:
            worker: int | None = None
            for _ in range(self._random.randint(1, self.most)):
                worker = gate.wait_or_end(ended)
                if worker is None:
                    break
            if worker is None:
                break
            may_fail = self._send(process.pid, worker)
        code = process.wait(_WAIT)
        os.close(ended)
        gate.close()
        assert code == 0 or may_fail, self.log.read_text()[-4000:]
        return code == 0

    def _send(self, command: int, worker: int) -> bool:
        """Send a signal to the command or its worker; return whether the command may end by that."""
        how = self._random.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        to_worker = how != signal.SIGINT and self._random.random() < 0.4 and worker != command
        with suppress(ProcessLookupError):  # it has just ended
            if how == signal.SIGINT:
                os.killpg(command, how)  # as a terminal does
            else:
                os.kill(worker if to_worker else command, how)
            self.sent[f"{how.name} to {'a worker' if to_worker else 'the command'}"] += 1
        return not (to_worker and self.whole)
