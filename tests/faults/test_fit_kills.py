"""Trainings on one and on two processes, interrupted and resumed: the files of one that was never interrupted."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from faults.interrupting import MAIN, Campaign, finish
from faults.step_gate import OVERLAY
from training import pretraining

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
KINDS = {"one process": [], "two processes": ["--trainer.devices=2", "--trainer.strategy=ddp"]}


def command(renders: Path, folder: Path, out: Path, more: list[str]) -> list[str]:
    """As a user would go on: from the checkpoint that is there."""
    (folder / "gated.yaml").write_text(OVERLAY)
    options = [f"--config={folder / 'gated.yaml'}", "--trainer.log_every_n_steps=1", "--trainer.max_steps=20", *more]
    for name in ("last", "best"):
        if (checkpoint := out / f"checkpoints/{name}.ckpt").exists():
            options.append(f"--ckpt_path={checkpoint}")
            break
    return [*MAIN, *pretraining(renders, out, *options)]


def result(out: Path) -> dict[str, Any]:
    """What both checkpoints and the history hold, without paths and seconds."""
    found: dict[str, Any] = {}
    for name in ("best", "last"):
        content = torch.load(out / f"checkpoints/{name}.ckpt", weights_only=True)
        found[name] = {key: content[key] for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step")}
        scores = [state.get("best_model_score") for state in content["callbacks"].values() if "dirpath" in state]
        found[name]["scores"] = scores
    with (out / "metrics.csv").open(newline="") as file:
        found["history"] = list(csv.DictReader(file))
    return found


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@pytest.mark.parametrize("kind", KINDS)
def test_interrupted_and_resumed(renders: Path, tmp_path: Path, kind: str) -> None:
    finish(command(renders, tmp_path, tmp_path / "whole", KINDS[kind]), tmp_path / "log.txt")
    whole = result(tmp_path / "whole")
    assert len(whole["history"]) > 20
    processes = len(KINDS[kind]) or 1
    campaign = Campaign(tmp_path / "campaign", seed=processes, most=12 * processes)
    while campaign.sent.total() < 10:
        out = tmp_path / f"out{campaign.rounds}"
        for _ in range(4):
            if campaign.interrupt(command(renders, tmp_path, out, KINDS[kind])):
                break
        else:
            finish(command(renders, tmp_path, out, KINDS[kind]), campaign.log)
        found = result(out)
        for part in whole:
            assert same(whole[part], found[part]), f"{part} after {dict(campaign.sent)}"
    print(f"\nfit on {kind}: {dict(campaign.sent)}")
