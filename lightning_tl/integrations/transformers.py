"""MeasureCallback: the Hugging Face Trainer measured while it trains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from lightning_tl.errors import UserError
from lightning_tl.measure.attempts import OnError
from lightning_tl.measure.batchnorm import Statistics
from lightning_tl.measure.guard import random_state, seed_everything
from lightning_tl.measure.host import Host
from lightning_tl.measure.measurement_schedule import Schedule
from lightning_tl.measure.measures import Measure
from lightning_tl.measure.objective import LossFn
from lightning_tl.measure.params import Groups
from lightning_tl.measure.recorder import Recorder
from lightning_tl.measured_value import Measured


class TransformersHost(Host):
    """A run of the Hugging Face Trainer."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.rank, self.world = trainer.args.process_index, trainer.args.world_size

    def reduce(self, value: Tensor) -> Tensor:
        """Average a tensor over the processes."""
        reduced: Tensor = self.trainer.accelerator.reduce(value.clone(), reduction="mean")
        return reduced

    def decide(self, answer: bool) -> bool:
        """Return process 0's answer, on all processes."""
        return bool(self.gather(answer)[0])

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, on all of them."""
        if self.world == 1:
            return [value]
        gathered: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(gathered, value)
        return gathered

    def move(self, batch: Any, module: nn.Module) -> Any:
        """Return a batch on the module's device."""
        return self.trainer._prepare_inputs(batch)

    @contextmanager
    def quiet(self, module: nn.Module) -> Iterator[None]:
        """Within, the model runs without autocast, and what ``compute_loss`` notes in the trainer is undone."""
        kept = [(each, each.copy()) for each in _containers(vars(self.trainer))]
        namespace = dict(vars(self.trainer))
        wrapped = vars(module).pop("forward", None)  # bf16=True puts autocast around it
        try:
            yield
        finally:
            if wrapped is not None:
                vars(module)["forward"] = wrapped
            vars(self.trainer).clear()
            vars(self.trainer).update(namespace)
            for container, content in kept:
                container.clear()
                container.update(content) if isinstance(container, dict | set) else container.extend(content)

    def validation_loader(self) -> list[Any] | None:
        """Return the first batch of the evaluation data set, in its order."""
        dataset = self.trainer.eval_dataset
        if isinstance(dataset, Mapping):
            dataset = next(iter(dataset.values()), None)
        return None if dataset is None else self.batches(dataset, self.trainer.args.eval_batch_size)

    def batches(self, dataset: Any, size: int, count: int = 1) -> list[Any]:
        """Return the first batches of a data set, in its order, without its loader: iterating one changes training.

        Raises:
            UserError: The data set has no length or no items by number.
        """
        if dataset is None or not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
            raise UserError(
                f"{type(dataset).__name__} has no items by number, of which the probe could be taken; pass "
                "probe=<a batch, as the collator returns it>"
            )
        collate = self.trainer.data_collator
        if hasattr(dataset, "remove_columns"):
            dataset = self.trainer._remove_unused_columns(dataset)
        else:
            collate = self.trainer._get_collator_with_removed_columns(collate)
        restore = random_state()
        try:
            seed_everything(0)  # collators that mask at random give the same batch on resuming
            first = self.rank * count * size
            starts = [at for at in range(first, first + count * size, size) if at < len(dataset)]
            return [collate([dataset[i] for i in range(at, min(at + size, len(dataset)))]) for at in starts]
        finally:
            restore()


class MeasureCallback(TrainerCallback):
    """Measure a model while the Hugging Face Trainer trains it; training stays the same, bit by bit.

    ``trainer.add_callback(MeasureCallback(trainer, [TraceMeasure(), DistanceMeasure()], every_n_steps=100))``. Values
    are logged under the same keys as by the Lightning callbacks, as rows of their own, by ``Trainer.log``. Sharded
    models (FSDP, DeepSpeed) are refused. With ``use_cpu``, ``fsdp=`` runs DDP, which is measured.

    Args:
        trainer: The trainer.
        measures: What to measure: :class:`~lightning_tl.measure.distance_measure.DistanceMeasure`,
            :class:`~lightning_tl.measure.measures.TraceMeasure`,
            :class:`~lightning_tl.measure.measures.SensitivityMeasure`.
        every_n_steps: Measure after every this many optimiser steps. None: not by a number of steps.
        loss_fn: ``(model, inputs) -> scalar tensor``; default: the trainer's ``compute_loss``, in eval mode, in fp32.
        probe: A batch as the collator returns it, or an iterable of them; ``val``: the first batch of the evaluation
            data; default: the first batches of the training data in the data set's order.
        probe_batches: Number of batches.
        log_steps: As for :class:`~lightning_tl.measure.measurement_schedule.Schedule`, also the next ones.
        at_start: As there.
        at_epoch_end: As there.
        at_validation: As there.
        at_end: As there.
        overhead: As there.
        bn: As for :class:`~lightning_tl.measure.recorder.Recorder`, also the next ones.
        half_forward: As for :class:`~lightning_tl.callbacks.measurement.LossMeasurement`.
        seed: As there.
        include: As there.
        exclude: As there.
        trainable: As there.
        groups: As there.
        prefix: As there; also of the file ``measurements.pt`` that each checkpoint's folder gets, for resuming.
        on_error: As there.

    Attributes:
        recorder: What measures.

    Raises:
        UserError: An argument is out of range. At the start of training: what was asked for does not exist; the model
            is sharded.
    """

    def __init__(
        self,
        trainer: Trainer,
        measures: Sequence[Measure],
        every_n_steps: int | None = 500,
        *,
        loss_fn: LossFn | None = None,
        probe: Any = None,
        probe_batches: int = 1,
        log_steps: int | None = None,
        at_start: bool = True,
        at_epoch_end: bool = False,
        at_validation: bool = False,
        at_end: bool = True,
        overhead: float | None = None,
        bn: Statistics = "kept",
        half_forward: bool = False,
        seed: int = 0,
        include: str | None = None,
        exclude: str | None = None,
        trainable: bool = True,
        groups: Groups = None,
        prefix: str = "",
        on_error: OnError = "warn",
    ) -> None:
        if not isinstance(trainer, Trainer):
            raise UserError(f"trainer={trainer!r} must be the transformers.Trainer that this callback is added to")
        self.trainer = trainer
        self.recorder = Recorder(
            measures,
            loss_fn or self._loss,
            probe,
            probe_batches=probe_batches,
            bn=bn,
            half_forward=half_forward,
            seed=seed,
            schedule=Schedule(every_n_steps, log_steps, at_start, at_epoch_end, at_validation, at_end, overhead),
            include=include,
            exclude=exclude,
            trainable=trainable,
            groups=groups,
            prefix=prefix,
            on_error=on_error,
            own_loss=loss_fn is None,
            label=type(self).__name__,
        )

    @property
    def history(self) -> list[Measured]:
        """What was measured so far, one record per value."""
        return self.recorder.history

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take what is needed of the start of the run, or of its checkpoint, and measure."""
        trainer = self.trainer
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise UserError(
                "MeasureCallback needs whole parameters on every process, and FSDP and DeepSpeed shard them; measure "
                "saved checkpoints with `lightning-tl measure`"
            )
        recorder, host, model = self.recorder, TransformersHost(trainer), trainer.model
        assert isinstance(model, nn.Module)
        recorder.reset()
        saved = self._file(args, state)
        if state.global_step and saved.is_file():
            recorder.load_state_dict(torch.load(saved, map_location="cpu", weights_only=True))
        elif state.global_step:
            recorder.steps = state.global_step
            host.warn(f"{saved}: no such file: the measurements begin anew at step {state.global_step}")
        recorder.prepare(model, host)
        if recorder.needs_loss and recorder.probe.source is None and not recorder.probe.ready:
            for batch in host.batches(trainer.train_dataset, args.train_batch_size, recorder.probe.count):
                recorder.offer(host.move(batch, model))
            recorder.probe.close(host)
        self._log(recorder.at_start())

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note parameters that have become trainable."""
        self.recorder.watch()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note parameters that have become trainable."""
        self.recorder.watch()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count the step, and measure if it is due."""
        self._log(self.recorder.step())

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure at the end of an epoch."""
        self._log(self.recorder.epoch_end())

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure after an evaluation within training."""
        if self.trainer.is_in_train:
            self._log(self.recorder.validation_end())

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure at the end of the training."""
        self._log(self.recorder.finish())

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save beside the trainer's checkpoint what a resumed run goes on from."""
        path = self._file(args, state)
        if state.is_world_process_zero and path.parent.is_dir():
            torch.save(self.recorder.state_dict(), path)

    def _file(self, args: Any, state: Any) -> Path:
        prefix = self.recorder.prefix.replace("/", "_")
        return Path(args.output_dir) / f"checkpoint-{state.global_step}" / f"{prefix}measurements.pt"

    def _loss(self, model: nn.Module, inputs: Any) -> Tensor:
        # compute_loss may take the labels out of its inputs
        loss = self.trainer.compute_loss(model, dict(inputs))
        return loss if isinstance(loss, Tensor) else loss[0]

    def _log(self, values: dict[str, float]) -> None:
        if not values:
            return
        flags = dict(vars(self.trainer.control))
        # not the method of a subclass, which may add its own metrics and begin to collect them anew
        Trainer.log(self.trainer, dict(values))
        # logging takes back that the trainer's own values are to be logged
        vars(self.trainer.control).update(flags)


def _containers(namespace: Mapping[str, Any], depth: int = 2) -> Iterator[Any]:
    """Yield the lists, dicts and sets among an object's attributes, and those inside them."""
    for value in namespace.values():
        if isinstance(value, list | dict | set):
            yield value
            if depth and isinstance(value, dict):
                yield from _containers(value, depth - 1)
