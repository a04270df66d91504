"""Measuring a run, whatever trains it: schedule, probe, measures, history and state."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import nn

from lightning_tl.errors import UserError
from lightning_tl.measure.arguments import choice, flag, loss_function, pattern, pattern_groups, whole
from lightning_tl.measure.attempts import Attempts, OnError
from lightning_tl.measure.batchnorm import STATISTICS, Statistics
from lightning_tl.measure.guard import Mode
from lightning_tl.measure.host import Host
from lightning_tl.measure.measurement_schedule import Cost, Schedule
from lightning_tl.measure.measures import Measure, Site
from lightning_tl.measure.mode import find_mode
from lightning_tl.measure.objective import LossFn, Objective
from lightning_tl.measure.params import Groups, group_names, select
from lightning_tl.measure.probe import Probe
from lightning_tl.measured_value import Measured, logged

# The cost is reported after so many steps, and warned of from this share of the training time.
_STEPS_TO_COST = 10
_LARGE_SHARE = 0.25
_SECONDS_TO_PROGRESS = 10.0


class Recorder:
    """Measures a module while something trains it, and does not change the training.

    A plain loop calls :meth:`start` once, :meth:`step` after each optimiser step, and :meth:`finish`. A measurement
    that fails is warned of, and training goes on; after three failures in a row it is no longer tried.

    Args:
        measures: What to measure.
        loss_fn: ``(module, batch) -> scalar tensor``; needed unless only the distance is measured.
        probe: A batch (tensor, list, tuple or dict) or a DataLoader to measure on. None: batches that :meth:`offer`
            gets.
        probe_batches: Number of batches; the loss is their mean.
        bn: BatchNorm's running statistics, ``kept`` or ``re-estimated``, as for
            :class:`~lightning_tl.measure.objective.Objective`.
        half_forward: As for :class:`~lightning_tl.callbacks.measurement.LossMeasurement`.
        seed: Seed of the random probes, of the noise, and of the random numbers inside the loss.
        schedule: When to measure; default: at start and end.
        include: Regular expression of parameter names to measure; default: all.
        exclude: Regular expression of parameter names to leave out.
        trainable: Measure trainable parameters only.
        groups: Regular expression → group name; default: by first-level module.
        prefix: Put before the quantities' names.
        on_error: ``warn``, or ``raise`` where a measurement fails.
        own_loss: ``loss_fn`` is not the user's: where it gives no loss in eval mode, others are tried.
        label: Who measures, for messages.

    Attributes:
        history: What was measured so far, one record per value.
        steps: Optimiser steps so far.
        mode: In which the loss is computed; None before the first measurement.
        seconds: What the last measurement took, by measure.

    Raises:
        UserError: An argument is out of range.
    """

    def __init__(
        self,
        measures: Sequence[Measure],
        loss_fn: LossFn | None = None,
        probe: Any = None,
        *,
        probe_batches: int = 1,
        bn: Statistics = "kept",
        half_forward: bool = False,
        seed: int = 0,
        schedule: Schedule | None = None,
        include: str | None = None,
        exclude: str | None = None,
        trainable: bool = True,
        groups: Groups = None,
        prefix: str = "",
        on_error: OnError = "warn",
        own_loss: bool = False,
        label: str = "Recorder",
    ) -> None:
        measures = [measures] if isinstance(measures, Measure) else list(measures)
        if not measures or not all(isinstance(measure, Measure) for measure in measures):
            raise UserError(
                f"measures={measures!r} must be a list of TraceMeasure(), SensitivityMeasure() and the like"
            )
        if len({measure.name for measure in measures}) < len(measures):
            raise UserError("measures: each kind can be given once; use a second recorder with prefix= for another")
        choice("bn", bn, STATISTICS)
        self.half_forward = flag("half_forward", half_forward)
        if not isinstance(prefix, str):
            raise UserError(f"prefix={prefix!r} must be a text, such as 'pretrain/'")
        self.measures, self.bn, self.prefix = measures, bn, prefix
        self.attempts = Attempts(label, on_error)
        self.loss_fn, self.own_loss, self.label = loss_function(loss_fn), own_loss, label
        self.seed = whole("seed", seed, 0)
        self.include, self.exclude = pattern("include", include), pattern("exclude", exclude)
        self.trainable, self.groups = flag("trainable", trainable), pattern_groups(groups)
        self.schedule, self.probe = schedule or Schedule(), Probe(probe, probe_batches)
        self.host, self.module = Host(), nn.Module()
        self.seconds: dict[str, float] = {}
        self._loaded_probe: Mapping[str, Any] | None = None
        self._started = self._late = False  # tried to measure at the start; the probe was complete only later
        self.reset()

    # What a training loop calls.

    def start(self, module: nn.Module) -> dict[str, float]:
        """Begin, or go on after :meth:`load_state_dict`, in a plain loop; measure if that is due.

        Args:
            module: The module that is trained, not wrapped.

        Returns:
            Logged key → value; empty where nothing was measured.

        Raises:
            UserError: As :meth:`prepare`.
        """
        self.prepare(module)
        return self.at_start()

    def prepare(self, module: nn.Module, host: Host | None = None, from_loop: bool | None = None) -> None:
        """Take what is needed of the start of a run.

        Args:
            module: The module that is trained, not wrapped.
            host: What the loop runs under; default: one process without a framework.
            from_loop: The probe comes from :meth:`offer`; default: if there is no ``probe``.

        Raises:
            UserError: What was asked for does not exist: parameters, groups, reference, probe, loss.
        """
        self.module, self.host = module, host or Host()
        self.attempts.host, self.attempts.device = self.host, next(module.parameters()).device
        self.schedule.began = time.perf_counter()
        names = select(module, self.include, self.exclude, self.trainable)
        group_names(names, self.groups)
        if self.needs_loss:
            if self.loss_fn is None and any(measure.loss_fn is None for measure in self.measures if measure.needs_loss):
                raise UserError(f"{self.label} needs loss_fn=, a function (module, batch) -> scalar tensor")
            self.probe.load(self._loaded_probe, self.host.rank)
            self._loaded_probe = None
            self.probe.prepare(self.host, module, self.probe.source is None if from_loop is None else from_loop)
        for measure in self.measures:
            measure.start(self._site(measure))

    def offer(self, batch: Any) -> None:
        """Offer a training batch, before its step, for the probe."""
        if self.needs_loss and not self.probe.ready:
            self._late = bool(self._attempt(lambda: self.probe.offer(batch, self.host)))

    def watch(self) -> None:
        """Note what is about to change; to be called between unfreezing parameters and the next step."""
        for measure in self.measures:
            self._attempt(lambda measure=measure: measure.watch(self._site(measure)))  # type: ignore[misc]

    def at_start(self) -> dict[str, float]:
        """Measure before the first step, if that is wanted and possible now."""
        first = self.schedule.at_start and not self.history and not self._started
        if not first or (self.needs_loss and not self.probe.ready) or (self.steps and not self._late):
            return {}
        self._started = True
        return self.measure()

    def step(self) -> dict[str, float]:
        """Count an optimiser step, and measure if it is due; return logged key → value."""
        self.steps += 1
        self.cost.step()
        values = self.measure() if self.schedule.due(self.steps) and self._affordable() else {}
        if self.cost.steps >= _STEPS_TO_COST:
            self._tell_cost()
        return values

    def epoch_end(self) -> dict[str, float]:
        """Measure after an epoch, if that is wanted; what is missing of the probe is then done without."""
        self._close_probe()
        wanted = self.schedule.at_epoch_end and self._affordable()
        return self.measure() if wanted else self.at_start()

    def validation_end(self) -> dict[str, float]:
        """Measure after a validation, if that is wanted."""
        return self.measure() if self.schedule.at_validation and self._affordable() else {}

    def finish(self) -> dict[str, float]:
        """Measure at the end, if that is wanted."""
        self._close_probe()
        values = self.measure() if self.schedule.at_end and self._affordable() else {}
        self._tell_cost()
        return values

    # What it holds.

    @property
    def needs_loss(self) -> bool:
        """Whether a loss on probe batches is measured."""
        return any(measure.needs_loss for measure in self.measures)

    @property
    def measured_steps(self) -> list[int]:
        """The steps of the measurements so far, in order."""
        return list(dict.fromkeys(record.step for record in self.history))

    def reset(self) -> None:
        """Forget the last run."""
        self.steps = 0
        self.history: list[Measured] = []
        self.cost = Cost()
        self._measured_at: int | None = None
        self.mode: Mode | None = None
        self._loaded_probe = None
        self._started = self._late = False
        self.attempts.reset()
        self.schedule.spent = self.schedule.longest = 0.0
        self.probe.reset()
        for measure in self.measures:
            measure.reset()

    def state_dict(self) -> dict[str, Any]:
        """Return the state in plain types."""
        return {
            "steps": self.steps,
            "history": [record.row() for record in self.history],
            "measured_at": self._measured_at,
            "probe": self.probe.state(),
            "mode": self.mode,
            "measures": {measure.name: measure.state() for measure in self.measures},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint's state; :meth:`start` comes afterwards."""
        self.steps, self._measured_at = state["steps"], state["measured_at"]
        self.history = [Measured(**row) for row in state["history"]]
        self.mode, self._loaded_probe = state["mode"], state["probe"]
        for measure in self.measures:
            measure.load(state["measures"][measure.name])

    def measure_once(self) -> dict[str, float]:
        """Measure outside training, on what there is of the probe."""
        self._close_probe()
        return self.measure()

    # A measurement.

    def measure(self) -> dict[str, float]:
        """Measure now, unless this step was measured already; return logged key → value."""
        if (self.needs_loss and not self.probe.ready) or self._measured_at == self.steps or self.attempts.stopped:
            return {}
        values: dict[str, float] = {}
        begun = time.perf_counter()
        for measure in self.measures:
            start = time.perf_counter()
            records = self._attempt(lambda measure=measure: self._taken(measure), shared=measure.needs_loss)  # type: ignore[misc]
            seconds = time.perf_counter() - start
            if records is None:
                continue
            self.history += records
            self.seconds[measure.name] = seconds
            values |= {**logged(records), f"{self.prefix}{measure.name}/seconds": seconds}
        seconds = time.perf_counter() - begun
        self.cost.took(seconds, whole=bool(values))
        self.schedule.took(seconds)
        if values:
            self.attempts.failures = 0
            self._measured_at = self.steps
        return values

    def objective(self, measure: Measure) -> Objective:
        """Return the loss on the probe; at the first call, find the mode in which it can be computed."""
        loss_fn = measure.loss_fn or self.loss_fn
        assert loss_fn is not None

        def build(mode: Mode) -> Objective:
            return Objective(
                self.module,
                loss_fn,
                self.probe.batches,
                select(self.module, self.include, self.exclude, self.trainable),
                mode=mode,
                reduce=self.attempts.reduce if self.host.world > 1 else None,
                process=(self.host.rank, self.host.world),
                seed=self.seed,
                bn=self.bn,
                half_forward=self.half_forward,
            )

        if self.mode is None:
            self.mode = find_mode(build, own_loss=self.own_loss and measure.loss_fn is None)
        return build(self.mode)

    def _taken(self, measure: Measure) -> list[Measured]:
        with self.host.quiet(self.module), self._progress(measure):
            records = measure.measure(self._site(measure))
        infinite = [record.key for record in records if not math.isfinite(record.value)]
        if infinite:
            self.attempts.say(
                f"{self.label}: not finite at step {self.steps}: {', '.join(infinite)}", once="not finite"
            )
        return [
            replace(record, stderr=math.nan)
            if record.stderr is not None and not math.isfinite(record.value)
            else record
            for record in records
        ]

    def _site(self, measure: Measure) -> Site:
        return Site(
            module=self.module,
            params=lambda: select(self.module, self.include, self.exclude, self.trainable),
            objective=lambda: self.objective(measure),
            groups=self.groups,
            step=self.steps,
            seed=self.seed,
            prefix=self.prefix,
            before=len([step for step in self.measured_steps if step != self.steps]),
            warn=self.host.warn,
        )

    def _attempt(self, action: Callable[[], Any], shared: bool = False) -> Any:
        return self.attempts.attempt(action, self.steps, shared)

    def _close_probe(self) -> None:
        if self.needs_loss and not self.probe.ready:
            self._late = bool(self._attempt(lambda: self.probe.close(self.host)))

    def _affordable(self) -> bool:
        return self.schedule.overhead is None or self.host.decide(self.schedule.affordable())

    def _tell_cost(self) -> None:
        """Say once what a measurement costs in training steps."""
        steps = self.cost.in_steps()
        if steps is None or self.cost.steps < 3 or not self.attempts.first("cost"):
            return
        text = f"{self.label}: a measurement takes {self.cost.seconds:.2g} s, as long as {steps:.2g} training steps"
        every = self.schedule.every_n_steps
        if every is None:
            self.host.info(text)
            return
        text += f"; every {every} steps that adds {steps / every:.0%} to the training time"
        if steps / every < _LARGE_SHARE:
            self.host.info(text)
        else:
            self.host.warn(f"{text}; measure less often (every_n_steps=), or limit it by overhead=0.05")

    @contextmanager
    def _progress(self, measure: Measure) -> Iterator[None]:
        """Say every ten seconds that a measurement is still going on."""
        start, done = time.perf_counter(), threading.Event()

        def tell() -> None:
            while not done.wait(_SECONDS_TO_PROGRESS):
                seconds = time.perf_counter() - start
                self.host.progress(
                    f"{self.label}: measuring {measure.name} at step {self.steps}, {seconds:.0f} s so far"
                )

        thread = threading.Thread(target=tell, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
