"""The parser of a run's arguments, and errors of classes that cannot be instantiated."""

from __future__ import annotations

import inspect
import re
from typing import NoReturn

import torch
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import Logger

from lightning_tl.errors import UserError, explain, nearest
from lightning_tl.run_arguments import wrong_methods
from lightning_tl.tasks import Schedule, TransferTask
from lightning_tl.transfer import TransferMethod


class RunParser(LightningArgumentParser):
    """Lightning's parser, which raises a ``UserError``."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the parser's error as a ``UserError``."""
        text = wrong_methods(explain(self, message, ex))
        if unknown := _UNKNOWN_CLASS.search(text):
            key, name = unknown.groups()
            hint = nearest(name, _class_names(_KINDS[key])) if key in _KINDS else ""
            text = text.replace(unknown[0], f"{key}: no class '{name}'{hint}")
        raise UserError(text) from ex


_UNKNOWN_CLASS = re.compile(r"(\w+): Expected a dot import path string: ([\w.]+)")
_KINDS: dict[str, type] = {
    "model": TransferTask,
    "data": LightningDataModule,
    "optimizer": torch.optim.Optimizer,
    "scheduler": torch.optim.lr_scheduler.LRScheduler,
    "schedule": Schedule,
    "transfer": TransferMethod,
    "callbacks": Callback,
    "logger": Logger,
}


def _class_names(base: type) -> set[str]:
    """Return the names of all public subclasses that are imported."""
    names: set[str] = set()
    waiting: list[type] = [base]
    while waiting:
        children: list[type] = type.__subclasses__(waiting.pop())
        named = [child for child in children if not inspect.isabstract(child)]
        names |= {child.__name__ for child in named if not child.__name__.startswith("_")}
        waiting += children
    return names


# the first class that could not be instantiated
_FAILED_CLASS = re.compile(r"Given value: .*?Namespace\(class_path='([\w.]+)'")


def instantiation_error(error: BaseException) -> UserError | None:
    """Return the error for a logger or callback that could not be instantiated, as where its package is missing."""
    value = _FAILED_CLASS.search(str(error))
    if value is None or error.__cause__ is None:
        return None
    while error.__cause__ is not None:
        error = error.__cause__
    return UserError(f"{value[1]} cannot be instantiated: {type(error).__name__}: {' '.join(str(error).split())}")
