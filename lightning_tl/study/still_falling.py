"""Whether validation was still improving when training ended: then longer training comes before other images."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from lightning_tl.study.plan_items import Run

#: Share by which validation must fall over the last quarter of a training to be called still falling.
LEAST = 0.05
_LEAST_VALIDATIONS = 4
_LEVEL = 0.95
_NAMES = {"val/error": "validation error", "val/loss": "validation loss"}
_STAGES = {"pretrain": "Pre-training", "finetune": "Fine-tuning"}


def last_drop(values: Sequence[float]) -> float | None:
    """Return by which share a curve's mean over its last quarter is below that of the quarter before.

    Args:
        values: One per validation, in order.

    Returns:
        The share; None for fewer than four values, or where the quarter before is not over 0.
    """
    if len(values) < _LEAST_VALIDATIONS:
        return None
    quarter = len(values) // 4
    before, last = np.mean(values[-2 * quarter : -quarter]), np.mean(values[-quarter:])
    return float(1 - last / before) if before > 0 and np.isfinite(last) else None


def history(path: Path, column: str) -> list[float]:
    """Return the values of a column of a ``metrics.csv``; none where there is no such file or column."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [float(row[column]) for row in csv.DictReader(file) if row.get(column)]


def still_falling(runs: Iterable[Run], records: Mapping[str, Any], out: Path) -> dict[str, dict[str, Any]]:
    """Return, for each stage whose validation was still falling at its end, what fell and by how much.

    A stage is still falling where the mean over its runs of the drop in the last quarter (see :func:`last_drop`) is at
    least :data:`LEAST` and, of several runs, its t interval excludes 0. Trial runs do not count.

    Args:
        runs: The study's runs.
        records: Records of the finished ones.
        out: Folder of the study; the runs' ``metrics.csv`` are read.

    Returns:
        Stage → ``{"metric", "drop", "interval": [low, high] or None, "runs"}``.
    """
    finished = [run for run in runs if run.name in records and not run.trial]
    falling: dict[str, dict[str, Any]] = {}
    for stage in _STAGES:
        tables = [next((out / "runs" / run.name).rglob("metrics.csv"), None) for run in finished if run.stage == stage]
        for metric in _NAMES:
            drops = [drop for path in tables if path and (drop := last_drop(history(path, metric))) is not None]
            if not drops:
                continue
            mean, interval = float(np.mean(drops)), None
            if len(drops) > 1:
                half = stats.t.ppf((1 + _LEVEL) / 2, len(drops) - 1) * np.std(drops, ddof=1) / np.sqrt(len(drops))
                interval = [mean - float(half), mean + float(half)]
            if mean >= LEAST and (interval is None or interval[0] > 0):
                falling[stage] = {"metric": metric, "drop": mean, "interval": interval, "runs": len(drops)}
                break
    return falling


def sentences(falling: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say which stage was still improving when it ended, and what to do."""
    texts = []
    for stage, fact in falling.items():
        runs = f"{fact['runs']} run{'s' * (fact['runs'] != 1)}"
        interval, metric = fact["interval"], fact["metric"]
        ends = f", {100 * _LEVEL:g} % interval {100 * interval[0]:.0f} to {100 * interval[1]:.0f} %" if interval else ""
        texts.append(
            f"{_STAGES.get(stage, stage)} was still improving when it ended: its {_NAMES.get(metric, metric)} fell by "
            f"{100 * fact['drop']:.0f} % over the last quarter ({runs}{ends}). Train longer (trainer.max_steps, or "
            f"model.schedule's images) before you conclude that other images are needed."
        )
    return texts
