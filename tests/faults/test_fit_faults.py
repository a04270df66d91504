"""`lightning-tl fit` on a machine where something goes wrong: one message, no hang, no process left, no file lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from faults.interrupting import MAIN, environment, start
from faults.step_gate import OVERLAY
from lightning.pytorch import Callback, Trainer
from scene_gate import SceneGate, wait_for_end
from training import pretraining

from lightning_tl.cli.main import main
from lightning_tl.errors import UserError
from lightning_tl.run import RunCLI, run

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]
PRIVATE = ["unshare", "--mount", "--propagation", "private"]


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[SceneGate]:
    made = SceneGate(tmp_path / "gate")
    yield made
    made.close()


def gated(renders: Path, tmp_path: Path, *more: str) -> list[str]:
    (tmp_path / "gated.yaml").write_text(OVERLAY)
    return [*MAIN, *pretraining(renders, tmp_path / "out", f"--config={tmp_path / 'gated.yaml'}", *more)]


@pytest.mark.parametrize("value", ["--trainer.accelerator=null", "file"])
def test_no_accelerator_is_one_message(renders: Path, tmp_path: Path, value: str) -> None:
    if value == "file":
        (tmp_path / "more.yaml").write_text("trainer: {accelerator: null}\n")
        value = f"--config={tmp_path / 'more.yaml'}"
    words = r"^trainer: cannot be made of these values \(ValueError: .*invalid accelerator.*Available names are: .*cpu"
    with pytest.raises(UserError, match=words):
        run(pretraining(renders, tmp_path / "out", value))


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run([*PRIVATE, "true"], capture_output=True).returncode != 0,
    reason="needs the right to make mount namespaces",
)
def test_a_full_shared_memory_is_one_message(renders: Path, tmp_path: Path) -> None:
    """A training batch of 8 images is 18 kB, two for each of two loader processes are kept ready."""
    line = 'mount -t tmpfs -o size=40k tmpfs /dev/shm && exec "$@"'
    command = [*MAIN, *pretraining(renders, tmp_path / "out", "--data.num_workers=2")]
    done = subprocess.run([*PRIVATE, "bash", "-c", line, "-", *command], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "error: /dev/shm, the memory that loader processes share, is full (0.0 MiB are free)" in done.stderr
    assert "set data.num_workers to 0, or give the machine more (docker run --shm-size=8g)" in done.stderr
    assert "Traceback" not in done.stderr


def test_loader_processes_end_with_a_killed_training(renders: Path, tmp_path: Path, gate: SceneGate) -> None:
    # every descendant holds the pipe's writing end open: it is at its end when the last of them is gone
    reader, writer = os.pipe()
    command = gated(renders, tmp_path, "--data.num_workers=2")
    process = subprocess.Popen(command, env=environment(**gate.environment), stdout=writer, stderr=writer)
    os.close(writer)
    gate.wait(1)  # before the first step: both loader processes prepare batches
    listing = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True).stdout
    loaders = [os.pidfd_open(int(word)) for word in listing.split()]
    assert len(loaders) == 2
    process.kill()
    process.wait()
    wait_for_end(loaders)
    while os.read(reader, 1 << 16):
        pass
    os.close(reader)


def test_of_two_trainings_in_one_folder_the_second_is_refused(renders: Path, tmp_path: Path, gate: SceneGate) -> None:
    process = start(gated(renders, tmp_path), tmp_path / "log.txt", **gate.environment)
    gate.wait(1)  # it trains, and has saved nothing yet
    assert not list((tmp_path / "out").glob("checkpoints/*"))
    words = rf"another process \(id {process.pid}\) is training into .*checkpoints: wait .*--trainer.default_root_dir"
    with pytest.raises(UserError, match=words):
        run(pretraining(renders, tmp_path / "out"))
    gate.open(1000)
    assert process.wait() == 0
    last = tmp_path / "out/checkpoints/last.ckpt"
    run(pretraining(renders, tmp_path / "out", f"--ckpt_path={last}"))  # the lock is free


def test_ctrl_c_ends_it_as_interrupted(renders: Path, tmp_path: Path, gate: SceneGate) -> None:
    process = start(gated(renders, tmp_path), tmp_path / "log.txt", **gate.environment)
    gate.wait(1)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait() == 130  # no step was permitted, so none was needed
    said = (tmp_path / "log.txt").read_text()
    assert "interrupting: work in progress is stopped" in said
    assert "run the same command again to continue" in said


def test_sigterm_is_no_success(renders: Path, tmp_path: Path, gate: SceneGate) -> None:
    """Lightning ends a training at the end of the step in which the signal came."""
    process = start(gated(renders, tmp_path), tmp_path / "log.txt", **gate.environment)
    gate.wait(1)
    process.terminate()
    gate.open(1000)
    assert process.wait() == 128 + signal.SIGTERM
    assert not list((tmp_path / "out").glob("checkpoints/*"))


class Deletes(Callback):
    """Deletes a folder before a step, or after the last."""

    def __init__(self, folder: Path, step: int | None) -> None:
        self.folder, self.step = folder, step

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            shutil.rmtree(self.folder)

    def on_train_end(self, *_: Any) -> None:
        if self.step is None:
            shutil.rmtree(self.folder)


@pytest.mark.parametrize("folder,step", [("out", 1), ("out", 6), ("out/checkpoints", 1), ("out/checkpoints", None)])
def test_a_folder_deleted_during_a_training(
    renders: Path,
    tmp_path: Path,
    folder: str,
    step: int | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import lightning_tl.run

    def with_callback(arguments: Sequence[str], callbacks: Sequence[Callback] = ()) -> RunCLI:
        return run(arguments, [*callbacks, Deletes(tmp_path / folder, step)])

    monkeypatch.setattr(lightning_tl.run, "run", with_callback)
    assert main(pretraining(renders, tmp_path / "out")) == 2
    said = capsys.readouterr().err
    assert f"error: {tmp_path / 'out'}" in said
    assert "deleted" in said
    assert "Traceback" not in said
