"""What a training run shows: its progress bar, and which of Lightning's lines."""

from __future__ import annotations

import logging
import math
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import RichProgressBar

_LOGGERS = ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch", "lightning.fabric.utilities.rank_zero")


class RunProgressBar(RichProgressBar):
    """Lightning's progress bar, whose epochs are counted from 1 up to where ``max_steps`` or ``max_epochs`` ends it."""

    def _get_train_description(self, current_epoch: int) -> str:
        total = epochs_in_all(self.trainer.max_epochs, self.trainer.max_steps, float(self.trainer.num_training_batches))
        described = f"Epoch {current_epoch + 1}" + (f"/{total}" if total is not None else "")
        return described.ljust(len(self.validation_description))


def epochs_in_all(max_epochs: int | None, max_steps: int, batches: float) -> int | None:
    """Return the number of epochs of a training, or None where nothing bounds it.

    Args:
        max_epochs: The trainer's; None or -1: no limit.
        max_steps: The trainer's; -1: no limit.
        batches: Training batches in an epoch.
    """
    limits = [max_epochs] if max_epochs is not None and max_epochs >= 0 else []
    if max_steps >= 0 and 0 < batches < math.inf:
        limits.append(math.ceil(max_steps / batches))
    return min(limits, default=None)


def use_own_progress_bar(trainer: Trainer) -> None:
    """Put :class:`RunProgressBar` in the place of Lightning's default bar; one that was asked for stays."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    for place, callback in enumerate(callbacks):
        if type(callback) is RichProgressBar:
            callbacks[place] = RunProgressBar()


class _Once(logging.Filter):
    """Lets each of Lightning's tips pass once per process."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if "Tip:" not in text:
            return True
        new = text not in self.seen
        self.seen.add(text)
        return new


def show_tips_once() -> None:
    """Show each of Lightning's tips once per process, however many trainers it makes."""
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(item, _Once) for item in logger.filters):
            logger.addFilter(_ONCE)


_ONCE = _Once()
