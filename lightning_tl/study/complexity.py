"""The complexity of each rendering of a study; measured once and kept in ``complexity.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning_tl._io.checksums import file_sha256
from lightning_tl.errors import UserError
from lightning_tl.study.config import Complexity
from lightning_tl.study.plan_items import DataSet, Run
from lightning_tl.study.records import fingerprint, load_json, write_json
from lightning_tl.study.shapes import ComplexityEntry, Shards
from lightning_tl.study.store import fetch_run

FILE = "complexity.json"


def measure_complexity(
    settings: Complexity,
    sets: Sequence[DataSet],
    runs: Sequence[Run],
    records: Mapping[str, Mapping[str, Any]],
    out: Path,
    store: str | None = None,
) -> dict[str, dict[str, Any]]:
    """Measure the complexity of those renderings for which ``complexity.json`` has no valid entry.

    Args:
        settings: Which network, and how.
        sets: The renderings.
        runs: Of the study.
        records: Of the runs.
        out: Folder of the study; gets ``complexity.json``: by rendering the entropy with its interval.
        store: URL where renderings and checkpoints are, if not in that folder.

    Returns:
        By rendering: the columns ``complexity`` (the entropy H of the features), ``complexity_low`` and
        ``complexity_high`` (its 95 % interval), in nats.

    Raises:
        UserError: There is no network to measure with, or ``lightning-tl dataset complexity`` fails.
    """
    checkpoint, by = _network(settings, runs, records, out, store)
    kept = load_json(out / FILE, missing={}, shape=dict[str, ComplexityEntry])
    entries: dict[str, Any] = {}
    for data in sets:
        manifest = load_json(out / "renders" / data.name / "train" / "manifest.json", shape=Shards)
        shards = [shard["sha256"] for shard in manifest["shards"]]
        key = fingerprint([asdict(settings), by, shards])
        entry = kept.get(data.name, {})
        if entry.get("key") != key:
            entry = {"key": key, **_measure(settings, f"{store or out}/renders/{data.name}", checkpoint)}
        entries[data.name] = entry
        write_json(out / FILE, entries)
    return {name: _columns(entry["entropy"]) for name, entry in entries.items()}


def named_checkpoint(settings: Complexity) -> Path | None:
    """Return the checkpoint that the settings name; None where a fine-tuning of the study is used instead.

    Raises:
        UserError: There is no such file.
    """
    if settings.checkpoint is None:
        return None
    path = Path(settings.checkpoint)
    if not path.is_file():
        raise UserError(
            f"complexity.checkpoint is {path}: no such file, relative to {Path.cwd()}; train that network first (for "
            "one on COCO see configs/finetune/coco_features.yaml), or set complexity.checkpoint to null for the first "
            "fine-tuning from scratch"
        )
    return path


def _network(
    settings: Complexity,
    runs: Sequence[Run],
    records: Mapping[str, Mapping[str, Any]],
    out: Path,
    store: str | None,
) -> tuple[Path, str]:
    """Return the checkpoint and an identifier of its content."""
    named = named_checkpoint(settings)
    if named is not None:
        return named, file_sha256(named)
    run = next(run for run in runs if run.stage == "finetune" and run.start is None and run.name in records)
    path = out / "runs" / run.name / records[run.name]["checkpoint"]
    if store is not None and not path.is_file():
        fetch_run(store, out, run.name, checkpoints=True)
    return path, run.key


def _measure(settings: Complexity, root: str, checkpoint: Path) -> dict[str, Any]:
    from lightning_tl.inspection.complexity_report import complexity

    options = {"images": settings.images, "size": settings.size, "standardize": settings.standardize}
    return complexity(root, checkpoint, **options)[1]  # type: ignore[arg-type]


def _columns(entropy: Mapping[str, Any]) -> dict[str, Any]:
    low, high = entropy["interval"]
    return {
        "complexity": round(entropy["value"], 4),
        "complexity_low": round(low, 4),
        "complexity_high": round(high, 4),
    }
