"""Executes runs in the order of their dependencies, on any engine, with retries. Finished runs are not repeated."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from lightning_tl.study.plan_items import Run
from lightning_tl.study.records import read_record
from lightning_tl.study.runs import Call, Outcome

_POLL = 1.0  # seconds between two checks of runs that another process is doing

Records = dict[str, dict[str, Any]]


class Engine(Protocol):
    """Executes runs: :class:`.local_engine.LocalEngine` or :class:`.ray_engine.RayEngine`."""

    @property
    def free(self) -> int:
        """Number of further calls that it can accept now."""

    def submit(self, call: Call) -> None:
        """Begin a run."""

    def wait(self, seconds: float) -> list[Outcome]:
        """Return the outcomes of ended calls, after waiting at most ``seconds`` for the first."""

    def close(self) -> None:
        """End all processes at once."""


def run_all(
    runs: Sequence[Run],
    out: Path,
    engine: Engine,
    retries: int,
    threads: int,
    advance: Callable[[int, int], None],
    finished: Callable[[Records], None] = lambda records: None,
    store: str | None = None,
) -> tuple[Records, dict[str, str]]:
    """Do all runs that have no record yet.

    Args:
        runs: In any order; must contain the runs that others start from.
        out: Folder of the study.
        engine: Executes the runs.
        retries: How often a failed run is tried again. An error in the user's input is not tried again.
        threads: CPU threads per run.
        advance: Called with (runs done, all runs) for a progress bar.
        finished: Called with all records after each finished run.
        store: URL of the study's store, for nodes that share no folder; or None.

    Returns:
        Run name → record, and run name → error of the runs that failed or whose start failed.
    """
    records = load_records(runs, out)
    waiting = [run for run in runs if run.name not in records]
    total = len(runs)
    running: dict[str, Run] = {}
    elsewhere: dict[str, float] = {}  # runs of other processes: name → time of the next check
    attempts: dict[str, int] = {}
    failures: dict[str, str] = {}
    if waiting:
        advance(total - len(waiting), total)
    while waiting or running:
        now = time.monotonic()
        for run in list(waiting):
            if run.start in failures:
                failures[run.name] = f"not run, as {run.start} failed"
            elif run.name in elsewhere and (record := read_record(out / "runs" / run.name / "record.json", run.key)):
                records[run.name] = record
                finished(records)
            elif engine.free and (run.start is None or run.start in records) and elsewhere.get(run.name, 0) < now:
                running[run.name] = run
                engine.submit(run.call(out, records, threads, store))
            else:
                continue
            waiting.remove(run)
        for outcome in engine.wait(_POLL):
            run = running.pop(outcome.name)
            if outcome.record is not None:
                records[run.name] = outcome.record
                finished(records)
            elif outcome.error is None:
                elsewhere[run.name] = time.monotonic() + _POLL
                waiting.append(run)
            elif outcome.again and attempts.get(run.name, 0) < retries:
                attempts[run.name] = attempts.get(run.name, 0) + 1
                waiting.insert(0, run)
            else:
                failures[run.name] = outcome.error
        advance(total - len(waiting) - len(running), total)
    return records, failures


def load_records(runs: Sequence[Run], out: Path) -> Records:
    """Return run name → record for the finished runs."""
    records = {run.name: read_record(out / "runs" / run.name / "record.json", run.key) for run in runs}
    return {name: record for name, record in records.items() if record is not None}
