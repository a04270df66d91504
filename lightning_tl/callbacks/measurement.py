"""The base classes of the measuring callbacks: when they measure, on what, and where the values go."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_tl.callbacks.measurement_schedule import MeasurementSchedule
from lightning_tl.callbacks.probe import Probe
from lightning_tl.errors import UserError, nearest
from lightning_tl.losses.training_step import find_mode, quiet, step_loss
from lightning_tl.measure.batchnorm import STATISTICS, Statistics
from lightning_tl.measure.guard import Mode
from lightning_tl.measure.objective import LossFn, Objective
from lightning_tl.measure.params import Groups, select
from lightning_tl.measured import Measured, logged


class Measurement(Callback):
    """A callback that measures and does not change training; base class of the measuring callbacks.

    Args:
        every_n_steps: Measure after every this many optimiser steps (accumulated batches count as one step, and so do
            several optimisers). None: not by a number of steps.
        log_steps: Measure at this many log-spaced steps per decade: with 3, after 1, 3, 5, 10, 22, 47, 100, …
        at_start: Measure before the first step (with ``probe_batches`` > 1: once all of them have been seen).
        at_epoch_end: Measure at the end of every training epoch.
        at_validation: Measure after every validation within fit.
        overhead: Skip a measurement if this callback would then have taken more than this share of the time so far
            (0.05: 5 %); ``at_start`` is always measured. Which steps are measured then depends on the machine, so that
            an interrupted and resumed run may measure at other steps.
        include: Regular expression of parameter names to measure; default: all trainable ones.
        exclude: Regular expression of parameter names to leave out.
        trainable: Measure only parameters that are trained; False: also frozen ones. Under LoRA,
            ``trainable=False, exclude="lora_"`` measures the frozen weights.
        groups: Regular expression → group name; default: by first-level module.
        prefix: Put before the quantity's name; needed for a second callback of the same type, as Lightning refuses two
            with the same state key.

    Attributes:
        history: What was measured so far, one record per value.

    Values are logged by all loggers of the trainer, at the step they were measured and whatever ``log_every_n_steps``
    is, and to ``trainer.callback_metrics``. Under ``trainer.validate`` and ``trainer.test`` there is one measurement,
    at the end.

    Raises:
        UserError: An argument is out of range; the strategy shards the parameters (FSDP, DeepSpeed).
    """

    quantity = ""

    def __init__(
        self,
        *,
        every_n_steps: int | None = None,
        log_steps: int | None = None,
        at_start: bool = True,
        at_epoch_end: bool = False,
        at_validation: bool = False,
        overhead: float | None = None,
        include: str | None = None,
        exclude: str | None = None,
        trainable: bool = True,
        groups: Groups = None,
        prefix: str = "",
    ) -> None:
        self.schedule = MeasurementSchedule(every_n_steps, log_steps, at_start, at_epoch_end, at_validation, overhead)
        self.include, self.exclude, self.trainable = include, exclude, trainable
        self.groups, self.prefix = groups, prefix
        self.steps = 0
        self.history: list[Measured] = []
        self._global_step = 0
        self._measured_at: int | None = None

    @property
    def measured_steps(self) -> list[int]:
        """The steps of the measurements so far, in order."""
        return list(dict.fromkeys(record.step for record in self.history))

    # What subclasses define.

    def measure(self, trainer: Trainer, module: LightningModule) -> list[Measured]:
        """Return one record per value, made by :meth:`record`."""
        raise NotImplementedError

    def record(
        self, quantity: str, value: float, group: str = "", gamma: float | None = None, stderr: float | None = None
    ) -> Measured:
        """Return a value measured now, under this callback's prefix."""
        return Measured(
            step=self.steps,
            quantity=f"{self.prefix}{quantity}",
            group=group,
            gamma=gamma,
            value=value,
            stderr=stderr,
        )

    def ready(self, trainer: Trainer, module: LightningModule) -> bool:
        """Return whether a measurement is possible yet."""
        return True

    # Hooks.

    @property
    def state_key(self) -> str:
        """A key that differs between instances that log under different prefixes."""
        return self._generate_state_key(prefix=self.prefix)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot be measured."""
        if isinstance(trainer.strategy, FSDPStrategy | DeepSpeedStrategy | ModelParallelStrategy):
            raise UserError(
                f"{type(self).__name__} cannot run under {type(trainer.strategy).__name__}: it needs whole parameters "
                "on every process. Use strategy='ddp', or measure saved checkpoints with `lightning-tl measure`"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock and note the trainer's step."""
        self._global_step = trainer.global_step
        self.schedule.began = time.perf_counter()
        if self.schedule.overhead is not None:
            rank_zero_info(
                f"{type(self).__name__}(overhead={self.schedule.overhead:g}) measures as time allows: an interrupted "
                "and resumed run will not measure at the same steps as an uninterrupted one"
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Measure before the first step."""
        if self.steps == 0 and self.schedule.at_start and not self.history:
            self.run(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the step, and measure if it is due."""
        if trainer.global_step == self._global_step:
            return  # a batch whose gradients were only accumulated
        self._global_step = trainer.global_step
        self.steps += 1
        if self.schedule.due(self.steps) and self.schedule.affordable(trainer):
            self.run(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure at the end of an epoch."""
        if self.schedule.at_epoch_end and self.schedule.affordable(trainer):
            self.run(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure after validation within fit, and at the end of ``trainer.validate``."""
        within_fit = trainer.state.fn == TrainerFn.FITTING
        if within_fit and (trainer.sanity_checking or not self.schedule.at_validation):
            return
        if not within_fit or self.schedule.affordable(trainer):
            self.run(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure at the end of ``trainer.test``."""
        self.run(trainer, pl_module)

    def run(self, trainer: Trainer, module: LightningModule) -> None:
        """Measure now, unless this step was measured already, and log."""
        if not self.ready(trainer, module) or self._measured_at == self.steps:
            return
        start = time.perf_counter()
        try:
            with quiet(module, trainer):
                records = self.measure(trainer, module)
        except torch.OutOfMemoryError:
            if trainer.world_size > 1:
                raise  # the other processes wait for this one
            torch.cuda.empty_cache()
            rank_zero_warn(
                f"{type(self).__name__} ran out of memory at step {self.steps} and skipped this measurement; "
                "pass smaller probe batches or fewer products"
            )
            return
        seconds = time.perf_counter() - start
        self.schedule.took(seconds)
        self._measured_at = self.steps
        self.history += records
        values = logged(records)
        if infinite := [key for key, value in values.items() if not math.isfinite(value)]:
            rank_zero_warn(f"{type(self).__name__}: not finite at step {self.steps}: {', '.join(infinite)}")
        values[f"{self.prefix}{self.quantity}/seconds"] = seconds
        trainer.callback_metrics.update({k: torch.tensor(v, device=module.device) for k, v in values.items()})
        for logger in trainer.loggers:
            logger.log_metrics(values, step=self.steps)

    def state_dict(self) -> dict[str, Any]:
        """Return the state in plain types."""
        rows = [record.row() for record in self.history]
        return {"steps": self.steps, "history": rows, "measured_at": self._measured_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint's state."""
        self.steps, self._measured_at = state_dict["steps"], state_dict["measured_at"]
        self.history = [Measured(**row) for row in state_dict["history"]]


class LossMeasurement(Measurement):
    """A measurement of a loss on fixed probe batches.

    Args:
        loss_fn: ``(module, batch) -> scalar tensor``. Default: the module's own ``training_step``, in eval mode
            (dropout off, BatchNorm by its running statistics), with logging muted; modules that return losses only in
            train mode (detectors): train mode with dropout off and BatchNorm frozen.
        probe: A batch (tensor, list, tuple or dict) or a DataLoader to measure on; ``val``: the first batches of the
            run's validation loader, which should not shuffle. Default: the first training batches.
        probe_batches: Number of batches; the loss is their mean.
        bn: BatchNorm's running statistics: ``kept`` as the module has them; ``re-estimated`` on the probe before each
            evaluation, for the present weights, perturbed ones too. With the first, the loss includes the effect of
            outdated statistics; with the second, only that of the weights.
        seed: Seed of the random probes, of the noise, and of the random numbers inside the loss.
        kwargs: As for :class:`Measurement`.

    Raises:
        UserError: As for :class:`Measurement`; the module trains with manual optimisation and there is no ``loss_fn``;
            the loss cannot be computed outside training, or is not a function of the weights.
    """

    def __init__(
        self,
        *,
        loss_fn: LossFn | None = None,
        probe: Any = None,
        probe_batches: int = 1,
        bn: Statistics = "kept",
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if bn not in STATISTICS:
            raise UserError(f"bn={bn!r} is unknown{nearest(str(bn), STATISTICS)}")
        if loss_fn is not None and not callable(loss_fn):
            raise UserError(f"loss_fn must be a function (module, batch) -> scalar tensor, not {loss_fn!r}")
        self.loss_fn, self.bn, self.seed = loss_fn, bn, seed
        self.probe = Probe(probe, probe_batches)
        self._mode: Mode | None = None
        self._loaded_probe: list[Any] | None = None

    def ready(self, trainer: Trainer, module: LightningModule) -> bool:
        """Return whether all probe batches are known."""
        return self.probe.ready

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse manual optimisation without a loss."""
        super().setup(trainer, pl_module, stage)
        if self.loss_fn is None and not pl_module.automatic_optimization:
            raise UserError(
                f"{type(pl_module).__name__} trains with manual optimisation: its training_step changes the weights, "
                f"so {type(self).__name__} cannot call it to measure. Pass loss_fn(module, batch) -> scalar tensor, "
                "for example lambda module, batch: module.generator_loss(batch)"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the probe batches that are known already."""
        super().on_fit_start(trainer, pl_module)
        self._prepare(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keep the first batches, and measure once all are known."""
        complete = self.probe.offer(batch, trainer)
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if complete and self.schedule.at_start and not self.history:
            self.run(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Under ``trainer.validate``, take the probe batches that are known already."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._prepare(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the probe batches that are known already."""
        self._prepare(trainer, pl_module)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Under ``trainer.validate``, keep the first batches."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self.probe.offer(batch, trainer)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep the first batches."""
        self.probe.offer(batch, trainer)

    def objective(self, trainer: Trainer, module: LightningModule) -> Objective:
        """Return what to measure; at the first call, find the mode in which the loss can be computed."""

        def average(value: Tensor) -> Tensor:
            return trainer.strategy.reduce(value.clone(), reduce_op="mean")

        def build(mode: Mode) -> Objective:
            return Objective(
                module,
                self.loss_fn or step_loss,
                self.probe.batches,
                select(module, self.include, self.exclude, self.trainable),
                mode=mode,
                reduce=average if trainer.world_size > 1 else None,
                process=(trainer.global_rank, trainer.world_size),
                seed=self.seed,
                bn=self.bn,
            )

        if self._mode is None:
            self._mode = find_mode(build, own_loss=self.loss_fn is None)
        return build(self._mode)

    def state_dict(self) -> dict[str, Any]:
        """Return the state in plain types."""
        return {**super().state_dict(), "probe": self.probe.state_dict(), "mode": self._mode}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint's state."""
        super().load_state_dict(state_dict)
        self._mode, self._loaded_probe = state_dict["mode"], state_dict["probe"]

    def _prepare(self, trainer: Trainer, module: LightningModule) -> None:
        self.probe.load_state_dict(self._loaded_probe, trainer.global_rank)
        self._loaded_probe = None
        self.probe.prepare(trainer, module)
