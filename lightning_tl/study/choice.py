"""A value of fine-tuning chosen by trial runs: once for scratch, once for each series of pre-trainings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lightning_tl.errors import UserError
from lightning_tl.study.config import Choice, Study
from lightning_tl.study.grid import Point, label
from lightning_tl.study.planned import Run

# Keys that fine-tuning chooses a value for once, whatever their values are.
_SERIES = ("data.n", "seed_everything")


def origin(run: Run | None) -> str:
    """Return what a value is chosen once for: the axes of a pre-training but n and seed; ``scratch`` for none."""
    if run is None:
        return "scratch"
    return label({key: value for key, value in run.point.items() if key not in _SERIES}) or "pretrained"


def choose(choice: Choice, runs: Iterable[Run], records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return by origin (and configuration of fine-tuning) the value with the lowest metric, and all values' metrics.

    Raises:
        UserError: The metric was not logged.
    """
    chosen: dict[str, dict[str, Any]] = {}
    by_name = {run.name: run for run in runs}
    for run in by_name.values():
        if run.stage != "finetune" or run.name not in records:
            continue
        metrics = records[run.name]["metrics"]
        if choice.metric not in metrics:
            raise UserError(
                f"choose.metric is {choice.metric}, which run {run.name} did not log; it has {', '.join(metrics)}"
            )
        entry = chosen.setdefault(_choice_key(by_name.get(run.start or ""), run.point), {"tried": []})
        entry["tried"].append([run.point[choice.key], metrics[choice.metric]])
    for entry in chosen.values():
        entry["chosen"] = min(entry["tried"], key=lambda pair: pair[1])[0]
    return chosen


def chosen_value(study: Study, start: Run | None, point: Point, chosen: Mapping[str, Any]) -> Point:
    """Return the key and value that were chosen for a fine-tuning; nothing where it is one of its axes.

    Args:
        study: The study.
        start: The pre-training that it starts from; None: from random weights.
        point: Its own axes' values.
        chosen: From :func:`choose`.
    """
    if study.choose is None or study.choose.key in point:
        return {}
    return {study.choose.key: chosen[_choice_key(start, point)]["chosen"]}


def _choice_key(start: Run | None, point: Point) -> str:
    config = point.get("config")
    return origin(start) + (f" {label({'config': config})}" if config else "")
