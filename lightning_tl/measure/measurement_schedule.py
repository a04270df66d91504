"""When a run is measured: steps, moments of the run, and a limit on the time spent."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque

from lightning_tl.errors import UserError
from lightning_tl.measure.arguments import flag, number, whole


class Schedule:
    """Steps, moments and a time budget.

    Args:
        every_n_steps: Measure after every this many optimiser steps. None: not by a number of steps.
        log_steps: Measure at this many log-spaced steps per decade: with 3, after 1, 3, 5, 10, 22, 47, 100, …
        at_start: Measure before the first step.
        at_epoch_end: Measure at the end of every training epoch.
        at_validation: Measure after every validation.
        at_end: Measure at the end of the training.
        overhead: Skip a measurement if measuring would then have taken more than this share of the time so far.

    Raises:
        UserError: An argument is out of range, or nothing would ever be measured.
    """

    def __init__(
        self,
        every_n_steps: int | None = None,
        log_steps: int | None = None,
        at_start: bool = True,
        at_epoch_end: bool = False,
        at_validation: bool = False,
        at_end: bool = True,
        overhead: float | None = None,
    ) -> None:
        for name, steps in (("every_n_steps", every_n_steps), ("log_steps", log_steps)):
            if steps is not None:
                whole(name, steps, why=", or None for never")
        if overhead is not None and number("overhead", overhead, 0, 1, open_ends=True) <= 0:
            raise UserError(f"overhead={overhead!r} must be between 0 and 1")
        self.every_n_steps, self.log_steps, self.overhead = every_n_steps, log_steps, overhead
        self.at_start, self.at_epoch_end = flag("at_start", at_start), flag("at_epoch_end", at_epoch_end)
        self.at_validation, self.at_end = flag("at_validation", at_validation), flag("at_end", at_end)
        if not (every_n_steps or log_steps or at_start or at_epoch_end or at_validation or at_end):
            raise UserError(
                "nothing would ever be measured: set every_n_steps, log_steps, at_epoch_end, at_validation or at_end"
            )
        self.spent = self.longest = 0.0
        self.began = time.perf_counter()

    def due(self, step: int) -> bool:
        """Return whether to measure after a step (from 1 on)."""
        if self.every_n_steps and step % self.every_n_steps == 0:
            return True
        return bool(self.log_steps) and (step == 1 or self._decade(step) > self._decade(step - 1))

    def affordable(self) -> bool:
        """Return whether another measurement stays within the overhead, by this process's clock."""
        if self.overhead is None:
            return True
        return self.spent + self.longest <= self.overhead * (time.perf_counter() - self.began)

    def took(self, seconds: float) -> None:
        """Count the seconds of a measurement."""
        self.spent += seconds
        self.longest = max(self.longest, seconds)

    def _decade(self, step: int) -> int:
        return math.floor((self.log_steps or 0) * math.log10(step) + 1e-9)


class Cost:
    """What a measurement costs, in training steps: its seconds over the median time from one step to the next."""

    # seconds that all measurements of this process have taken, so that none counts as training
    measuring = 0.0

    def __init__(self) -> None:
        self._steps: deque[float] = deque(maxlen=50)
        self._last: tuple[float, float] | None = None
        self.seconds: float | None = None

    @property
    def steps(self) -> int:
        """How many intervals between steps are known."""
        return len(self._steps)

    def step(self) -> None:
        """Note that a step has ended."""
        now = time.perf_counter(), Cost.measuring
        if self._last is not None:
            self._steps.append(now[0] - self._last[0] - (now[1] - self._last[1]))
        self._last = now

    def took(self, seconds: float, whole: bool = True) -> None:
        """Note the seconds of a measurement; ``whole`` is False for one that failed."""
        Cost.measuring += seconds
        self.seconds = seconds if whole else self.seconds

    def in_steps(self) -> float | None:
        """Return how many training steps the last measurement took the time of; None while that is not known."""
        if self.seconds is None or not self._steps:
            return None
        return self.seconds / max(statistics.median(self._steps), 1e-9)
