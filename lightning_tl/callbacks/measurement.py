"""The base classes of the measuring callbacks: a recorder, called from Lightning's hooks."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from lightning_tl.callbacks.lightning_host import LightningHost
from lightning_tl.errors import UserError
from lightning_tl.losses.training_step import step_loss
from lightning_tl.measure.attempts import OnError
from lightning_tl.measure.batchnorm import Statistics
from lightning_tl.measure.measurement_schedule import Schedule
from lightning_tl.measure.measures import Measure
from lightning_tl.measure.objective import LossFn
from lightning_tl.measure.params import Groups
from lightning_tl.measure.probe import Probe
from lightning_tl.measure.recorder import Recorder
from lightning_tl.measured_value import Measured

_SHARDING = ("FSDPStrategy", "DeepSpeedStrategy")


class Measurement(Callback):
    """A callback that measures and does not change training; base class of the measuring callbacks.

    Args:
        measure: What to measure.
        every_n_steps: Measure after every this many optimiser steps (accumulated batches count as one step, and so do
            several optimisers). None: not by a number of steps.
        log_steps: Measure at this many log-spaced steps per decade: with 3, after 1, 3, 5, 10, 22, 47, 100, …
        at_start: Measure before the first step (with ``probe_batches`` > 1: once all of them have been seen).
        at_epoch_end: Measure at the end of every training epoch.
        at_validation: Measure after every validation within fit.
        at_end: Measure at the end of the training.
        overhead: Skip a measurement if this callback would then have taken more than this share of the time so far
            (0.05: 5 %); ``at_start`` is always measured. Which steps are measured then depends on the machine, so that
            an interrupted and resumed run may measure at other steps.
        include: Regular expression of parameter names to measure; default: all trainable ones.
        exclude: Regular expression of parameter names to leave out.
        trainable: Measure trainable parameters only; False: also frozen ones. Under LoRA,
            ``trainable=False, exclude="lora_"`` measures the frozen weights.
        groups: Regular expression → group name; default: by first-level module.
        prefix: Put before the quantity's name; needed for a second callback of the same type, as Lightning refuses two
            with the same state key.
        on_error: ``warn``: if a measurement fails, a warning says why and training goes on; after three failures in a
            row it is no longer tried. ``raise``: training ends with the error.

    Attributes:
        history: What was measured so far, one record per value.
        recorder: What measures.

    Values are logged by all loggers of the trainer, at the step they were measured and whatever ``log_every_n_steps``
    is, and to ``trainer.callback_metrics``. Under ``trainer.validate`` and ``trainer.test`` there is one measurement,
    at the end. What a measurement costs, in training steps, is reported after ten steps. With another module or
    trainer, ``fit`` begins anew.

    Raises:
        UserError: Before training: an argument is out of range; what was asked for does not exist (parameters, groups,
            reference, probe); the strategy is FSDPStrategy or DeepSpeed (FSDP2, by ModelParallelStrategy, works).
    """

    def __init__(
        self,
        measure: Measure,
        *,
        every_n_steps: int | None = None,
        log_steps: int | None = None,
        at_start: bool = True,
        at_epoch_end: bool = False,
        at_validation: bool = False,
        at_end: bool = True,
        overhead: float | None = None,
        include: str | None = None,
        exclude: str | None = None,
        trainable: bool = True,
        groups: Groups = None,
        prefix: str = "",
        on_error: OnError = "warn",
        **of_loss: Any,
    ) -> None:
        schedule = Schedule(every_n_steps, log_steps, at_start, at_epoch_end, at_validation, at_end, overhead)
        own_loss = of_loss.get("loss_fn") is None and measure.needs_loss
        if own_loss:
            of_loss["loss_fn"] = step_loss
        self.recorder = Recorder(
            [measure],
            schedule=schedule,
            include=include,
            exclude=exclude,
            trainable=trainable,
            groups=groups,
            prefix=prefix,
            on_error=on_error,
            own_loss=own_loss,
            label=type(self).__name__,
            **of_loss,
        )
        self._global_step = 0
        self._restored = False
        self._run: tuple[Any, Any] = (None, None)

    @property
    def history(self) -> list[Measured]:
        """What was measured so far, one record per value."""
        return self.recorder.history

    @property
    def steps(self) -> int:
        """Optimiser steps so far."""
        return self.recorder.steps

    @property
    def measured_steps(self) -> list[int]:
        """The steps of the measurements so far, in order."""
        return self.recorder.measured_steps

    @property
    def prefix(self) -> str:
        """What stands before the quantity's name."""
        return self.recorder.prefix

    # Hooks.

    @property
    def state_key(self) -> str:
        """A key that differs between instances that log under different prefixes."""
        return self._generate_state_key(prefix=self.prefix)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot be measured."""
        strategy = next((k.__name__ for k in type(trainer.strategy).__mro__ if k.__name__ in _SHARDING), None)
        if strategy is not None:
            raise UserError(
                f"{type(self).__name__} cannot run under {strategy}, which hides the parameters. Use "
                "strategy=ModelParallelStrategy(tensor_parallel_size=1) with fully_shard (FSDP2), or 'ddp', or measure "
                "saved checkpoints with `lightning-tl measure`"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take what is needed of the start of the run, after any checkpoint was restored."""
        self._begin(trainer, pl_module)
        self._global_step = trainer.global_step
        if self.recorder.schedule.overhead is not None:
            self.recorder.host.info(
                f"{type(self).__name__}(overhead={self.recorder.schedule.overhead:g}) measures as time allows: an "
                "interrupted and resumed run will not measure at the same steps as an uninterrupted one"
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Offer the batch to the probe, and measure before the first step."""
        self.recorder.offer(batch)
        self.recorder.watch()
        self._log(trainer, pl_module, self.recorder.at_start())

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Note parameters that have become trainable."""
        self.recorder.watch()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the step, and measure if it is due."""
        if trainer.global_step == self._global_step:
            return  # a batch whose gradients were only accumulated
        self._global_step = trainer.global_step
        if getattr(trainer.fit_loop, "_skip_backward", False):
            return  # stochastic weight averaging passes over the data once more, without training
        self._log(trainer, pl_module, self.recorder.step())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure at the end of an epoch."""
        self._log(trainer, pl_module, self.recorder.epoch_end())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure at the end of the training."""
        self._log(trainer, pl_module, self.recorder.finish())

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take what is needed under ``trainer.validate``."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._begin(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take what is needed under ``trainer.test``."""
        self._begin(trainer, pl_module)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Under ``trainer.validate``, offer the batch to the probe."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self.recorder.offer(batch)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Offer the batch to the probe."""
        self.recorder.offer(batch)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure after validation within fit, and at the end of ``trainer.validate``."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._log(trainer, pl_module, self.recorder.measure_once())
        elif not trainer.sanity_checking:
            self._log(trainer, pl_module, self.recorder.validation_end())

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure at the end of ``trainer.test``."""
        self._log(trainer, pl_module, self.recorder.measure_once())

    def state_dict(self) -> dict[str, Any]:
        """Return the state in plain types."""
        return self.recorder.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint's state."""
        self.recorder.reset()
        self.recorder.load_state_dict(state_dict)
        self._restored = True

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the run, which is not to be copied to other processes."""
        return {**self.__dict__, "_run": (None, None)}

    def _begin(self, trainer: Trainer, module: LightningModule) -> None:
        """Start the recorder; anew, if it has measured another run."""
        before = [reference and reference() for reference in self._run]
        fitting = trainer.state.fn == TrainerFn.FITTING
        other = before[1] is not module or (fitting and before[0] is not trainer)
        if other and any(before) and not self._restored:
            self.recorder.reset()
        self._restored = False
        self._run = weakref.ref(trainer), weakref.ref(module)
        probe = self.recorder.probe.source
        from_loop = probe is None or (isinstance(probe, str) and not fitting)
        self.recorder.prepare(module, LightningHost(trainer), from_loop)

    def _log(self, trainer: Trainer, module: LightningModule, values: dict[str, float]) -> None:
        if not values:
            return
        metrics = {key: torch.tensor(value, device=module.device) for key, value in values.items()}
        trainer.callback_metrics.update(metrics)
        for logger in trainer.loggers:
            logger.log_metrics(values, step=self.steps)


class LossMeasurement(Measurement):
    """A measurement of a loss on fixed probe batches.

    Args:
        measure: What to measure.
        loss_fn: ``(module, batch) -> scalar tensor``. Default: the module's own ``training_step``, in eval mode
            (dropout off, BatchNorm by its running statistics), with logging muted; modules that return losses only in
            train mode (detectors): train mode with dropout off and BatchNorm frozen.
        probe: A batch (tensor, list, tuple or dict) or a DataLoader to measure on; ``val``: the first batches of the
            run's validation loader, which should not shuffle. Default: the first training batches.
        probe_batches: Number of batches; the loss is their mean. If an epoch has fewer, these.
        bn: BatchNorm's running statistics: ``kept`` as the module has them; ``re-estimated`` on the probe before each
            evaluation, for the present weights, perturbed ones too. With the first, the loss includes the effect of
            outdated statistics; with the second, only that of the weights.
        half_forward: Run layers whose weights are stored in half precision in that precision, not in fp32: faster, but
            losses only, and rises below about 4e-4 nats are lost in rounding (the standard error contains it).
        seed: Seed of the random probes, of the noise, and of the random numbers inside the loss.
        kwargs: As for :class:`Measurement`.

    Raises:
        UserError: As for :class:`Measurement`; the module trains with manual optimisation and there is no ``loss_fn``.
    """

    def __init__(
        self,
        measure: Measure,
        *,
        loss_fn: LossFn | None = None,
        probe: Any = None,
        probe_batches: int = 1,
        bn: Statistics = "kept",
        half_forward: bool = False,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        if measure.loss_fn is not None and loss_fn is not None:
            raise UserError("give either loss_fn, or outputs_fn with output_loss, not both")
        loss = {"loss_fn": loss_fn or measure.loss_fn, "probe": probe, "probe_batches": probe_batches, "bn": bn}
        super().__init__(measure, **loss, half_forward=half_forward, seed=seed, **kwargs)

    @property
    def probe(self) -> Probe:
        """The batches."""
        return self.recorder.probe

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse manual optimisation without a loss."""
        super().setup(trainer, pl_module, stage)
        if self.recorder.own_loss and not pl_module.automatic_optimization:
            raise UserError(
                f"{type(pl_module).__name__} trains with manual optimisation: its training_step changes the weights, "
                f"so {type(self).__name__} cannot call it to measure. Pass loss_fn(module, batch) -> scalar tensor, "
                "for example lambda module, batch: module.generator_loss(batch)"
            )
