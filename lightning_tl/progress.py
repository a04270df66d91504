"""Progress bars with rate and remaining time; plain lines where there is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int, int], None]


@contextmanager
def progress_bar(title: str, unit: str) -> Iterator[Advance]:
    """Show a progress bar; yield a function to be called with (done, total).

    Items done at the first call do not count for the rate. Without a terminal a line is printed every ten seconds.

    Args:
        title: Text before the bar.
        unit: Name of the items, such as ``images``.
    """
    if not sys.stderr.isatty():
        yield _lines(title, unit)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    # remaining time from the last five minutes: over rich's 30 seconds a slow render finishes no item
    with Progress(*columns, console=Console(stderr=True), speed_estimate_period=300) as bars:
        task = bars.add_task(title, total=None, rate="")
        rate = _Rate(unit)
        yield lambda done, total: bars.update(task, completed=done, total=total, rate=rate(done))


class _Rate:
    def __init__(self, unit: str) -> None:
        self.unit, self.first, self.begun = unit, -1, 0.0

    def per_second(self, done: int) -> float:
        if self.first < 0:
            self.first, self.begun = done, time.monotonic()
        return (done - self.first) / max(1e-9, time.monotonic() - self.begun)

    def __call__(self, done: int) -> str:
        return rate_text(self.per_second(done), f" {self.unit}")


def rate_text(per_second: float, unit: str = "") -> str:
    """Return a rate with two digits or more: by the second, the minute or the hour; empty for none."""
    for seconds, name in ((1, "s"), (60, "min"), (3600, "h")):
        if per_second * seconds >= 1 or (per_second > 0 and name == "h"):
            return f"{per_second * seconds:.1f}{unit}/{name}"
    return ""


def duration(seconds: float) -> str:
    """Return a duration in seconds, minutes or hours, as ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _lines(title: str, unit: str) -> Advance:
    rate = _Rate(unit)
    last = [time.monotonic(), -1.0]

    def advance(done: int, total: int) -> None:
        per_second = rate.per_second(done)
        now = time.monotonic()
        finished = done == total and last[1] != total
        if now - last[0] < 10 and not finished:
            return
        last[0], last[1] = now, done
        left = f", {duration((total - done) / per_second)} left" if per_second and not finished else ""
        speed = rate_text(per_second)
        print(f"{title}: {done}/{total} {unit}{f', {speed}' if speed else ''}{left}", file=sys.stderr)

    return advance
