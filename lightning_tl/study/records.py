"""What a run leaves behind: a record, written once, whole; and the table that the records make."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

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
    "pretrain_loss_before",
    "pretrain_loss_after",
    "param_distance",
    "seconds",
)


def fingerprint(content: Any) -> str:
    """Return a hash of plain data, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all, whenever the process is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)  # left where the disk is full


def read_record(path: Path, key: str) -> dict[str, Any] | None:
    """Return the record of a finished run, or ``None`` where there is none or it was made from other settings."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("key") == key else None


def write_results(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write ``results.csv``: a row a fine-tuning run, columns that do not apply left empty."""
    table = io.StringIO()
    writer = csv.DictWriter(table, RESULT_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, table.getvalue())
