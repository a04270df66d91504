"""Renders of several workers and of one, interrupted and run again: the bytes of one that was never interrupted."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import yaml
from faults.interrupting import HERE, Campaign, finish, start
from scene_gate import SceneGate
from small_render import CONFIG

from data_gen.farm import LOCK


def command(folder: Path, out: Path, workers: int) -> list[str]:
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    options = [f"--config={folder / 'config.yaml'}", f"--out={out}", "--images=90", "--val-images=30"]
    return [sys.executable, str(HERE / "gated_main.py"), "fake", "render", *options, f"--workers={workers}"]


def files(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file() and p.name != LOCK}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_interrupted_and_run_again(tmp_path: Path) -> None:
    finish(command(tmp_path, tmp_path / "whole", 1), tmp_path / "log.txt")
    whole = files(tmp_path / "whole")
    assert sum(name.endswith(".tar") for name in whole) == 20
    campaign = Campaign(tmp_path / "campaign", seed=0, most=20, whole=True)
    for number, workers in enumerate((1, 3, 2)):
        out = tmp_path / f"out{number}"
        kept: set[str] = set()
        for _ in range(5):
            if campaign.interrupt(command(tmp_path, out, workers)):
                break
            there = {name for name in files(out) if name.endswith(".tar")}
            assert kept <= there
            kept = there
        else:
            finish(command(tmp_path, out, 4 - workers), campaign.log)
        assert files(out) == whole
    print(f"\nrender: {dict(campaign.sent)}")
    assert campaign.sent.total() >= 12


@pytest.mark.parametrize("folder", ["out", pytest.param("out/train/shards", marks=pytest.mark.slow)])
def test_a_folder_removed_during_a_render(tmp_path: Path, folder: str) -> None:
    gate = SceneGate(tmp_path / "gate")
    log = tmp_path / "log.txt"
    process = start(command(tmp_path, tmp_path / "out", 2), log, **gate.environment)
    gate.wait(2)
    gate.open(9)  # one of the two workers has finished a shard when they stand before scenes again
    gate.wait(9)
    shutil.rmtree(tmp_path / folder)
    gate.open(1000)
    assert process.wait(timeout=300) == 2
    gate.close()
    said = log.read_text()
    assert "Traceback (most recent call last):\n" not in said.split("error: ")[0]
    assert str(tmp_path / "out") in said.split("error: ")[1]
    finish(command(tmp_path, tmp_path / "out", 2), log)  # the same command again renders what is missing
    finish(command(tmp_path, tmp_path / "whole", 1), log)
    assert files(tmp_path / "out") == files(tmp_path / "whole")
