"""`study status`: what is done, what is running and how far, what failed and why."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_tl.study.planned import DataSet, Run
from lightning_tl.study.records import load_json

# Without a note for so long a run is taken for interrupted; notes come every second while it trains.
_SILENT_SECONDS = 120.0


@dataclass(frozen=True)
class Line:
    """One run's state: ``done``, ``running``, ``interrupted``, ``failed`` or ``waiting``; and what to say of it."""

    name: str
    state: str
    progress: str = ""


def lines(runs: Sequence[Run], records: Mapping[str, Mapping[str, Any]], out: Path) -> list[Line]:
    """Return each run's state."""
    return [_line(run, records.get(run.name), out) for run in runs]


def _line(run: Run, record: Mapping[str, Any] | None, out: Path) -> Line:
    if record is not None:
        error = record["metrics"].get("test/error", record["metrics"].get("val/error"))
        return Line(run.name, "done", f"{record['seconds']:.0f} s" + ("" if error is None else f", error {error:.4f}"))
    state = load_json(out / "runs" / run.name / "state.json", missing={})
    if state.get("key") != run.key:
        return Line(run.name, "waiting")
    if state.get("status") == "failed":
        return Line(run.name, "failed", str(state.get("error", "")))
    step, steps, spent = state.get("step", 0), state.get("steps", 0), state.get("spent", 0.0)
    progress = f"step {step}/{steps}" if steps else "starting"
    if time.time() - state.get("time", 0.0) > _SILENT_SECONDS:
        return Line(run.name, "interrupted", progress)
    if step and steps > step:
        progress += f", {spent / step * (steps - step):.0f} s left on {state.get('host', '')}"
    return Line(run.name, "running", progress)


def table(sets: Sequence[DataSet], found: Sequence[Line], out: Path, verbose: bool) -> str:
    """Return the table for the terminal: counts, then running, interrupted and failed runs (or all)."""
    rendered = sum((out / "renders" / each.name / "val" / "manifest.json").is_file() for each in sets)
    counts = {state: sum(line.state == state for line in found) for state in _STATES}
    text = [f"data sets: {rendered} of {len(sets)} rendered"] if sets else []
    if sets and not found:
        text.append("runs are planned once the data sets are rendered")
    if found:
        text.append(f"{len(found)} runs: " + ", ".join(f"{n} {state}" for state, n in counts.items() if n))
    width = max((len(line.name) for line in found), default=0)
    text += [
        f"  {line.name:<{width}}  {line.state:<11}  {line.progress}".rstrip()
        for line in found
        if verbose or line.state in ("running", "interrupted", "failed")
    ]
    return "\n".join(text)


_STATES = ("done", "running", "interrupted", "failed", "waiting")
ENDED = ("done", "failed")
