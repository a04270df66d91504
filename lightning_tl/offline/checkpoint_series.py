"""Saved checkpoints of one module as a series: measured once each, kept, compared."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lightning_tl.measure.objective import LossFn
from lightning_tl.offline.checkpoints import SavedCheckpoints
from lightning_tl.offline.checkpoints_plot import plot_measurements
from lightning_tl.offline.measure_options import MeasureOptions
from lightning_tl.offline.revisions import Revision
from lightning_tl.offline.series import Result, check_names, measured_series
from lightning_tl.offline.series_report import write_series


def measure_checkpoint_series(
    module: nn.Module,
    checkpoints: Sequence[str | Path],
    batches: Sequence[Any],
    options: MeasureOptions,
    out: Path,
    reference: str | Path | None = None,
    loss_fn: LossFn | None = None,
    more_settings: Mapping[str, Any] | None = None,
) -> tuple[list[Result], list[str]]:
    """Measure checkpoints as ``measure_checkpoints`` does; what is finished in ``out`` is kept, and a report written.

    Args:
        module: The module.
        checkpoints: Paths, in order.
        batches: Micro-batches.
        options: What is measured, and how.
        out: Folder for measurements.csv, measurements.png, figures and report.html.
        reference: The checkpoint from which distances and directions are taken; default: the first one.
        loss_fn: As for ``measure_checkpoints``.
        more_settings: Plain types that the values depend on too, such as the name of the loss. The code of module and
            loss is not looked at: after a change there, measure into another folder.

    Returns:
        The results, and the answer in sentences, none for fewer than three checkpoints.

    Raises:
        UserError: As ``measure_checkpoints`` and :func:`~lightning_tl.offline.series.measured_series`.
    """
    saved = SavedCheckpoints(module, checkpoints, batches, options, reference, loss_fn)
    revisions = [Revision(name) for name in _names(saved.paths)]
    check_names(revisions)
    start = saved.paths[0] if reference is None else Path(reference)
    sources = [{"file": _stamp(path), "reference": _stamp(start)} for path in saved.paths]
    settings = {
        "module": type(module).__name__,
        "parameters": sum(p.numel() for p in module.parameters()),
        "batches": len(saved.probe),
        "batches_sha256": _digest(saved.probe),
        **{key: list(value) if isinstance(value, tuple) else value for key, value in asdict(options).items()},
        **(more_settings or {}),
    }
    with saved.restored():
        results = measured_series(revisions, sources, saved.measure, settings, out)
    # a file says its step once it is read
    results = [replace(r, revision=replace(r.revision, step=r.records[0].step)) for r in results]
    answer = write_series(results, settings, saved.run_name, out)
    plot_measurements([record for result in results for record in result.records], out / "measurements.png")
    return results, answer


def _names(paths: Sequence[Path]) -> list[str]:
    """Return the files' names, with their folders where two files have the same."""
    names = [path.name for path in paths]
    return names if len(set(names)) == len(names) else [path.as_posix() for path in paths]


def _stamp(path: Path) -> dict[str, Any]:
    """Return what changes when a file is written again."""
    found = path.stat() if path.is_file() else None
    return {"path": str(path), "size": found and found.st_size, "modified": found and found.st_mtime_ns}


def _digest(batches: Sequence[Any]) -> str:
    """Return a digest of the tensors of batches, and of all else by its text."""
    digest = hashlib.sha256()
    for leaf in tree_leaves(list(batches)):
        if isinstance(leaf, Tensor):
            leaf = leaf.detach().cpu().contiguous()
            digest.update(f"{leaf.dtype} {tuple(leaf.shape)}".encode())
            digest.update(
                leaf.view(torch.uint8).numpy().tobytes() if leaf.numel() and leaf.dim() else str(leaf).encode()
            )
        elif isinstance(leaf, str | int | float | bool | None):
            digest.update(repr(leaf).encode())
    return digest.hexdigest()[:16]
