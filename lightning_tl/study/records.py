"""Files of a study: JSON records of runs, and CSV tables made from them."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_tl._io.atomic import write_atomically
from lightning_tl._io.json_text import parse_json
from lightning_tl.errors import UserError
from lightning_tl.study.shapes import RunRecord, RunState, problem

RESULT_COLUMNS = (
    "run_id",
    "render",
    "pretrain_task",
    "pretrain_images",
    "pretrain_steps",
    "backbone",
    "pretrain_seed",
    "finetune_task",
    "finetune_data",
    "finetune_fraction",
    "finetune_images",
    "transfer",
    "lr",
    "draw_seed",
    "metric",
    "score",
    "error",
    "error_stderr",
    "test_set",
    "val_error",
    "finetune_loss",
    "val_finetune_loss",
    "pretrain_loss_before",
    "pretrain_loss_after",
    "pretrain_loss_saved",
    "pretrain_loss_after_saved_bn",
    "pretrain_loss_after_target_bn",
    "param_distance",
    "line_slope",
    "line_curvature",
    "line_rise",
    "seconds",
)


def fingerprint(content: Any) -> str:
    """Return a hash of plain data, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def load_json(path: Path, missing: dict[str, Any] | None = None, shape: Any = None) -> dict[str, Any]:
    """Return the content of a JSON file that the library wrote.

    Args:
        path: The file.
        shape: What it holds, of :mod:`~lightning_tl.study.shapes`.
        missing: Returned where the file is missing or damaged; None: an error is raised.

    Raises:
        UserError: The file is missing, or is not a JSON object of that shape.
    """
    try:
        content = parse_json(path.read_bytes())
        reason = (
            "not a JSON object" if not isinstance(content, dict) else "" if shape is None else problem(content, shape)
        )
        if not reason:
            return dict(content)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    if missing is None:
        raise UserError(f"{path}: cannot be read ({reason}); delete it and run the same command again")
    return missing


def read_record(path: Path, key: str) -> dict[str, Any] | None:
    """Return the record of a finished run; None where there is none, or where it was made with other settings."""
    record = load_json(path, missing={}, shape=RunRecord)
    return record if record.get("key") == key else None


def read_state(folder: Path) -> dict[str, Any]:
    """Return the state of a run in progress; empty where there is none."""
    return load_json(folder / "state.json", missing={}, shape=RunState)


def write_results(path: Path, rows: Iterable[Mapping[str, Any]], extra: Sequence[str] = ()) -> None:
    """Write ``results.csv``.

    One row per fine-tuning run; cells that do not apply stay empty, the study's own axes come last. ``score``,
    ``error`` and ``finetune_loss`` are measured on test images, ``val_error`` and ``val_finetune_loss`` on validation
    images; settings must be chosen by the latter.
    """
    write_table(path, (*RESULT_COLUMNS, *extra), rows)


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV file in one step."""
    table = io.StringIO()
    writer = csv.DictWriter(table, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, table.getvalue())


def write_json(path: Path, content: Mapping[str, Any], sync: bool = True) -> None:
    """Write a JSON file in one step."""
    write_atomically(path, json.dumps(content, indent=1, default=str) + "\n", sync)
