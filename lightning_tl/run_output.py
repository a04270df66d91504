"""What a training run shows: its progress bar, and which of Lightning's lines."""

from __future__ import annotations

import logging
import math
import re
import warnings
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.utilities import rank_zero_info

_LOGGERS = ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch", "lightning.fabric.utilities.rank_zero")


class RunProgressBar(RichProgressBar):
    """Lightning's progress bar, whose epochs are counted from 1 up to where ``max_steps`` or ``max_epochs`` ends it."""

    @property
    def total_train_batches(self) -> int | float:
        """Batches of this epoch; also where a run goes on in the middle of it, which Lightning counts from there."""
        total = super().total_train_batches
        if not getattr(self.trainer.fit_loop, "restarted_mid_epoch", False):
            return total
        done = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        return min(self.trainer.num_training_batches, total + done)

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


# lines of Lightning that say nothing to the user of a run
_NEEDLESS = re.compile(r"Tip: .*\b(litlogger|litmodels)\b|^TPU available: False|^GPU available: False")
_NEEDLESS_WARNINGS = (
    r"Found \d+ module\(s\) in eval mode at the start of training",  # what model.transfer has frozen
    r".*isinstance\(treespec, LeafSpec\).* is deprecated",  # between versions of Lightning and torch
    r"Experiment logs directory .* exists and is not empty",  # what is there is kept on resuming, else refused
    r"The dirpath has changed from .* `best_model_score`",  # of a run that is tested, or goes on elsewhere
)


class _Fewer(logging.Filter):
    """Lets each of Lightning's tips pass once per process; leaves out advertisements and what is not there."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if _NEEDLESS.search(text):
            return False
        if "Tip:" not in text:
            return True
        new = text not in self.seen
        self.seen.add(text)
        return new


_FEWER = _Fewer()


def quieten_lightning() -> None:
    """Leave out Lightning's lines that say nothing about a run, and show each of its tips once per process."""
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if _FEWER not in logger.filters:
            logger.addFilter(_FEWER)
    for message in _NEEDLESS_WARNINGS:
        warnings.filterwarnings("ignore", message=message)


def saved_checkpoints(trainer: Trainer) -> list[str]:
    """Return the checkpoints that a training has left, one per callback that writes them, as one would type them."""
    paths = [getattr(callback, "best_model_path", "") for callback in trainer.checkpoint_callbacks]
    found = [path for path in dict.fromkeys(paths) if path and ("://" in path or Path(path).is_file())]
    here = Path.cwd()
    return [str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path for path in found]


def metrics_table(metrics: Mapping[str, Any]) -> str:
    """Return metrics in lines, with four digits after the point.

    Args:
        metrics: Name → number.
    """
    width = max(map(len, metrics), default=0)
    return "\n".join(f"{name:<{width}}  {_shown(float(value))}" for name, value in sorted(metrics.items()))


def _shown(value: float) -> str:
    if 0 < abs(value) < 5e-5:
        return "below 0.0001" if value > 0 else "above -0.0001"
    return f"{value:.4f}"


@cache
def _say_once(message: str) -> None:
    rank_zero_info(message)


def without_tensorboard(loggers: Any) -> Any:
    """Return configured loggers without TensorBoard's, where TensorBoard is not installed and another one is left.

    Args:
        loggers: ``trainer.logger`` of a parsed configuration: a list of groups with ``class_path``, or anything else.
    """
    if not isinstance(loggers, list) or any(find_spec(name) for name in ("tensorboard", "tensorboardX")):
        return loggers
    left = [logger for logger in loggers if not str(logger.get("class_path", "")).endswith("TensorBoardLogger")]
    if not left or len(left) == len(loggers):
        return loggers
    _say_once("TensorBoard is not installed; metrics.csv has all values. Curves and pictures: pip install tensorboard")
    return left
