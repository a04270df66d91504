"""Runs in the order of what they need, on any engine, with retries; what has a record is not done again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from lightning_tl.study.planned import Run
from lightning_tl.study.records import read_record
from lightning_tl.study.runs import Call, Outcome

_POLL = 1.0  # seconds between two looks at what another process is doing

Records = dict[str, dict[str, Any]]


class Engine(Protocol):
    """Where runs are done."""

    @property
    def free(self) -> int:
        """How many more calls it can take now."""

    def submit(self, call: Call) -> None:
        """Begin a run."""

    def wait(self, seconds: float) -> list[Outcome]:
        """Return what has ended, waiting at most so long for the first."""

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
        runs: In any order; what one starts from is among them.
        out: Folder of the study.
        engine: Where to do them.
        retries: How often a run that failed is tried again; what the user gave wrong is not.
        threads: Of a run.
        advance: Called with (runs done, runs to do), for a progress bar; those that have a record count in neither.
        finished: Called with all records after one was added.
        store: URL where runs go that nodes without a common folder do.

    Returns:
        Name → record, and name → error of the runs that failed or whose start did.
    """
    records = load_records(runs, out)
    waiting = [run for run in runs if run.name not in records]
    total = len(waiting)
    running: dict[str, Run] = {}
    elsewhere: dict[str, float] = {}  # name → when to look again
    attempts: dict[str, int] = {}
    failures: dict[str, str] = {}
    if waiting:
        advance(0, total)
    while waiting or running:
        now = time.monotonic()
        for run in list(waiting):
            if run.start in failures:
                failures[run.name] = f"not run, as {run.start} failed"
            elif run.name in elsewhere and (found := read_record(out / "runs" / run.name / "record.json", run.key)):
                records[run.name] = found
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
    """Return the records of the runs that have one."""
    found = {run.name: read_record(out / "runs" / run.name / "record.json", run.key) for run in runs}
    return {name: record for name, record in found.items() if record is not None}
