"""Saved checkpoints measured after the run, into a table and a plot."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_tl.errors import UserError
from lightning_tl.losses.training_step import find_mode, quiet, step_loss
from lightning_tl.measure.batchnorm import Statistics
from lightning_tl.measure.checkpoint import load_checkpoint
from lightning_tl.measure.distance import distance
from lightning_tl.measure.guard import Mode
from lightning_tl.measure.noise import Reference, noise_scales
from lightning_tl.measure.objective import LossFn, Objective
from lightning_tl.measure.params import Groups, listed, select
from lightning_tl.measure.perturbation import check_gammas, loss_along, perturbation_sensitivity
from lightning_tl.measure.trace import hessian_trace
from lightning_tl.measured import Measured, measurements_table
from lightning_tl.offline.checkpoints_plot import plot_measurements
from lightning_tl.offline.options import MeasureOptions

#: λ of the curves along reference → checkpoint
LINE_STEPS = tuple(i / 8 for i in range(-4, 17))


def measure_checkpoints(
    module: nn.Module,
    checkpoints: Sequence[str | Path],
    batches: Sequence[Any] = (),
    options: MeasureOptions | None = None,
    *,
    out: str | Path | None = None,
    reference: str | Path | None = None,
    loss_fn: LossFn | None = None,
    init_reference: Reference = None,
    groups: Groups = None,
    run_id: str | None = None,
) -> list[Measured]:
    """Measure saved checkpoints of one module: distance, Hessian trace, sensitivity, and the loss along a line.

    Args:
        module: The module, a LightningModule unless ``loss_fn`` is given; it gets its own weights back at the end.
        checkpoints: Their paths, in the order in which to measure.
        batches: Micro-batches to measure the loss on; not needed if only ``distance`` is measured.
        options: What is measured, and how.
        out: A folder for ``measurements.csv`` and ``measurements.png``; an earlier table there is replaced.
        reference: The checkpoint from which distances and directions are taken; default: the first one.
        loss_fn: ``(module, batch) -> scalar tensor``; default: the module's ``training_step``.
        init_reference: For ``noise="init"``, as in :func:`~lightning_tl.measure.noise.noise_scales`.
        groups: Regular expression → group name; default: by first-level module.
        run_id: For the table; default: the name of the folder that holds the checkpoints.

    Returns:
        One record per value, of the quantities and groups that the callbacks have: ``param_distance`` (``total``,
        ``relative``, ``cosine``, parameter groups), ``hessian`` (``trace``, ``trace/<parameter group>``, and the same
        of ``weighted_trace``, which is Tr(ΣH)), ``sensitivity``, ``perturbed_loss``. Also ``loss_along`` and
        ``quadratic_along``, for which ``gamma`` holds λ. Steps are the checkpoints' own, or count from 0 where the
        files do not say.

    Raises:
        UserError: A checkpoint cannot be read or does not fit the module; there is no checkpoint, or no batch.
    """
    options = options or MeasureOptions()
    check_gammas(options.gammas)
    if not checkpoints:
        raise UserError("there is no checkpoint to measure; name at least one")
    if not len(batches) and (of_loss := sorted(set(options.quantities) - {"distance"})):
        raise UserError(f"{', '.join(of_loss)}: needs batches to measure the loss on")
    paths = [Path(path) for path in checkpoints]
    reference_path = paths[0] if reference is None else Path(reference)
    start = load_checkpoint(reference_path)
    original = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    measurer = _Measurer(module, batches, start.weights, options, loss_fn, init_reference, groups)
    records: list[Measured] = []
    try:
        for index, path in enumerate(paths):
            weights, step = start if path == reference_path else load_checkpoint(path)
            if options.rest == "reference" and options.include is not None:
                weights = start.weights | {n: value for n, value in weights.items() if re.search(options.include, n)}
            _load(module, weights, path)
            records += measurer.measure(index if step is None else step)
    finally:
        module.load_state_dict(original)
    if out is not None:
        name = run_id or _run_name(paths[0])
        table = measurements_table({"run_id": name, **record.row()} for record in records)
        _write_whole(Path(out) / "measurements.csv", table)
        plot_measurements(records, Path(out) / "measurements.png")
    return records


class _Measurer:
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

    def measure(self, step: int) -> list[Measured]:
        """Return one record per value, for the present weights."""
        quantities = set(self.options.quantities)
        params = select(self.module, self.options.include, self.options.exclude)
        records = self._distances(step, params) if "distance" in quantities else []
        if quantities <= {"distance"}:
            return records
        with quiet(self.module):
            objective = self._objective(params)
            scales = self._noise_scales(params) if "sensitivity" in quantities else None
            if "trace" in quantities:
                records += self._traces(step, objective, scales)
            if scales is not None:
                records += self._sensitivities(step, objective, scales)
            if "direction" in quantities:  # last, as it changes the weights
                records += self._along(step, objective)
        return records

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
        records = []
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

    def _sensitivities(self, step: int, objective: Objective, scales: Mapping[str, Tensor]) -> list[Measured]:
        options = self.options
        levels = perturbation_sensitivity(objective, scales, options.gammas, options.draws, options.seed)
        records = [Measured(step=step, quantity="perturbed_loss", gamma=0, value=levels[0].loss)]
        for level in levels:
            for quantity, value in (("perturbed_loss", level.perturbed_loss), ("sensitivity", level.sensitivity)):
                records.append(
                    Measured(step=step, quantity=quantity, gamma=level.gamma, value=value, stderr=level.stderr)
                )
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


def _load(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    expected = module.state_dict()
    wrong = [n for n in expected if n not in state or state[n].shape != expected[n].shape]
    more = [n for n in state if n not in expected]
    if wrong or more:
        raise UserError(
            f"{path} does not fit {type(module).__name__}: it lacks, or has in another shape, {listed(wrong)}; "
            f"it also holds {listed(more)}. Is the configuration that of its run? To measure a part under the "
            "reference's other layers, such as the backbone of a fine-tuned network under the pre-training head: "
            "include='^backbone', rest='reference'"
        )
    module.load_state_dict({n: state[n] for n in expected})


def _run_name(path: Path) -> str:
    folder = path.resolve().parent
    return folder.parent.name if folder.name == "checkpoints" else folder.name


def _write_whole(path: Path, text: str) -> None:
    """Write beside, then rename, so that the file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8", newline="")
    beside.replace(path)
