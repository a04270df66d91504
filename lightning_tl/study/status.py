"""`study status`: the state and progress of each run, and the reason of each failure."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_tl.study.plan_items import DataSet, Run
from lightning_tl.study.records import read_state

# A run whose state.json is older than this counts as interrupted; a training run rewrites it every second.
_SILENT_SECONDS = 120.0


@dataclass(frozen=True)
class Line:
    """One run: ``done``, ``running``, ``interrupted``, ``failed`` or ``waiting``, with a detail for the user."""

    name: str
    state: str
    detail: str = ""


def lines(runs: Sequence[Run], records: Mapping[str, Mapping[str, Any]], out: Path) -> list[Line]:
    """Return each run's state; a run whose start failed is never done."""
    found = {run.name: _line(run, records.get(run.name), out) for run in runs}
    for run in runs:
        line, start = found[run.name], found.get(run.start or "")
        if line.state == "waiting" and start is not None and start.state == "failed":
            found[run.name] = Line(run.name, "failed", f"not run, as {start.name} failed")
    return list(found.values())


def _line(run: Run, record: Mapping[str, Any] | None, out: Path) -> Line:
    if record is not None:
        error = record["metrics"].get("test/error", record["metrics"].get("val/error"))
        return Line(run.name, "done", f"{record['seconds']:.0f} s" + ("" if error is None else f", error {error:.4f}"))
    state = read_state(out / "runs" / run.name)
    if state.get("key") != run.key:
        return Line(run.name, "waiting")
    if state.get("status") == "failed":
        return Line(run.name, "failed", str(state.get("error", "")))
    step, steps, spent = state.get("step", 0), state.get("steps", 0), state.get("spent", 0.0)
    detail = f"step {step}/{steps}" if steps else "starting"
    if time.time() - state.get("time", 0.0) > _SILENT_SECONDS:
        return Line(run.name, "interrupted", detail)
    if step and steps > step:
        detail += f", {spent / step * (steps - step):.0f} s left on {state.get('host', '')}"
    return Line(run.name, "running", detail)


def table(sets: Sequence[DataSet], runs: Sequence[Line], out: Path, verbose: bool) -> str:
    """Return the table for the terminal: counts, then the runs that are running, interrupted or failed (or all)."""
    rendered = sum((out / "renders" / data.name / "val" / "manifest.json").is_file() for data in sets)
    counts = {state: sum(line.state == state for line in runs) for state in _STATES}
    text = [f"data sets: {rendered} of {len(sets)} rendered"] if sets else []
    if sets and not runs:
        text.append("runs are planned once the data sets are rendered")
    if runs:
        text.append(f"{len(runs)} runs: " + ", ".join(f"{n} {state}" for state, n in counts.items() if n))
    width = max((len(line.name) for line in runs), default=0)
    text += [
        f"  {line.name:<{width}}  {line.state:<11}  {line.detail}".rstrip()
        for line in runs
        if verbose or line.state in ("running", "interrupted", "failed")
    ]
    return "\n".join(text)


_STATES = ("done", "running", "interrupted", "failed", "waiting")
ENDED = ("done", "failed")
