"""Studies, with their rendering, on processes of this machine and on Ray, interrupted and run again."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from faults.interrupting import HERE, Campaign, finish
from faults.step_gate import OVERLAY
from study.small_study import SMALL, rows
from training import equal, weights

pytestmark = [pytest.mark.slow, pytest.mark.render, pytest.mark.timeout(3600)]

SCENE = {"image": {"size": 24, "samples": 1}, "camera": {"views": 2}, "scenes_per_shard": 2, "categories": ["digits"]}
ENGINES = {"local": {"workers": 2}, "ray": {"workers": 2, "engine": "ray"}}
INTERRUPTIONS = {"local": 10, "ray": 5}  # a cluster takes long to start


def write(folder: Path, sizes: Sequence[int] = (8, 16), draws: Sequence[int] = (0, 1), **more: Any) -> Path:
    """A study with a pre-training for each size, and fine-tunings of these and of none for each draw."""
    folder.mkdir(exist_ok=True)
    (folder / "gated.yaml").write_text(OVERLAY)
    (folder / "digits.yaml").write_text(yaml.safe_dump(SCENE))
    gated = str(folder / "gated.yaml")
    steps = {"trainer.max_steps": 8, "data.steps_per_epoch": 4}
    settings = {
        "render": {"config": str(folder / "digits.yaml"), "val_images": 8},
        "pretrain": {
            "config": ["pretrain/small_images", gated],
            "set": SMALL | steps,
            "product": {"data.n": list(sizes)},
        },
        "finetune": {
            "config": ["finetune/digits", gated],
            "set": SMALL | steps | {"data.shots": 1},
            "zip": [{"data.draw": list(draws), "seed_everything": list(draws)}],
        },
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(settings | more))
    return path


def command(path: Path, out: Path) -> list[str]:
    main = [sys.executable, str(HERE / "gated_main.py"), "crashing"]
    return [*main, "study", "run", f"--config={path}", f"--out={out}"]


def shards(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.glob("renders/**/*.tar"))}


def assert_same(out: Path, whole: Path) -> None:
    assert rows(out) == rows(whole)
    assert (out / "measurements.csv").read_bytes() == (whole / "measurements.csv").read_bytes()
    assert shards(out) == shards(whole)
    saved = sorted(path.relative_to(whole) for path in whole.glob("runs/*/checkpoints/*.ckpt"))
    assert saved == sorted(path.relative_to(out) for path in out.glob("runs/*/checkpoints/*.ckpt"))
    for path in saved:
        assert equal(weights(out / path), weights(whole / path)), path


@pytest.mark.parametrize("engine", ENGINES)
def test_interrupted_and_run_again(tmp_path: Path, engine: str) -> None:
    whole = tmp_path / "whole"
    finish(command(write(tmp_path / "undisturbed", workers=1), whole), tmp_path / "log.txt")
    assert len(rows(whole)) == 6
    assert len(shards(whole)) == 6
    assert all(torch.isfinite(value).all() for value in weights(next(whole.rglob("last.ckpt"))).values())
    path = write(tmp_path / "study", **ENGINES[engine])
    campaign = Campaign(tmp_path / "campaign", seed=len(engine), most=30, whole=True)
    while campaign.sent.total() < INTERRUPTIONS[engine]:
        out = tmp_path / f"out{campaign.rounds}"
        for _ in range(4):
            if campaign.interrupt(command(path, out)):
                break
        else:
            finish(command(path, out), campaign.log)
        assert_same(out, whole)
    print(f"\nstudy, {engine}: {dict(campaign.sent)}")
