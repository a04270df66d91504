"""Measurements that may fail, in one process or in one of many, without ending the training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lightning_tl.errors import UserError, one_line
from lightning_tl.measure.arguments import choice
from lightning_tl.measure.host import Host

OnError = Literal["warn", "raise"]

# After so many failures in a row no more is tried.
_MOST_FAILURES = 3


class _OtherProcessFailedError(RuntimeError):
    """Another process could not measure."""


class Attempts:
    """Tries, warns of failures, and tells the other processes.

    Args:
        label: Who measures, for messages.
        on_error: ``warn``, or ``raise``.

    Attributes:
        host: Of the run.
        device: Where the module is.
        failures: In a row, so far.

    Raises:
        UserError: ``on_error`` is neither.
    """

    def __init__(self, label: str, on_error: OnError) -> None:
        choice("on_error", on_error, get_args(OnError))
        self.label, self.on_error = label, on_error
        self.host, self.device = Host(), torch.device("cpu")
        self.failures = 0
        self._said: set[str] = set()

    @property
    def stopped(self) -> bool:
        """Whether so many failed that no more is tried."""
        return self.failures >= _MOST_FAILURES

    def reset(self) -> None:
        """Forget failures and messages."""
        self.failures, self._said = 0, set()

    def attempt(self, action: Callable[[], Any], step: int, shared: bool = False) -> Any:
        """Return what an action returns; None where it fails, after a warning.

        Args:
            action: What to do.
            step: For the message.
            shared: All processes take part, and exchange messages: they learn where one fails, so that none waits.
        """
        shared = shared and self.host.world > 1
        try:
            result = action()
            if shared:
                self._agree(True)
            return result
        except Exception as error:
            if shared and not isinstance(error, _OtherProcessFailedError):
                self._agree(False)
            if self.on_error == "raise":
                raise
            if isinstance(error, torch.OutOfMemoryError):
                torch.cuda.empty_cache()
            self.failures += 1
            what = one_line(error) if isinstance(error, UserError) else f"{type(error).__name__}: {one_line(error)}"
            self.say(f"{self.label} could not measure at step {step}, training goes on: {what}", once=what)
            if self.stopped:
                self.say(f"{self.label} failed {_MOST_FAILURES} times in a row and measures no more in this run")
            return None

    def reduce(self, value: Tensor) -> Tensor:
        """Average a tensor over the processes, unless one has failed."""
        self._agree(True)
        return self.host.reduce(value)

    def say(self, text: str, once: str | None = None) -> None:
        """Warn the user, once for each kind of message."""
        if self.first(once or text):
            self.host.warn(text)

    def first(self, kind: str) -> bool:
        """Return whether this kind of message is said for the first time."""
        new = kind not in self._said
        self._said.add(kind)
        return new

    def _agree(self, well: bool) -> None:
        """Tell the other processes whether this one has failed, and learn whether they have."""
        share = float(self.host.reduce(torch.tensor(1.0 if well else 0.0, device=self.device)))
        if well and share < 1:
            raise _OtherProcessFailedError("another process could not measure; see its messages")
