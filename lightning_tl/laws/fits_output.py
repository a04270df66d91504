"""What a fit leaves on disk: ``fits.json`` (a manifest that reproduces it), ``fits.csv``, and the terminal's table."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import lightning_tl
from lightning_tl.laws.advice import Advice, GroupAdvice
from lightning_tl.laws.compare import Comparison
from lightning_tl.laws.error_sources import error_sources
from lightning_tl.laws.fitted_law import FittedLaw
from lightning_tl.laws.group_fits import GroupFit, GroupResult, UnfittedGroup, fitted
from lightning_tl.laws.terms import Terms
from lightning_tl.laws.wording import comparison_sentence, up_to

_RUN_COLUMNS = ("run_id", "n", "s", "error", "pretrain", "draw", "line")
_WORDS = ("label", "verdict", "sentences", "reduction", "confidence")


def plain(value: Any) -> Any:
    """Return nested data as JSON's own types; infinite and undefined numbers become ``null``."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(item) for item in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value


def law_record(law: FittedLaw) -> dict[str, Any]:
    """Return a fitted law as plain types."""
    return {
        "form": law.form.describe(),
        "space": law.space,
        "params": {
            name: {
                "value": law.params[name],
                "stderr": law.stderr[name],
                "interval": law.interval(name),
                "at_bound": law.at_bound(name),
                "identified": law.unidentified(name) is None,
                "reason": law.unidentified(name),
            }
            for name in law.form.parameters
        },
        "level": law.level,
        "held": [{"name": p.name, "value": p.value, "weight": p.weight, "fixed": p.fixed} for p in law.priors],
        "shared_variance": law.shared,
        "pooled_noise": law.pooled,
        "log_rmse": law.log_rmse,
        "noise": law.noise,
        "degrees_of_freedom": law.dof,
        "draws": list(law.cells.draws),
        "draw_offsets": law.cells.offsets,
        "points": [
            {"n": n, "s": s if law.form.uses_s else None, "error": np.exp(y), "runs": runs}
            for n, s, y, runs in zip(law.cells.n, law.cells.s, law.cells.log_error, law.cells.runs, strict=True)
        ],
    }


def group_record(item: GroupResult, advice: GroupAdvice | None = None) -> dict[str, Any]:
    """Return one group's fit as plain types: what was fitted, to which points, and what was dropped."""
    group = item.group
    record: dict[str, Any] = {
        "label": group.label,
        "keys": group.keys,
        "terms": vars(group.terms),
        "reason": None,
        "law": None,
        "power_law": None,
        "scratch": None,
        "hold_out": None,
        "runs": group.runs[[name for name in _RUN_COLUMNS if name in group.runs]].to_dict("records"),
        "dropped": group.dropped,
        "notes": item.notes,
        "traits": group.traits,
    }
    if isinstance(item, UnfittedGroup):
        record["reason"] = item.reason
    else:
        record |= _fit_record(item)
        sources = error_sources(item)
        record["error_sources"] = None if sources is None else vars(sources)
    if advice:
        record["advice"] = {name: getattr(advice, name) for name in _WORDS}
        record["images_needed"] = vars(advice.images_needed) if advice.images_needed else None
        record["choices"] = [vars(choice) for choice in advice.choices]
        record["next_size"] = vars(advice.next_size) if advice.next_size else None
    return record


def _fit_record(item: GroupFit) -> dict[str, Any]:
    record: dict[str, Any] = {"law": law_record(item.law)}
    if item.power:
        record["power_law"] = law_record(item.power)
    if item.scratch:
        scratch = item.scratch
        record["scratch"] = {
            "error": scratch.error,
            "stderr": scratch.stderr,
            "runs": scratch.runs,
            "helps_from": scratch.helps_from,
            "negative_transfer_at": scratch.harmful,
            "n": scratch.sizes,
            "error_over_scratch": np.exp(scratch.ratio),
            "low": np.exp(scratch.low),
            "high": np.exp(scratch.high),
        }
    if item.hold_out:
        held = item.hold_out
        names = ("n", "s", "observed", "predicted", "low", "high", "power", "rmse", "power_rmse", "off", "inside")
        record["hold_out"] = {name: getattr(held, name) for name in names}
    if item.boot:
        record["bootstrap"] = {"resamples": item.boot.count, "seed": item.boot.seed} | {
            name: item.boot.interval(name) for name in item.boot.samples
        }
    return record


def manifest(fits: Sequence[GroupResult], advice: Advice, settings: dict[str, Any]) -> dict[str, Any]:
    """Return all that reproduces the fits: settings, versions, points used and dropped, fits and advice."""
    import pandas as pd
    import scipy

    versions = {"lightning_tl": lightning_tl.__version__, "python": platform.python_version()}
    versions |= {"numpy": np.__version__, "scipy": scipy.__version__, "pandas": pd.__version__}
    record: dict[str, Any] = plain(
        {
            "format": 1,
            "versions": versions,
            "settings": settings,
            "advice": advice.headline,
            "pretraining": advice.pretraining,
            "best": advice.best,
            "groups": [group_record(item, words) for item, words in zip(fits, advice.groups, strict=True)],
            "comparisons": [_comparison(pair, fits[0].group.terms) for pair in advice.comparisons],
        }
    )
    return record


def _comparison(pair: Comparison, terms: Terms) -> dict[str, Any]:
    record: dict[str, Any] = {"sentence": comparison_sentence(pair, terms), "first": pair.first}
    record |= {"second": pair.second, "n": pair.n, "paired_draws": pair.paired, "same_test_images": pair.same_images}
    record["wider_unpaired"] = pair.wider_unpaired
    for name in ("log_ratio", "alpha", "gap"):
        difference = getattr(pair, name)
        record[name] = None if difference is None else vars(difference)
    return record


def rows(fits: Sequence[GroupResult]) -> list[dict[str, Any]]:
    """Return ``fits.csv``'s rows: one row per group, the parameters under their own names."""
    table = []
    for item in fits:
        row: dict[str, Any] = {"group": item.label, **item.group.keys, "form": None}
        if isinstance(item, GroupFit):
            law = item.law
            row["form"] = law.form.name
            for name in law.form.parameters:
                low, high = law.interval(name)
                row |= {name: law.params[name], f"{name}_stderr": law.stderr[name]}
                row |= {f"{name}_low": low, f"{name}_high": high, f"{name}_identified": law.unidentified(name) is None}
                if item.boot is not None:
                    row |= dict(zip((f"{name}_boot_low", f"{name}_boot_high"), item.boot.interval(name), strict=True))
            row |= {"log_rmse": law.log_rmse, "points": len(law.cells.n), "runs": int(law.cells.runs.sum())}
            row["identified"] = all(law.unidentified(name) is None for name in law.form.parameters)
            if item.hold_out is not None:
                row |= {"hold_out_rmse": item.hold_out.rmse, "hold_out_power_rmse": item.hold_out.power_rmse}
                row["hold_out_inside"] = item.hold_out.inside
        row["scratch_error"] = item.scratch.error if isinstance(item, GroupFit) and item.scratch else None
        row["reason"] = item.reason if isinstance(item, UnfittedGroup) else None
        table.append(row)
    return table


def write(
    fits: Sequence[GroupResult], advice: Advice, out: str | Path, settings: dict[str, Any] | None = None
) -> dict[str, Path]:
    """Write ``fits.json`` and ``fits.csv`` into a folder.

    Args:
        fits: The groups' fits.
        advice: What they mean.
        out: The folder; made where missing.
        settings: How the fits were asked for, kept in the manifest.

    Returns:
        The paths written, by name.
    """
    import pandas as pd

    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {"json": folder / "fits.json", "csv": folder / "fits.csv"}
    paths["json"].write_text(_by_lines(manifest(fits, advice, settings or {})), encoding="utf-8")
    pd.DataFrame(rows(fits)).to_csv(paths["csv"], index=False)
    return paths


def _by_lines(record: dict[str, Any]) -> str:
    """Return JSON with one line for each entry, and for each element of lists of records: one for each group."""
    lines = []
    for name, value in record.items():
        text = json.dumps(value)
        if isinstance(value, list) and value and isinstance(value[0], dict):
            text = "[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n ]"
        lines.append(f" {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _cell(law: FittedLaw, name: str) -> str:
    low, high = law.interval(name)
    if low == high:
        return f"{low:.3g} (held)"
    known = law.unidentified(name) is None
    if low <= 0 and not math.isfinite(high) and not known:
        return "not identified *"
    return f"{law.params[name]:.3g} ({low:.3g} {up_to(high)}){'' if known else ' *'}"


def terminal_table(fits: Sequence[GroupResult], level: float = 0.95) -> str:
    """Return the fits as a text table; a star marks what is not identified."""
    laws = [item.law for item in fitted(fits)]
    names = list(dict.fromkeys(name for law in laws for name in law.form.parameters))
    head = ["group", "points", *names, "scratch", "log-RMSE"]
    body = []
    for item in fits:
        if isinstance(item, UnfittedGroup):
            body.append([item.label, "-", *["-"] * len(names), "-", "-"])
            continue
        scratch = f"{item.scratch.error:.3g}" if item.scratch else "-"
        cells = [_cell(item.law, name) for name in names]
        body.append([item.label, str(len(item.law.cells.n)), *cells, scratch, f"{item.law.log_rmse:.3f}"])
    width = [max(len(row[i]) for row in [head, *body]) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, width, strict=True)).rstrip() for row in [head, *body]]
    lines.insert(1, "  ".join("-" * w for w in width))
    if any(cell.endswith("*") for row in body for cell in row):
        lines.append(f"({100 * level:g} % intervals)  * not identified: the data do not bound it")
    elif laws:
        lines.append(f"({100 * level:g} % intervals)")
    return "\n".join(lines)
