"""Faults of the machine, each in a process of its own: one message that names the path, no traceback, no hang."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
import yaml
from faults.interrupting import MAIN, start
from faults.step_gate import OVERLAY
from scene_gate import SceneGate, wait_for_end
from training import finetuning


def command(*arguments: str, **kwargs: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*MAIN, *arguments], capture_output=True, text=True, timeout=300, **kwargs)  # type: ignore[call-overload,no-any-return]


def table(folder: Path, label: str = "a") -> Path:
    rows = [f"{1000 * 2**i},{0.5 * 2 ** (-i / 3) + 0.1},{label}" for i in range(6)]
    path = folder / "t.csv"
    path.write_text("\n".join(["pretrain_images,error,render", *rows]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("x")
    return tmp_path / "file"


@pytest.mark.parametrize("place", ["{file}", "{file}/x", "/dev/null/x", "/proc/x", "{long}"])
def test_output_that_cannot_be_written(tmp_path: Path, file: Path, renders: Path, place: str) -> None:
    """In the process, one after the other: a fresh one takes seconds."""
    from lightning_tl.cli.main import main

    out = place.format(file=file, long=tmp_path / ("x" * 300))
    for arguments in (
        ["law", str(table(tmp_path)), f"--out={out}", "--plots=none"],
        ["dataset", "stats", str(renders), f"--out={out}"],
        ["dataset", "export", str(renders), "--format=coco", f"--out={out}"],
        ["dataset", "preview", str(renders), f"--out={out}/a.png", "--count=1"],
        ["render", f"--out={out}", "--images=1"],
        ["study", "run", "--config=study/quickstart", f"--out={out}"],
        ["report", out],
    ):
        assert main(arguments) == 2, arguments


def test_their_messages_name_the_path(tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lightning_tl.cli.main import main

    assert main(["law", str(table(tmp_path)), f"--out={file}/x", "--plots=none"]) == 2
    assert f"error: {file}" in (error := capsys.readouterr().err)
    assert "choose another folder, by --out" in error


@pytest.mark.filterwarnings("ignore")
def test_a_fit_into_a_place_that_cannot_be(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lightning_tl.cli.main import main

    assert main(finetuning(Path("/dev/full/x"))) == 2
    assert "--trainer.default_root_dir" in capsys.readouterr().err
    assert main(finetuning(file / "x")) == 2


def test_names_that_the_terminal_cannot_show(tmp_path: Path) -> None:
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    result = command("law", str(table(tmp_path, "Größe→x")), "--plots=none", env=ascii_only)
    assert result.returncode == 0, result.stderr
    assert "Gr\\xf6" in result.stdout


def test_closed_streams(tmp_path: Path) -> None:
    path = table(tmp_path)
    line = f"exec {' '.join(MAIN)} law {path} --out={tmp_path}/out --plots=none >&- 2>&-"
    assert subprocess.run(["bash", "-c", line], timeout=300).returncode == 0
    assert (tmp_path / "out/fits.json").read_text().startswith("{")  # no output was written into it
    assert subprocess.run(["bash", "-c", line.replace(str(path), "none.csv")], timeout=300).returncode == 2


WORD = "interrupting: work in progress is stopped"


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_is_answered_before_another_step(tmp_path: Path, how: signal.Signals) -> None:
    """No step is permitted after the first has begun: what comes then needs none."""
    (tmp_path / "gated.yaml").write_text(OVERLAY)
    stage = {"config": ["finetune/digits", str(tmp_path / "gated.yaml")], "product": {"data.shots": [3, 4]}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({"finetune": stage, "workers": 1}))
    arguments = ["study", "run", f"--config={tmp_path}/study.yaml", f"--out={tmp_path}/out"]
    gate = SceneGate(tmp_path / "gate")
    process = start([*MAIN, *arguments], tmp_path / "log.txt", **gate.environment)
    (worker,) = gate.wait(1)
    worker_ended = os.pidfd_open(worker)
    if how == signal.SIGINT:
        os.killpg(process.pid, how)  # as the terminal does
    else:
        process.send_signal(how)
    assert process.wait(timeout=300) == 128 + how
    wait_for_end([worker_ended])
    gate.close()
    said = (tmp_path / "log.txt").read_text()
    end = said.index("interrupted: finished work is kept; run the same command again to continue")
    assert how == signal.SIGTERM or said.index(WORD) < end
    assert "leaked" not in said
    assert not list((tmp_path / "out/runs").glob("*/record.json"))
