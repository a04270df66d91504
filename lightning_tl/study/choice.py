"""Chooses a setting of fine-tuning by trial runs: once for training from scratch, once per series of pre-trainings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lightning_tl.errors import UserError
from lightning_tl.study.config import Choice, Study
from lightning_tl.study.grid import Point, label
from lightning_tl.study.plan_items import Run

# Axes within a series of pre-trainings: one value is chosen for all their values.
_SERIES = ("data.n", "seed_everything")


def origin(point: Point | None) -> str:
    """Return the name of a series by the axes of a pre-training: those without n and seed; of None ``scratch``."""
    if point is None:
        return "scratch"
    return label({key: value for key, value in point.items() if key not in _SERIES}) or "pretrained"


def choose(choice: Choice, runs: Iterable[Run], records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return, for each series (and value of the axes in ``each``), the best value and the metric of every value tried.

    Args:
        choice: The setting and the metric, of which the lowest value is the best.
        runs: Of the study, the trials among them.
        records: Records of the runs that are finished.

    Returns:
        Series → ``{"chosen": value, "tried": [[value, metric], …]}``.

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
        entry = chosen.setdefault(_choice_key(choice, by_name.get(run.start or ""), run.point), {"tried": []})
        entry["tried"].append([run.point[choice.key], metrics[choice.metric]])
    for entry in chosen.values():
        entry["chosen"] = min(entry["tried"], key=lambda pair: pair[1])[0]
    return chosen


def chosen_value(study: Study, start: Run | None, point: Point, chosen: Mapping[str, Any]) -> Point:
    """Return the chosen key and value for a fine-tuning; empty where the key is one of its axes.

    Args:
        study: The study.
        start: The pre-training that it starts from; None for random weights.
        point: Its own axes' values.
        chosen: From :func:`choose`.
    """
    if study.choose is None or study.choose.key in point:
        return {}
    return {study.choose.key: chosen[_choice_key(study.choose, start, point)]["chosen"]}


def alike(choice: Choice, point: Point) -> Point:
    """Return the values of the axes of fine-tuning for each of which one value is chosen."""
    return {key: point[key] for key in ("config", *choice.each) if point.get(key)}


def _choice_key(choice: Choice, start: Run | None, point: Point) -> str:
    return " ".join(filter(None, [origin(start.point if start else None), label(alike(choice, point))]))
