"""The loss of a module's own training step, computed outside training and without logging anything."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor, nn

from lightning_tl.errors import UserError
from lightning_tl.measure.mode import find_mode

__all__ = ["find_mode", "is_lightning_module", "quiet", "step_loss"]

_MUTED = ("log", "log_dict", "print")


@contextmanager
def quiet(module: nn.Module, trainer: Trainer | None = None) -> Iterator[None]:
    """Mute ``self.log``, ``self.log_dict`` and ``self.print`` of Lightning modules and the trainer's loggers.

    All are restored on leaving. Metrics that the module updates are restored by
    :func:`lightning_tl.measure.untouched`, inside which all measurements run.
    """
    muted = [(m, n, vars(m).get(n)) for m in module.modules() if is_lightning_module(m) for n in _MUTED]
    loggers = list(trainer.loggers) if trainer is not None else []
    try:
        for child, name, _ in muted:
            vars(child)[name] = _nothing
        if trainer is not None and loggers:
            trainer.loggers = [DummyLogger() for _ in loggers]
        yield
    finally:
        if trainer is not None and loggers:
            trainer.loggers = loggers
        for child, name, before in muted:
            if before is None:
                vars(child).pop(name, None)
            else:
                vars(child)[name] = before


def is_lightning_module(module: nn.Module) -> bool:
    """Return whether a module is a LightningModule, of ``lightning`` or under its other name, ``pytorch_lightning``."""
    return any(kind.__name__ == "LightningModule" for kind in type(module).__mro__)


def step_loss(module: nn.Module, batch: Any) -> Tensor:
    """Return what ``module.training_step`` returns as its loss: the default loss of all callbacks.

    Args:
        module: A LightningModule.
        batch: Passed to its ``training_step``, with batch index 0 if it takes one.

    Raises:
        UserError: It returns neither a tensor nor a dict with a tensor under ``loss``.
    """
    step: Any = module.training_step
    names = inspect.signature(step).parameters
    if "dataloader_iter" in names:
        raise UserError("training_step(dataloader_iter) takes no batch; pass loss_fn(module, batch) -> scalar tensor")
    result: Any = step(batch, 0) if "batch_idx" in names or len(names) > 1 else step(batch)
    loss = result.get("loss") if isinstance(result, Mapping) else result
    if not isinstance(loss, Tensor):
        raise UserError(
            f"{type(module).__name__}.training_step returned {_described(result)}, not a loss; "
            "pass loss_fn(module, batch) -> scalar tensor"
        )
    return loss


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Take any arguments, do nothing."""


def _described(result: Any) -> str:
    return f"a dict with the keys {sorted(map(str, result))}" if isinstance(result, Mapping) else type(result).__name__
