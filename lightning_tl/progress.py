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
        rate = self.per_second(done)
        return f"{rate:.1f} {self.unit}/s" if rate else ""


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
        left = f", {(total - done) / per_second:.0f} s left" if per_second and not finished else ""
        print(f"{title}: {done}/{total} {unit}{f', {per_second:.1f}/s' if per_second else ''}{left}", file=sys.stderr)

    return advance
