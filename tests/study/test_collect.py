"""Records of runs as one table of measured values."""

from __future__ import annotations

import csv
from pathlib import Path

from lightning_tl.measured_value import Measured
from lightning_tl.study.collect import collect
from lightning_tl.study.plan import Run


def pretraining(name: str) -> Run:
    return Run(name, name, "pretrain", {}, (), None, None, key=name)


def record(rows: list[dict]) -> dict:
    return {"facts": {}, "metrics": {}, "seconds": 1.0, "checkpoint": "", "measurements": rows}


def test_measurements_of_present_and_earlier_records(tmp_path: Path) -> None:
    """Earlier records hold gamma as text, and empty strings for what does not apply."""
    present = [
        Measured(step=5, quantity="sensitivity", gamma=0.02, value=0.25, stderr=0.125),
        Measured(step=5, quantity="re/hessian", group="weighted_trace", value=2.0),
    ]
    earlier = [
        {"step": 5, "quantity": "sensitivity", "group": "", "gamma": "0.02", "value": 0.25, "stderr": 0.125},
        {"step": 5, "quantity": "re/hessian", "group": "weighted_trace", "gamma": "", "value": 2.0, "stderr": ""},
    ]
    records = {"a": record([item.row() for item in present]), "b": record(earlier)}
    collect([pretraining("a"), pretraining("b"), pretraining("not run")], [], records, tmp_path)
    with (tmp_path / "measurements.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row.pop("run_id") for row in rows] == ["a", "a", "b", "b"]
    assert rows[:2] == rows[2:]
    assert rows[0] == {
        "step": "5",
        "quantity": "sensitivity",
        "group": "",
        "gamma": "0.02",
        "value": "0.25",
        "stderr": "0.125",
    }
