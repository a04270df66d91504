"""Logging a value in each training step, at a fraction of Lightning's time."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor

#: The options of ``LightningModule.log`` for a value of single steps, which no epoch's mean is taken of.
EACH_STEP = {"on_step": True, "on_epoch": False}


def replace_logged(module: LightningModule, name: str, value: Any) -> bool:
    """Replace a value that ``module.log(name, …, **EACH_STEP)`` has logged before in this epoch.

    Lightning checks each value anew and moves all that it keeps of it to its device, which takes as long as a training
    step of a very small network. Loggers, callbacks and progress bars see the same as without this function.

    Args:
        module: A module in one of its trainer's hooks.
        name: Of the value.
        value: The new value.

    Returns:
        False if there is no such value yet, or the new one is no tensor like it: then it must be logged by Lightning.
    """
    results = getattr(module._trainer, "_results", None)
    key = f"{module._current_fx_name}.{name}"
    if not results or key not in results or results.dataloader_idx is not None or not isinstance(value, Tensor):
        return False
    logged = results[key]
    like = logged.is_tensor and not logged.meta.on_epoch and not logged.meta.prog_bar and value.numel() == 1
    if logged.has_reset or not like or value.device != logged.value.device:
        return False
    results.update_metrics(key, value.detach(), 1)
    return True
