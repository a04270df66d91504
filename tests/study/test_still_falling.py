"""Whether validation was still falling when training ended."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from lightning_tl.study.plan_items import Run
from lightning_tl.study.still_falling import last_drop, sentences, still_falling


def run(out: Path, name: str, stage: str, trial: bool = False, **columns: list[float]) -> Run:
    folder = out / "runs" / name / "csv"
    folder.mkdir(parents=True)
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "train/loss", *columns])
        for step, values in enumerate(zip(*columns.values(), strict=True)):
            writer.writerow([2 * step, 0.5, *[""] * len(values)])
            writer.writerow([2 * step + 1, "", *values])
    return Run(name, name, stage, {}, (), None, None, name, trial=trial)


def curve(step: np.ndarray, rate: float) -> list[float]:
    return list(0.2 + 0.6 * np.exp(-rate * step))


STEPS = np.arange(12.0)


def test_of_an_exponential_the_drop_is_known() -> None:
    values = 0.7 * np.exp(-0.1 * STEPS)
    assert last_drop(list(values)) == pytest.approx(1 - np.exp(-0.3))
    assert last_drop([0.3] * 8) == 0
    assert last_drop([0.5, 0.4, 0.3]) is None
    assert last_drop([0.0] * 8) is None


def test_training_that_was_too_short_is_found(tmp_path: Path) -> None:
    drops = [last_drop(curve(STEPS, rate)) for rate in (0.08, 0.09, 0.1)]
    runs = [
        run(tmp_path, f"p{i}", "pretrain", **{"val/error": curve(STEPS, rate), "val/loss": curve(STEPS, 3.0)})
        for i, rate in enumerate((0.08, 0.09, 0.1))
    ]
    runs += [run(tmp_path, f"f{i}", "finetune", **{"val/error": curve(STEPS, 2.0 + i)}) for i in range(3)]
    runs.append(run(tmp_path, "trial", "finetune", trial=True, **{"val/error": curve(STEPS, 0.05)}))
    found = still_falling(runs, {item.name: {} for item in runs}, tmp_path)
    assert set(found) == {"pretrain"}
    expected = stats.ttest_1samp(drops, 0).confidence_interval(0.95)
    assert found["pretrain"]["metric"] == "val/error"
    assert found["pretrain"]["drop"] == pytest.approx(np.mean(drops))
    assert found["pretrain"]["interval"] == pytest.approx(list(expected))
    (sentence,) = sentences(found)
    assert sentence.startswith("Pre-training was still improving when it ended: its validation error fell by ")
    assert "over the last quarter (3 runs, 95 % interval" in sentence


def test_noise_is_not_a_fall(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    runs = [
        run(tmp_path, f"p{i}", "pretrain", **{"val/error": list(0.3 * np.exp(rng.normal(0, 0.05, 12)))})
        for i in range(6)
    ]
    assert still_falling(runs, {item.name: {} for item in runs}, tmp_path) == {}


def test_an_error_that_has_not_begun_to_fall_is_seen_by_its_loss(tmp_path: Path) -> None:
    only = run(tmp_path, "p", "pretrain", **{"val/error": [1.0] * 12, "val/loss": curve(STEPS, 0.1)})
    found = still_falling([only], {"p": {}}, tmp_path)
    assert found["pretrain"]["metric"] == "val/loss"
    assert found["pretrain"]["interval"] is None
    assert "(1 run)" in sentences(found)[0]


def test_runs_without_a_table_or_record_are_left_out(tmp_path: Path) -> None:
    without = Run("x", "x", "pretrain", {}, (), None, None, "x")
    assert still_falling([without], {"x": {}}, tmp_path) == {}
    other = run(tmp_path, "p", "pretrain", **{"val/error": curve(STEPS, 0.1)})
    assert still_falling([other], {}, tmp_path) == {}
