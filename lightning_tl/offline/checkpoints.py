"""Saved checkpoints measured after the run, into a table and a plot."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_tl._io.atomic import write_atomically
from lightning_tl.errors import UserError
from lightning_tl.measure.checkpoint import Checkpoint, fit_names, load_checkpoint
from lightning_tl.measure.noise_scales import Reference
from lightning_tl.measure.objective import LossFn
from lightning_tl.measure.params import Groups, listed
from lightning_tl.measured_value import Measured, measurements_table
from lightning_tl.offline.batches import first_batches
from lightning_tl.offline.checkpoints_plot import plot_measurements
from lightning_tl.offline.default_loss import default_loss
from lightning_tl.offline.loss_tables import LossTables
from lightning_tl.offline.measure_options import MeasureOptions
from lightning_tl.offline.measurer import Measurer


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
        init_reference: For ``noise="init"``, as in :func:`~lightning_tl.measure.noise_scales.noise_scales`.
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
    saved = SavedCheckpoints(
        module, checkpoints, batches, options, reference, loss_fn, init_reference, groups, loader_batches
    )
    with saved.restored():
        records = [record for index in range(len(saved.paths)) for record in saved.measure(index)[0]]
    if out is not None:
        name = run_id or saved.run_name
        table = measurements_table({"run_id": name, **record.row()} for record in records)
        write_atomically(Path(out) / "measurements.csv", table)
        plot_measurements(records, Path(out) / "measurements.png")
    return records


class SavedCheckpoints:
    """Saved checkpoints of one module, each measured when it is asked for.

    Args: as for :func:`measure_checkpoints`.

    Attributes:
        paths: Of the checkpoints.

    Raises:
        UserError: As :func:`measure_checkpoints`; ``measure`` where a checkpoint cannot be read or does not fit.
    """

    def __init__(
        self,
        module: nn.Module,
        checkpoints: str | Path | Sequence[str | Path],
        batches: Iterable[Any],
        options: MeasureOptions,
        reference: str | Path | None = None,
        loss_fn: LossFn | None = None,
        init_reference: Reference = None,
        groups: Groups = None,
        loader_batches: int = 1,
    ) -> None:
        self.paths = (
            [Path(checkpoints)] if isinstance(checkpoints, str | Path) else [Path(path) for path in checkpoints]
        )
        if not self.paths:
            raise UserError("there is no checkpoint to measure; name at least one")
        self.probe: list[Any] = []
        if of_loss := sorted(set(options.quantities) - {"distance"}):
            if isinstance(batches, Sequence) and not batches:
                raise UserError(f"{', '.join(of_loss)}: needs batches to measure the loss on")
            self.probe = first_batches(batches, loader_batches, device_of(module), options.seed)
            loss_fn = loss_fn or default_loss(module, self.probe[0])
        self._module, self._options = module, options
        self._reference_path = self.paths[0] if reference is None else Path(reference)
        self._start: Checkpoint | None = None
        self._arguments = (loss_fn, init_reference, groups)
        self._measurer: Measurer | None = None

    @property
    def run_name(self) -> str:
        """The name of the folder that holds the checkpoints."""
        folder = self.paths[0].resolve().parent
        return folder.parent.name if folder.name == "checkpoints" else folder.name

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Give the module its own weights back on leaving."""
        original = {name: tensor.detach().clone() for name, tensor in self._module.state_dict().items()}
        try:
            yield
        finally:
            self._module.load_state_dict(original)

    def measure(self, index: int) -> tuple[list[Measured], LossTables | None]:
        """Load a checkpoint into the module and measure it: records, and the losses that the noise gave."""
        if self._start is None:
            self._start = _read(self._module, self._reference_path)
        start, options, path = self._start, self._options, self.paths[index]
        if self._measurer is None:
            self._measurer = Measurer(self._module, self.probe, start.weights, options, *self._arguments)
        weights, step = start if path == self._reference_path else _read(self._module, path)
        if options.rest == "reference" and options.include is not None:
            weights = start.weights | {n: value for n, value in weights.items() if re.search(options.include, n)}
        _load(self._module, weights, path)
        return self._measurer.measure(index if step is None else step)


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
