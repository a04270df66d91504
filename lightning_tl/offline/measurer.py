"""One module measured under the weights that it has: distance, traces, sensitivity, the loss along a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_tl.losses.training_step import find_mode, quiet, step_loss
from lightning_tl.measure.batchnorm import Statistics
from lightning_tl.measure.distance import distance
from lightning_tl.measure.guard import Mode
from lightning_tl.measure.noise_scales import Reference, noise_scales
from lightning_tl.measure.objective import LossFn, Objective
from lightning_tl.measure.params import Groups, select
from lightning_tl.measure.perturbation import loss_along
from lightning_tl.measure.trace import hessian_trace
from lightning_tl.measured_value import Measured
from lightning_tl.offline.loss_records import loss_records
from lightning_tl.offline.loss_tables import LossTables, loss_tables
from lightning_tl.offline.measure_options import MeasureOptions

#: λ of the curves along reference → checkpoint
LINE_STEPS = tuple(i / 8 for i in range(-4, 17))


class Measurer:
    """Measures a module under the weights that it has at each call.

    Args:
        module: The module.
        batches: Micro-batches of the loss.
        reference: The weights from which distances and directions are taken.
        options: What is measured, and how.
        loss_fn: The loss; None: the module's training step.
        init_reference: For the noise.
        groups: Of parameters.
    """

    def __init__(
        self,
        module: nn.Module,
        batches: Sequence[Any],
        reference: Mapping[str, Tensor],
        options: MeasureOptions,
        loss_fn: LossFn | None,
        init_reference: Reference,
        groups: Groups,
    ) -> None:
        self.module, self.batches, self.reference, self.options = module, batches, reference, options
        self.loss_fn, self.init_reference, self.groups = loss_fn, init_reference, groups
        self._mode: Mode | None = None
        self._scales: dict[str, Tensor] | None = None

    def measure(self, step: int) -> tuple[list[Measured], LossTables | None]:
        """Return one record per value for the present weights, and the losses by batch, if any were measured."""
        quantities = set(self.options.quantities)
        params = select(self.module, self.options.include, self.options.exclude)
        records = self._distances(step, params) if "distance" in quantities else []
        tables: LossTables | None = None
        if quantities <= {"distance"}:
            return records, tables
        with quiet(self.module):
            objective = self._objective(params)
            scales = self._noise_scales(params) if "sensitivity" in quantities else None
            if "trace" in quantities:
                records += self._traces(step, objective, scales)
            if quantities & {"sensitivity", "quantise", "prune"}:
                tables = loss_tables(objective, scales, self.options)
                records += loss_records(tables, step, over_batches=False)
            if "direction" in quantities:  # last, as it changes the weights
                records += self._along(step, objective)
        return records, tables

    def _objective(self, params: Mapping[str, nn.Parameter]) -> Objective:
        statistics: Statistics = "re-estimated" if self.options.bn == "re-estimated" else "kept"

        def build(mode: Mode) -> Objective:
            loss = self.loss_fn or step_loss
            return Objective(self.module, loss, self.batches, params, mode=mode, seed=self.options.seed, bn=statistics)

        if self._mode is None:
            self._mode = find_mode(build, own_loss=self.loss_fn is None)
        return build(self._mode)

    def _noise_scales(self, params: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
        options = self.options
        if self._scales is None or options.noise != "init":  # that of the initialisation is the same for all
            self._scales = noise_scales(self.module, params, options.noise, self.init_reference, options.seed)
        return self._scales

    def _distances(self, step: int, params: Mapping[str, Tensor]) -> list[Measured]:
        moved = distance(params, self.reference, self.groups)
        values = {"total": moved.total, "relative": moved.relative, "cosine": moved.cosine, **moved.groups}
        return [Measured(step=step, quantity="param_distance", group=g, value=value) for g, value in values.items()]

    def _traces(self, step: int, objective: Objective, scales: Mapping[str, Tensor] | None) -> list[Measured]:
        options = self.options
        trace = hessian_trace(objective, options.products, scales=scales, groups=self.groups, seed=options.seed)
        spent = trace.products + (0 if trace.weighted is None else trace.weighted.products)
        records = [Measured(step=step, quantity="hessian", group="products", value=spent)]
        for name, estimate in (("trace", trace), ("weighted_trace", trace.weighted)):
            if estimate is None:
                continue
            values = {name: (estimate.value, estimate.stderr)}
            values |= {f"{name}/{g}": (value, estimate.group_stderr[g]) for g, value in estimate.groups.items()}
            records += [
                Measured(step=step, quantity="hessian", group=group, value=value, stderr=stderr)
                for group, (value, stderr) in values.items()
            ]
        return records

    def _along(self, step: int, objective: Objective) -> list[Measured]:
        """Measure L(θ₀ + λ(θ − θ₀)) with θ₀ the reference's weights where it has them, θ the present ones.

        Buffers are the reference's too. With interpolated statistics they become the present ones as λ goes to 1.
        """
        start = self.reference
        shared = {n: p for n, p in objective.params.items() if n in start and start[n].shape == p.shape}
        direction = {n: p.detach() - start[n].to(p.device, p.dtype) for n, p in shared.items()}
        if not any(bool(d.any()) for d in direction.values()):
            return []  # the reference itself
        buffers = {n: b for n, b in self.module.named_buffers() if n in start and start[n].shape == b.shape}
        change: dict[str, Tensor] = {}
        if self.options.bn == "interpolated":
            change = {n: b.detach().clone() - start[n].to(b.device, b.dtype) for n, b in buffers.items()}
        with torch.no_grad():
            for n, tensor in {**shared, **buffers}.items():
                tensor.copy_(start[n])
        curve = loss_along(objective, direction, LINE_STEPS, buffers=change)
        records = []
        for at, loss, parabola in zip(curve.steps, curve.loss, curve.quadratic, strict=True):
            records.append(Measured(step=step, quantity="loss_along", gamma=at, value=loss))
            records.append(Measured(step=step, quantity="quadratic_along", gamma=at, value=parabola))
        return records
