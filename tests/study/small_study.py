"""A small study of two pre-training sizes and two draws, and what it leaves."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import yaml

SMALL = {"data.batch_size": 8, "model.scheduler.warmup_steps": 2}


def write(folder: Path, renders: Path, sizes=(8, 24), draws=(0, 1), **changes) -> Path:
    settings = {
        "pretrain": {
            "config": "pretrain/small_images",
            "set": SMALL | {"data.root": str(renders), "trainer.max_steps": 8, "data.steps_per_epoch": 4},
            "product": {"data.n": list(sizes)},
        },
        "finetune": {
            "config": "finetune/digits",
            "set": SMALL | {"data.shots": 1, "trainer.max_steps": 4, "data.steps_per_epoch": 2},
            "zip": [{"data.draw": list(draws), "seed_everything": list(draws)}],
        },
        "workers": 2,
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(settings | changes))
    return path


def run(path: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "lightning_tl.cli.main", "study", "run", f"--config={path}", f"--out={out}"]


def records(out: Path) -> dict[str, int]:
    """The records' inodes: one that is written again has another."""
    return {path.parent.name: path.stat().st_ino for path in (out / "runs").glob("*/record.json")}


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def kill_after(command: list[str], out: Path, more: int) -> None:
    """Run until so many more records are there, then SIGKILL the whole command."""
    wanted = len(records(out)) + more
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(records(out)) < wanted and started.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            started.wait(timeout=0.05)
    assert started.poll() is None, "the study ended before it was killed"
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
