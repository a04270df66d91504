"""What a run's files say of its network: scores, what was forgotten, how fragile it is; and a law's parameters."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_tl._io.json_text import parse_json
from lightning_tl.errors import UserError, shortened
from lightning_tl.study.records import load_json
from lightning_tl.study.shapes import Fits, RunRecord, problem

#: Quantities that say how much worse the network becomes with other weights.
_FRAGILITY = ("sensitivity", "hessian", "quantisation", "pruning", "direction", "critical_sharpness")
_FORGETTING = ("pretrain_loss_", "param_distance", "line_")
_GAMMA = re.compile(r"^(.*?)(?:/gamma_([-+.\deE]+))?(_stderr)?$")


@dataclass
class RunResults:
    """What is known of a run; empty where nothing is.

    Attributes:
        scores: Logged key of validation and test → value.
        forgetting: Columns of ``results.csv`` on the pre-training's loss and the way of the weights → value.
        fragility: ``quantity``, ``gamma``, ``value``, ``stderr`` and ``step``, one for each value.
        images: Number of training images.
    """

    scores: dict[str, float] = field(default_factory=dict)
    forgetting: dict[str, float] = field(default_factory=dict)
    fragility: list[dict[str, Any]] = field(default_factory=list)
    images: int | None = None


def run_results(folder: Path | None, measurements: Path | None, step: int | None) -> RunResults:
    """Return what is known of a run.

    Args:
        folder: Of the run: ``record.json`` of a study, else ``metrics.csv``; ``measurements.csv``.
        measurements: Another ``measurements.csv``.
        step: Of the checkpoint; measurements of this step are taken, or the last ones where there are none.

    Raises:
        UserError: A file is damaged; ``measurements`` is missing, or holds several runs of which none is this one.
    """
    found = RunResults()
    if folder is not None and (folder / "record.json").is_file():
        record = load_json(folder / "record.json", shape=RunRecord)
        found.scores = _scores(record["metrics"])
        facts = record["facts"]
        found.forgetting = {
            name: value for name, value in facts.items() if name.startswith(_FORGETTING) and _real(value)
        }
        found.images = facts.get("images")
        found.fragility = _latest(record.get("measurements", []), step)
    elif folder is not None and (folder / "metrics.csv").is_file():
        logged = _last_values(folder / "metrics.csv", step)
        found.scores = _scores(logged)
        found.fragility = _from_keys(logged, step)
    beside = None if folder is None else folder / "measurements.csv"
    if measurements is not None:
        found.fragility = _from_table(measurements, folder, step)
    elif beside is not None and beside.is_file():
        found.fragility = _from_table(beside, folder, step)
    return found


def _real(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _scores(metrics: Mapping[str, Any]) -> dict[str, float]:
    wanted = ("test/", "val/")
    return {key: float(value) for key, value in metrics.items() if key.startswith(wanted) and _real(value)}


def _last_values(path: Path, step: int | None) -> dict[str, float]:
    """Return the last value of each column of ``metrics.csv``, up to a step."""
    values: dict[str, float] = {}
    for row in _rows(path):
        at = row.get("step") or ""
        if step is not None and at.isdigit() and int(at) > step:
            continue
        for key, text in row.items():
            number = _number(text)
            if key and number is not None:
                values[key] = number
    return values


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _from_keys(logged: Mapping[str, float], step: int | None) -> list[dict[str, Any]]:
    """Return the measurements among logged values (``sensitivity/gamma_0.02``, ``…_stderr``)."""
    rows = []
    for key, value in logged.items():
        match = _GAMMA.match(key)
        if match is None or match[3] or key.partition("/")[0] not in _FRAGILITY or match[1].endswith("/seconds"):
            continue
        rows.append(
            {
                "step": step,
                "quantity": match[1],
                "gamma": None if match[2] is None else float(match[2]),
                "value": value,
                "stderr": logged.get(f"{key}_stderr"),
            }
        )
    return rows


def _latest(rows: Iterable[Mapping[str, Any]], step: int | None) -> list[dict[str, Any]]:
    """Return the rows of the step, or of the last one, that say how fragile the network is."""
    wanted = [row for row in rows if str(row["quantity"]).partition("/")[0] in _FRAGILITY and _real(row["value"])]
    steps = {int(row["step"]) for row in wanted}
    if not steps:
        return []
    chosen = step if step in steps else max(steps)
    return [
        {
            "step": chosen,
            "quantity": "/".join(filter(None, (row["quantity"], row.get("group")))),
            "gamma": row.get("gamma"),
            "value": row["value"],
            "stderr": row.get("stderr"),
        }
        for row in wanted
        if int(row["step"]) == chosen
    ]


def _from_table(path: Path, folder: Path | None, step: int | None) -> list[dict[str, Any]]:
    rows = _rows(path)
    if rows and not {"step", "quantity", "value"} <= rows[0].keys():
        raise UserError(f"{path}: is no measurements.csv: it lacks one of the columns step, quantity, value")
    runs = {row.get("run_id") or "" for row in rows}
    if len(runs) > 1:
        name = "" if folder is None else folder.name
        if name not in runs:
            raise UserError(
                f"{path}: holds measurements of {len(runs)} runs, and none is of '{shortened(name)}', the checkpoint's "
                "run; give a table of this run"
            )
        rows = [row for row in rows if row.get("run_id") == name]
    found = []
    for number, row in enumerate(rows, start=2):
        at, value = _number(row["step"]), _number(row["value"])
        if at is None or at != int(at):
            raise UserError(f"{path}, line {number}: step is '{shortened(row['step'])}', no whole number")
        gamma, stderr = _number(row.get("gamma")), _number(row.get("stderr"))
        found.append(dict(row) | {"step": int(at), "value": value, "gamma": gamma, "stderr": stderr})
    return _latest(found, step)


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as a table ({getattr(error, 'strerror', None) or error})") from error


def law_facts(path: Path) -> list[dict[str, Any]]:
    """Return the parameters of each fitted law of ``fits.json``, with their intervals, and the verdict.

    Args:
        path: The file.

    Raises:
        UserError: It is missing or is no ``fits.json``.
    """
    try:
        content = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"--law {path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if reason := problem(content, Fits):
        raise UserError(f"--law {path}: is no fits.json of lightning-tl law or of a study: {reason}")
    found = []
    for group in content["groups"]:
        law, advice = group.get("law"), group.get("advice") or {}
        if law is None:
            continue
        parameters = {
            name: {
                "value": each["value"],
                "interval": each["interval"],
                "identified": each["identified"],
                "reason": each["reason"],
            }
            for name, each in law["params"].items()
        }
        found.append(
            {
                "label": group["label"],
                "formula": law["form"]["formula"],
                "level": law.get("level"),
                "parameters": parameters,
                "verdict": advice.get("verdict"),
                "sentences": list(advice.get("sentences", [])),
            }
        )
    return found
