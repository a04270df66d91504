"""Trainings in phases: parameters that begin later than others, and schedules that start anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from lightning_tl.errors import UserError
from lightning_tl.transfer.method import TransferMethod


class Phases(Callback):
    """Begins the training of each parameter at its step.

    All parameters are in the optimiser from the first step. Those that have not begun have a learning rate of 0, and
    their gradients are discarded, so that neither momentum nor weight decay reaches them. In a single process these
    gradients are not even computed; with several, DistributedDataParallel needs them.

    What is trained is a function of the step, so that a resumed training is the uninterrupted one.

    Args:
        methods: The methods of the task.
    """

    def __init__(self, methods: Sequence[TransferMethod]) -> None:
        self._methods = methods
        self._begin: dict[str, int] = {}
        self._step = 0
        self._applied: set[str] = set()

    def waiting(self, task: Any) -> set[str]:
        """Return the names of the parameters that have not begun."""
        return {name for name, begin in self._begin.items() if begin > self._step}

    def split(self, task: Any, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Split the optimiser's groups so that all parameters of a group begin together.

        Raises:
            UserError: A method needs the number of steps, and the trainer has no limit.
        """
        self._begin = self._beginnings(task)
        if not self._begin:
            return groups
        names = {id(parameter): name for name, parameter in task.named_parameters()}
        parts = []
        for group in groups:
            begins = [self._begin[names[id(parameter)]] for parameter in group["params"]]
            for begin in sorted(set(begins)):
                chosen = [each for each, own in zip(group["params"], begins, strict=True) if own == begin]
                parts.append(group | {"params": chosen, "begin": begin})
        return parts

    def _beginnings(self, task: Any) -> dict[str, int]:
        if not any(type(method).begins is not TransferMethod.begins for method in self._methods):
            return {}
        steps = self.steps(task)
        chosen = [begin for method in self._methods if (begin := method.begins(task, steps)) is not None]
        return {name: max(begin(name) for begin in chosen) for name, _ in task.named_parameters()}

    def steps(self, task: Any) -> int:
        """Return the number of steps of the training.

        Raises:
            UserError: It is unlimited, or the schedule is one of PyTorch's classes, which cannot follow phases.
        """
        label = ", ".join(type(method).__name__ for method in self._methods)
        if getattr(task, "scheduler", None) is not None:
            raise UserError(
                f"transfer {label} trains in phases, which model.scheduler cannot follow; use model.schedule"
            )
        steps = task.trainer.estimated_stepping_batches
        if steps == float("inf") or steps < 1:  # below 1: epochs of a loader without a length
            raise UserError(f"transfer {label} needs the length of the training: give trainer.max_steps")
        return int(steps)

    def parts(self, task: Any) -> list[int]:
        """Return the steps at which the schedule starts, the first of them 0, and the length; empty for a single start.

        They follow from the training's own number of steps, which may differ from the schedule's.
        """
        if all(type(method).restarts is TransferMethod.restarts for method in self._methods):
            return []
        steps = self.steps(task)
        starts = sorted({0, *(step for method in self._methods for step in method.restarts(steps))})
        return [*starts, steps] if len(starts) > 1 else []

    def schedule(self, task: Any, optimizer: Optimizer) -> Any:
        """Return a constant schedule that is 0 before a group begins; None without phases."""
        if not self._begin:
            return None
        lambdas = [constant_from(group.get("begin", 0)) for group in optimizer.param_groups]
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambdas)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Begin what is due."""
        self._step = trainer.global_step
        now = self.waiting(pl_module)
        if now == self._applied:
            return
        self._applied = now
        if trainer.world_size == 1:
            for group in (group for optimizer in trainer.optimizers for group in optimizer.param_groups):
                for parameter in group["params"]:
                    parameter.requires_grad_(group["begin"] <= self._step)
        pl_module.train(pl_module.training)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Discard the gradients of what has not begun."""
        for group in optimizer.param_groups if self._begin else ():
            if group.get("begin", 0) > trainer.global_step:
                for parameter in group["params"]:
                    parameter.grad = None


def constant_from(begin: int) -> Callable[[int], float]:
    """Return the factor on a rate: 0 before a step, then 1."""
    return lambda step: float(step >= begin)
