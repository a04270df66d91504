"""How much the runs of shipped studies do, and which of them are equally fast, held against what their YAML says."""

from __future__ import annotations

from pathlib import Path

import pytest
from study.shipped import CONFIGS, read

from lightning_tl.study.expansion import expand
from lightning_tl.study.plan import data_sets
from lightning_tl.study.preflight import draw_up, prepare_renders
from lightning_tl.study.run_counts import kinds_of, work_of


def drawn(name: str, place: Path):
    study = read(CONFIGS / "study" / f"{name}.yaml")
    expansion = expand(study)
    prepare_renders(data_sets(expansion), place / "none", place)
    return draw_up(expansion, place).runs


def test_steps_follow_from_the_schedule(tmp_path):
    """Four tasks of 100 or 150 steps, validated after each 50; three fine-tunings that are validated once."""
    runs = [
        run
        for run in drawn("scaling_law_small", tmp_path)
        if (run.point.get("data.n") == 32 if run.stage == "pretrain" else run.start is None)
    ]
    work = work_of(runs, tmp_path, 64)
    pretrain = [work[run.name] for run in runs if run.stage == "pretrain"]
    assert sorted((item.steps, item.validations) for item in pretrain) == [(100, 2), (100, 2), (100, 2), (150, 3)]
    finetune = [work[run.name] for run in runs if run.stage == "finetune"]
    assert sorted((item.steps, item.validations) for item in finetune) == [(100, 1), (160, 1), (200, 1)]
    assert len({item.kind for item in pretrain}) == 4
    assert len({item.kind for item in finetune}) == 3


@pytest.mark.slow
def test_budgets_the_best_network_and_forgetting(tmp_path):
    """Budgets of 64 to 512 steps with one validation each; every fine-tuning measures what was forgotten."""
    runs = drawn("overtraining_small", tmp_path)
    work = work_of(runs, tmp_path, 256)
    pretrain = [work[run.name] for run in runs if run.stage == "pretrain"]
    assert sorted({item.steps for item in pretrain}) == [64, 128, 256, 512]
    assert {(item.validations, item.val_images, item.start_images) for item in pretrain} == {(1, 256, 0)}
    finetune = [work[run.name] for run in runs if run.stage == "finetune"]
    assert len(finetune) == 256
    # losses of 256 validation images, twice 1,024 for BatchNorm, and the line through the 256
    assert {item.start_images for item in finetune} == {4 * 256 + 2 * 1024 + 11 * 256}
    assert {item.kind for item in finetune} == {"finetune"}


@pytest.mark.parametrize("name,stage,count", [("model_size_small", "pretrain", 3), ("quickstart", "pretrain", 1)])
def test_kinds_are_what_may_differ_in_speed(tmp_path, name, stage, count):
    runs = drawn(name, tmp_path)
    kinds = kinds_of(runs)
    own = {kinds[run.name] for run in runs if run.stage == stage}
    assert len(own) == count
    assert own == ({stage} if count == 1 else {f"{stage} model.backbone=resnet10_w{w}" for w in (8, 16, 32)})
