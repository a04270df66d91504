"""From records to tables: one row per fine-tuning, per measured value, and per tested run (bootstrap samples)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_tl._io.atomic import write_atomically
from lightning_tl.measured_value import measurements_table
from lightning_tl.study.expansion import Expansion
from lightning_tl.study.grid import is_specification, specification_text
from lightning_tl.study.plan_items import DataSet, Run
from lightning_tl.study.records import RESULT_COLUMNS, write_results, write_table

Records = Mapping[str, Mapping[str, Any]]
Traits = Mapping[str, Mapping[str, Any]]

# columns that study.forgetting measures after a fine-tuning
_FORGETTING = tuple(name for name in RESULT_COLUMNS if name.startswith(("pretrain_loss_", "param_distance", "line_")))
# axes that have a column of their own in results.csv
_KNOWN = {"render", "config", "data.n", "data.draw", "data.seed", "data.fraction", "seed_everything", "data.shots"}
_KNOWN |= {"model.transfer"}


def collect(
    runs: Sequence[Run], sets: Sequence[DataSet], records: Records, out: Path, traits: Traits | None = None
) -> None:
    """Write ``results.csv``, ``measurements.csv``, ``error_replicates.csv`` and, if any, ``interpolations.csv``.

    Args:
        runs: All runs of the study; those without a record are left out.
        sets: Its data sets.
        records: Run name → record.
        out: Folder of the study.
        traits: Further columns: data set → column → value.
    """
    known = traits or {}
    rows = [{**row, **known.get(row.get("render", ""), {})} for row in result_rows(runs, sets, records)]
    extra = sorted({key for row in rows for key in row} - set(RESULT_COLUMNS))
    write_results(out / "results.csv", rows, extra)
    write_atomically(out / "measurements.csv", measurements_table(measurement_rows(runs, records)))
    columns, drawn = replicate_rows(runs, records)
    write_table(out / "error_replicates.csv", columns, drawn)
    if between := interpolation_rows(runs, records):
        write_table(out / "interpolations.csv", ("run_id", "alpha", "val_error", "error", "pretrain_loss"), between)


def axis_columns(expansion: Expansion) -> set[str]:
    """Return the columns of ``results.csv`` that hold values of the study's axes."""
    own = {
        name if name.startswith("pretrain.") else f"finetune.{name}"
        for name in (
            *expansion.study.finetune.axes,
            *(f"pretrain.{key}" for run in expansion.pretrain for key in run.own),
        )
        if name.removeprefix("pretrain.") not in _KNOWN
    }
    return own | {f"render.{key}" for point in expansion.renders.values() for key in point}


def result_rows(runs: Sequence[Run], sets: Sequence[DataSet], records: Records) -> list[dict[str, Any]]:
    """Return one row per finished fine-tuning; a run from scratch gets one for each data set it is compared with."""
    by_name = {run.name: run for run in runs}
    axes = {data.name: {f"render.{key}": value for key, value in data.point.items()} for data in sets}
    rows = []
    for run in runs:
        if run.stage != "finetune" or run.name not in records:
            continue
        start = by_name[run.start] if run.start else None
        row = _row(run, records[run.name], records[start.name] if start else None)
        renders = [start.point.get("render", "")] if start else [data.name for data in sets] or [""]
        rows += [row | {"render": render} | axes.get(render, {}) for render in renders]
    return rows


def _row(run: Run, record: Mapping[str, Any], start: Mapping[str, Any] | None) -> dict[str, Any]:
    facts, metrics = record["facts"], record["metrics"]
    row: dict[str, Any] = {
        "run_id": run.name,
        "pretrain_images": 0,
        "backbone": facts.get("backbone"),
        "finetune_task": facts.get("task"),
        "finetune_data": facts.get("data"),
        "finetune_fraction": facts.get("fraction"),
        "finetune_images": facts.get("images"),
        "transfer": facts.get("transfer", "full"),
        "lr": facts.get("lr"),
        "draw_seed": facts.get("draw", facts.get("seed")),
        "metric": facts.get("metric"),
        "score": _rounded(metrics.get("test/score")),
        "error": _rounded(metrics.get("test/error")),
        "error_stderr": _rounded(metrics.get("test/error_stderr")),
        "test_set": facts.get("test_set"),
        "val_error": _rounded(metrics.get("val/error")),
        "finetune_loss": _rounded(metrics.get("test/loss")),
        "val_finetune_loss": _rounded(metrics.get("val/loss")),
        **{name: _rounded(facts.get(name)) for name in _FORGETTING},
        "seconds": record["seconds"],
        "backbone_params": facts.get("backbone_params"),
        "trainable_params": facts.get("trainable_params"),
    }
    if start is not None:
        before = start["facts"]
        row |= {
            "pretrain_task": before.get("task"),
            "pretrain_images": before.get("images"),
            "pretrain_steps": before.get("steps"),
            "pretrain_tokens": before.get("tokens"),
            "pretrain_seed": before.get("seed"),
            "pretrain_run": run.start,
            "pretrain_passes": _rounded(before.get("passes")),
            "pretrain_loss_before": _rounded(facts.get("pretrain_loss_before", start["metrics"].get("val/loss"))),
        }
    for key, value in run.point.items():
        if key.removeprefix("pretrain.") not in _KNOWN:
            column = key if key.startswith("pretrain.") else f"finetune.{key}"
            row[column] = specification_text(value) if is_specification(value) else value
    return {key: value for key, value in row.items() if value is not None}


def measurement_rows(runs: Iterable[Run], records: Records) -> Iterable[dict[str, Any]]:
    """Yield the rows of ``measurements.csv``: the values of the measuring callbacks, run by run."""
    for run in runs:
        if run.name in records:
            for row in records[run.name].get("measurements", ()):
                yield {"run_id": run.name, **row}


def interpolation_rows(runs: Iterable[Run], records: Records) -> list[dict[str, Any]]:
    """Return the rows of ``interpolations.csv``: the networks that WiSE-FT evaluated, run by run."""
    known = [(run.name, records[run.name].get("interpolations", ())) for run in runs if run.name in records]
    return [{"run_id": name, **row} for name, rows in known for row in rows]


def replicate_rows(runs: Iterable[Run], records: Records) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the columns and rows of ``error_replicates.csv``: the error of each tested run on each bootstrap sample.

    Column ``r`` is of the same sample of test images for all runs that were tested on the same images.
    """
    rows = []
    for run in runs:
        values = records.get(run.name, {}).get("error_replicates", ())
        if values:
            rows.append({"run_id": run.name, **{str(r): value for r, value in enumerate(values, start=1)}})
    most = max(map(len, rows), default=1) - 1
    return ["run_id", *(str(r + 1) for r in range(most))], rows


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.7g}")
