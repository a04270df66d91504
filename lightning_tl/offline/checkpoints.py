"""Saved checkpoints measured after the run, into a table and a plot."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_tl._io.atomic import write_atomically
from lightning_tl.errors import UserError
from lightning_tl.measure.checkpoint import Checkpoint, fit_names, load_checkpoint
from lightning_tl.measure.noise import Reference
from lightning_tl.measure.objective import LossFn
from lightning_tl.measure.params import Groups, listed
from lightning_tl.measure.perturbation import check_gammas
from lightning_tl.measured import Measured, measurements_table
from lightning_tl.offline.batches import first_batches
from lightning_tl.offline.checkpoints_plot import plot_measurements
from lightning_tl.offline.losses import default_loss
from lightning_tl.offline.measurer import Measurer
from lightning_tl.offline.options import MeasureOptions


def measure_checkpoints(
    module: nn.Module,
    checkpoints: str | Path | Sequence[str | Path],
    batches: Iterable[Any] = (),
    options: MeasureOptions | None = None,
    *,
    out: str | Path | None = None,
    reference: str | Path | None = None,
    loss_fn: LossFn | None = None,
    init_reference: Reference = None,
    groups: Groups = None,
    run_id: str | None = None,
    loader_batches: int = 1,
) -> list[Measured]:
    """Measure saved checkpoints of one module: distance, Hessian trace, sensitivity, and the loss along a line.

    Args:
        module: The module; it gets its own weights back at the end.
        checkpoints: Their paths, in the order in which to measure, or the path of a single one.
        batches: Micro-batches to measure the loss on, or a DataLoader of which the first ``loader_batches`` are taken;
            not needed if only ``distance`` is measured.
        options: What is measured, and how.
        out: A folder for ``measurements.csv`` and ``measurements.png``; an earlier table there is replaced.
        reference: The checkpoint from which distances and directions are taken; default: the first one.
        loss_fn: ``(module, batch) -> scalar tensor``; default: the module's ``training_step``, or the loss that the
            module returns itself (Hugging Face's, for batches with ``labels``).
        init_reference: For ``noise="init"``, as in :func:`~lightning_tl.measure.noise.noise_scales`.
        groups: Regular expression → group name; default: by first-level module.
        run_id: For the table; default: the name of the folder that holds the checkpoints.
        loader_batches: How many batches of a DataLoader to take.

    Returns:
        One record per value, of the quantities and groups that the callbacks have: ``param_distance`` (``total``,
        ``relative``, ``cosine``, parameter groups), ``hessian`` (``trace``, ``trace/<parameter group>``, and the same
        of ``weighted_trace``, which is Tr(ΣH)), ``sensitivity``, ``perturbed_loss``. Also ``loss_along`` and
        ``quadratic_along``, for which ``gamma`` holds λ. Steps are the checkpoints' own, or count from 0 where the
        files do not say.

    Raises:
        UserError: A checkpoint cannot be read or does not fit the module; there is no checkpoint, no batch or no loss.
    """
    options = options or MeasureOptions()
    check_gammas(options.gammas)
    paths = [Path(checkpoints)] if isinstance(checkpoints, str | Path) else [Path(path) for path in checkpoints]
    if not paths:
        raise UserError("there is no checkpoint to measure; name at least one")
    probe: list[Any] = []
    if of_loss := sorted(set(options.quantities) - {"distance"}):
        if isinstance(batches, Sequence) and not batches:
            raise UserError(f"{', '.join(of_loss)}: needs batches to measure the loss on")
        probe = first_batches(batches, loader_batches, device_of(module), options.seed)
        loss_fn = loss_fn or default_loss(module, probe[0])
    reference_path = paths[0] if reference is None else Path(reference)
    start = _read(module, reference_path)
    original = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    measurer = Measurer(module, probe, start.weights, options, loss_fn, init_reference, groups)
    records: list[Measured] = []
    try:
        for index, path in enumerate(paths):
            weights, step = start if path == reference_path else _read(module, path)
            if options.rest == "reference" and options.include is not None:
                weights = start.weights | {n: value for n, value in weights.items() if re.search(options.include, n)}
            _load(module, weights, path)
            records += measurer.measure(index if step is None else step)
    finally:
        module.load_state_dict(original)
    if out is not None:
        name = run_id or _run_name(paths[0])
        table = measurements_table({"run_id": name, **record.row()} for record in records)
        write_atomically(Path(out) / "measurements.csv", table)
        plot_measurements(records, Path(out) / "measurements.png")
    return records


def device_of(module: nn.Module) -> torch.device:
    """Return the device of a module's first parameter, or the CPU."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def _read(module: nn.Module, path: Path) -> Checkpoint:
    """Read a checkpoint's weights, under the module's names for them."""
    weights, step = load_checkpoint(path)
    try:
        return Checkpoint(fit_names(weights, module.state_dict()), step)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


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
