"""When a callback measures: steps, moments of the run, and a limit on the time spent."""

from __future__ import annotations

import math
import time
from typing import Any

from lightning_tl.errors import UserError


class MeasurementSchedule:
    """Steps, moments and a time budget; arguments as for :class:`~lightning_tl.callbacks.measurement.Measurement`."""

    def __init__(
        self,
        every_n_steps: int | None,
        log_steps: int | None,
        at_start: bool,
        at_epoch_end: bool,
        at_validation: bool,
        overhead: float | None,
    ) -> None:
        for name, number in (("every_n_steps", every_n_steps), ("log_steps", log_steps)):
            if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 1):
                raise UserError(f"{name}={number!r} must be a whole number ≥ 1, or None for never")
        if overhead is not None and not 0 < overhead < 1:
            raise UserError(f"overhead={overhead!r} must be between 0 and 1, the share of the run spent on measuring")
        if not (every_n_steps or log_steps or at_start or at_epoch_end or at_validation):
            raise UserError(
                "nothing would ever be measured: set every_n_steps, log_steps, at_epoch_end or at_validation"
            )
        self.every_n_steps, self.log_steps, self.overhead = every_n_steps, log_steps, overhead
        self.at_start, self.at_epoch_end, self.at_validation = at_start, at_epoch_end, at_validation
        self.spent = self.longest = 0.0
        self.began = time.perf_counter()

    def due(self, step: int) -> bool:
        """Return whether to measure after a step (from 1 on)."""
        if self.every_n_steps and step % self.every_n_steps == 0:
            return True
        return bool(self.log_steps) and (step == 1 or self._decade(step) > self._decade(step - 1))

    def affordable(self, trainer: Any) -> bool:
        """Return whether another measurement stays within the overhead; process 0 decides for all."""
        if self.overhead is None:
            return True
        elapsed = time.perf_counter() - self.began
        return bool(trainer.strategy.broadcast(self.spent + self.longest <= self.overhead * elapsed))

    def took(self, seconds: float) -> None:
        """Count the seconds of a measurement."""
        self.spent += seconds
        self.longest = max(self.longest, seconds)

    def _decade(self, step: int) -> int:
        return math.floor((self.log_steps or 0) * math.log10(step) + 1e-9)
