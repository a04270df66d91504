"""From a study's tables to values by budget, seed and draw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lightning_tl.budget_curves import LEAST_BUDGETS, Array
from lightning_tl.errors import UserError
from lightning_tl.study.overtraining.results import Exclusion, MissingRuns, RateOutsideWindow, Unit

_NEEDED = ("pretrain_images", "pretrain_steps", "pretrain_seed", "pretrain_run", "draw_seed", "lr", "error")
_FINETUNED = ("finetune_loss", "val_finetune_loss")
_FORGOTTEN = ("pretrain_loss_before", "pretrain_loss_after", "param_distance")
#: Columns that the analysis uses where they are there.
_OPTIONAL = (
    "pretrain_loss_saved",
    "pretrain_loss_after_saved_bn",
    "pretrain_loss_after_target_bn",
    "line_slope",
    "line_curvature",
    "line_rise",
)
_AXES = ("render", "pretrain_task", "backbone", "finetune_task", "finetune_data", "finetune_fraction", "transfer")


def checked(results: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of fine-tunings from a pre-training, with numbers in the columns that are needed.

    Two columns are added: ``budget``, in tokens where these are recorded, else in steps; and the rise of the
    pre-training loss by fine-tuning.

    Raises:
        UserError: A column is missing or empty, or no row is left.
    """
    for name in (*_NEEDED, *_FINETUNED, *_FORGOTTEN):
        if name not in results.columns or ("pretrain_images" in results and results[name].isna().all()):
            remedy = "set forgetting: true and run the study again" if name in _FORGOTTEN else "run the study again"
            raise UserError(f"results.csv has no {name}, which the overtraining analysis needs; {remedy}")
    table = results[pd.to_numeric(results["pretrain_images"], errors="coerce") > 0].copy()
    numbers = [name for name in (*_NEEDED, *_FINETUNED, *_FORGOTTEN) if name != "pretrain_run"]
    for name in (*numbers, *(name for name in _OPTIONAL if name in table)):
        table[name] = pd.to_numeric(table[name], errors="coerce")
    table = table.dropna(subset=numbers)
    if table.empty:
        raise UserError("results.csv has no fine-tuning from a pre-training with numbers in all of these columns")
    table["increase"] = table["pretrain_loss_after"] - table["pretrain_loss_before"]
    for kind, reference in (("saved_bn", "pretrain_loss_saved"), ("target_bn", "pretrain_loss_saved")):
        if f"pretrain_loss_after_{kind}" in table and reference in table:
            table[f"increase_{kind}"] = table[f"pretrain_loss_after_{kind}"] - table[reference]
    table["pretrain_steps"] = table["pretrain_steps"].astype(int)
    table["budget"] = table["pretrain_tokens" if unit_of(table) == "tokens" else "pretrain_steps"].astype(int)
    return table


def unit_of(table: pd.DataFrame) -> Unit:
    """Return what budgets are counted in: tokens where all are known, else steps."""
    return "tokens" if "pretrain_tokens" in table and table["pretrain_tokens"].notna().all() else "steps"


def series_keys(table: pd.DataFrame) -> list[str]:
    """Return the columns in which series differ: those that vary where budget, seeds and learning rate do not."""
    same = table.groupby(["budget", "pretrain_seed", "draw_seed", "lr"])
    axes = [name for name in table.columns if name in _AXES or name.startswith(("pretrain.", "finetune."))]
    keys = [name for name in axes if same[name].nunique(dropna=False).max() > 1]
    # the label in ``transfer`` says what such an axis holds
    return [name for name in keys if "transfer" not in keys or not name.startswith("finetune.model.transfer")]


def series_name(keys: Sequence[str], values: object) -> str:
    """Return what to call a series, by its values of :func:`series_keys`."""
    parts = []
    for key, value in zip(keys, values if isinstance(values, tuple) else (values,), strict=True):
        last = key.rpartition(".")[2]
        ends = {0.0: "annealed to zero", 1.0: "constant rate"}
        known = key == "pretrain.model.schedule.init_args.end" and isinstance(value, int | float) and value in ends
        parts.append(ends[float(value)] if known else str(value) if key in _AXES else f"{last} {value}")
    return ", ".join(parts)


def budgets_of(name: str, rows: pd.DataFrame) -> list[int]:
    """Return a series's budgets, ascending.

    Raises:
        UserError: There are fewer than three.
    """
    budgets = sorted(int(budget) for budget in rows["budget"].unique())
    if len(budgets) < LEAST_BUDGETS:
        raise UserError(
            f"{name or 'the study'} has pre-trainings of {len(budgets)} budgets (in {unit_of(rows)}: "
            f"{', '.join(map(str, budgets))}); a turn between them needs at least {LEAST_BUDGETS}: add lengths of "
            "pre-training to the study"
        )
    return budgets


def within_window(rows: pd.DataFrame, window: tuple[float, float] | None, exclusions: list[Exclusion]) -> pd.DataFrame:
    """Leave out the learning rates whose pre-training loss leaves a window at any budget.

    Rates that destroy the network, or hardly change it, say nothing about its fragility (Springer et al. 2025, App. C).

    Args:
        rows: Of a series.
        window: Lowest and highest mean pre-training loss after fine-tuning; None: no limit.
        exclusions: List to which each rate that is left out is appended.
    """
    if window is None:
        return rows
    means = rows.groupby(["lr", "budget"])["pretrain_loss_after"].mean()
    low, high = means.groupby("lr").min(), means.groupby("lr").max()
    kept = [rate for rate in low.index if low[rate] >= window[0] and high[rate] <= window[1]]
    for rate in low.index.difference(kept):
        exclusions.append(RateOutsideWindow(float(rate), (float(low[rate]), float(high[rate])), window))
    if not kept:
        raise UserError(
            f"overtraining.loss_window is {window[0]:g} to {window[1]:g}, which no learning rate stays within: the "
            f"pre-training loss after fine-tuning goes from {low.min():.3g} to {high.max():.3g}; widen the window"
        )
    return rows[rows["lr"].isin(kept)]


def cube(
    rows: pd.DataFrame,
    column: str,
    repeats: Sequence[str],
    budgets: Sequence[object],
    exclusions: list[Exclusion],
    quantity: str,
    value: float | None = None,
) -> Array | None:
    """Return a column's values ``[budgets, seeds, draws]`` without gaps, or None where too few runs are there.

    Args:
        rows: One row per run; several of one budget, seed and draw are averaged.
        column: The values.
        repeats: The column of seeds, and that of draws where there is one.
        budgets: Values of ``budget``, in order.
        exclusions: List to which runs that are missing are appended.
        quantity: What the rows are, as in :class:`MissingRuns`.
        value: Of the learning rate or noise.
    """
    keys = ["budget", *repeats]
    cells = rows.groupby(keys)[column].mean().unstack(list(repeats)).reindex(list(budgets))
    if len(repeats) == 1:
        cells.columns = pd.MultiIndex.from_tuples([(seed, 0) for seed in cells.columns])
    seeds, draws = cells.columns.unique(0), cells.columns.unique(1)
    columns = pd.MultiIndex.from_product([seeds, draws])
    values = cells.reindex(columns=columns).to_numpy(float).reshape(len(budgets), len(seeds), len(draws))
    missing = int(np.isnan(values).sum())
    while values.size and np.isnan(values).any():
        gaps = [np.isnan(values).mean(axis=(0, 2)), np.isnan(values).mean(axis=(0, 1))]
        axis = int(gaps[1].max() > gaps[0].max())
        values = np.delete(values, int(np.argmax(gaps[axis])), axis=axis + 1)
    if missing:
        left = values.shape[1:] if values.size else (0, 0)
        exclusions.append(MissingRuns(quantity, value, missing, *left))
    return values if values.size else None


def last_values(starts: pd.DataFrame, measurements: pd.DataFrame) -> pd.DataFrame:
    """Return what was measured on each pre-training after its last step, with its budget and seed.

    Args:
        starts: One row per pre-training, with ``pretrain_run``, ``budget``, ``pretrain_steps`` and ``pretrain_seed``.
        measurements: As in ``measurements.csv``; may be empty.
    """
    columns = ["pretrain_run", "budget", "pretrain_steps", "pretrain_seed"]
    if measurements.empty:
        return pd.DataFrame(columns=[*columns, "quantity", "group", "gamma", "value", "stderr"])
    table = measurements.merge(starts[columns], left_on="run_id", right_on="pretrain_run")
    table = table[table["step"] == table["pretrain_steps"]].copy()
    table["quantity"] = table["quantity"].astype(str)
    for name in ("gamma", "value", "stderr"):
        table[name] = pd.to_numeric(table[name], errors="coerce")
    return table
