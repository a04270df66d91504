"""Samples needed in a study: curves over s by method, model and n, the s for each error, and how it falls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lightning_tl.laws.samples_needed import (
    Exponent,
    SampleCurve,
    Samples,
    common_target,
    exponent,
    sample_curve,
    samples_needed,
)
from lightning_tl.study.transfer_methods.labels import WITHOUT, order
from lightning_tl.study.transfer_methods.methods_table import Setting, name_of


@dataclass(frozen=True)
class SampleRow:
    """A curve's place in the study, and what it needs.

    Attributes:
        setting: What tells its setting from others of the same n: the backbone and the like.
        method: Label of the method, or ``no pre-training``.
        n: Pre-training images; 0 without.
        parameters: Of the backbone; NaN where not recorded.
        samples: For the target error.
    """

    setting: str
    method: str
    n: float
    parameters: float
    samples: Samples


@dataclass(frozen=True)
class Fall:
    """How the samples needed fall along one axis, all else being equal.

    Attributes:
        method: Label of the method.
        fixed: What is the same: ``n = 1,728``, or the backbone.
        target: The error.
        exponent: With which power.
    """

    method: str
    fixed: str
    target: float
    exponent: Exponent


@dataclass(frozen=True)
class SampleNeeds:
    """Samples needed for each error.

    Attributes:
        rows: One per curve and error.
        falls: With the size of the model, and with n.
    """

    rows: tuple[SampleRow, ...]
    falls: tuple[Fall, ...]


def sample_needs(found: Sequence[Setting], targets: Sequence[float] | None = None, level: float = 0.95) -> SampleNeeds:
    """Return the fine-tuning images that each method needs for given errors, in each setting.

    Args:
        found: The settings of the study.
        targets: Errors; None: one that most curves reach (see :func:`~lightning_tl.laws.samples_needed.common_target`).
        level: Of intervals.
    """
    curves = _curves(found, level)
    if targets is None:
        target = common_target([curve for _, curve in curves])
        targets = [] if target is None else [target]
    rows, falls = [], []
    for target in targets:
        here = [SampleRow(*key, samples_needed(curve, target)) for key, curve in curves]
        rows += here
        falls += _falls(here, target, level)
    return SampleNeeds(tuple(rows), tuple(falls))


def _curves(found: Sequence[Setting], level: float) -> list[tuple[tuple[str, str, float, float], SampleCurve]]:
    tables: dict[tuple[str, str, float, float], list[pd.DataFrame]] = {}
    for setting in found:
        name = name_of(setting.keys)
        parameters = np.nan
        if "backbone_params" in setting.runs:
            parameters = float(pd.to_numeric(setting.runs["backbone_params"], errors="coerce").max())
        own = setting.runs[setting.runs["point"] == setting.runs["transfer"]]  # interpolations are no trainings
        for method, rows in own.groupby("transfer"):
            tables.setdefault((name, str(method), setting.n, parameters), []).append(rows)
        if not setting.scratch.empty:
            tables.setdefault((name, WITHOUT, 0.0, parameters), []).append(setting.scratch)
    curves = []
    for key in sorted(
        tables, key=lambda key: (np.nan_to_num(key[3]), key[0], key[1] == WITHOUT, order(key[1]), key[2])
    ):
        rows = pd.concat(tables[key]).drop_duplicates("run_id")
        runs = pd.DataFrame(
            {
                "s": rows["finetune_images"].astype(float),
                "error": rows["error"].astype(float),
                "draw": rows["draw_seed"].astype(str),
                "pretrain": rows["pretrain_run"].astype(str),
            }
        )
        for name in ("run_id", "test_set", "error_stderr"):
            if name in rows:
                runs[name] = rows[name]
        x = {"parameters": key[3], "n": key[2]}
        curve = sample_curve(f"{key[0]} {key[1]}".strip(), runs, x, level, found[0].replicates)
        if curve is not None:
            curves.append((key, curve))
    return curves


def _falls(rows: Sequence[SampleRow], target: float, level: float) -> list[Fall]:
    """Return the exponents: over model sizes at each n, and over n for each setting."""
    falls = []
    for by in ("parameters", "n"):
        families: dict[tuple[str, str], list[SampleRow]] = {}
        for row in rows:
            value = row.samples.curve.x[by]
            if not (np.isfinite(value) and value > 0):
                continue
            fixed = row.setting if by == "n" else f"n = {row.n:,.0f}" if row.n else ""
            families.setdefault((row.method, fixed), []).append(row)
        for (method, fixed), members in families.items():
            distinct = {row.samples.curve.x[by] for row in members}
            if len(distinct) != len(members):  # they differ in more than this
                continue
            found = exponent([row.samples for row in members], by, level)
            if found is not None:
                falls.append(Fall(method, fixed, target, found))
    return falls


def table_rows(needs: SampleNeeds) -> list[dict[str, Any]]:
    """Return the rows of ``samples_needed.csv``; an unbounded end is empty."""
    rows = []
    for row in needs.rows:
        low, high = row.samples.interval
        item: dict[str, Any] = {"setting": row.setting, "transfer": row.method, "pretrain_images": row.n}
        item |= {"backbone_params": row.parameters, "target_error": row.samples.target}
        item |= {"samples": row.samples.estimate, "samples_low": low, "samples_high": high, "state": row.samples.state}
        rows.append({k: "" if isinstance(v, float) and not np.isfinite(v) else v for k, v in item.items()})
    return rows
