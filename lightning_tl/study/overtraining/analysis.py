"""From a study's two tables to curves over pre-training budgets, with tests.

After Springer et al. 2025, *Overtrained Language Models Are Harder to Fine-Tune*: what noise in the weights and what
fine-tuning at each learning rate does to the pre-training loss, by pre-training budget; fine-tuning loss and error; all
of it at the learning rate that is best at each budget; and how that rate changes with the budget. The statistics are
those of :mod:`~lightning_tl.budget_curves`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from lightning_tl.budget_curves import Array, Curve, curve, draw_means, judged, levels
from lightning_tl.errors import UserError
from lightning_tl.study.overtraining.budget_table import (
    budgets_of,
    checked,
    cube,
    last_values,
    series_keys,
    series_name,
    unit_of,
    within_window,
)
from lightning_tl.study.overtraining.delay import delays
from lightning_tl.study.overtraining.quadratic import line_approximation, noise_approximations
from lightning_tl.study.overtraining.results import Delay, Exclusion, Overtraining, Series, Tuned
from lightning_tl.study.transfer_methods.labels import order

#: Quantities by learning rate, and the column of each.
BY_LR = {
    "forgotten": "pretrain_loss_after",
    "increase": "increase",
    "increase_saved_bn": "increase_saved_bn",
    "increase_target_bn": "increase_target_bn",
    "finetune_loss": "finetune_loss",
    "error": "error",
    "distance": "param_distance",
}
_TUNED = ("forgotten", "finetune_loss", "error")


def analyse(
    results: pd.DataFrame,
    measurements: pd.DataFrame,
    level: float = 0.95,
    loss_window: tuple[float, float] | None = None,
) -> Overtraining:
    """Analyse a study of pre-training budgets.

    Args:
        results: As in ``results.csv``, with ``forgetting: true``; rows without pre-training are left out.
        measurements: As in ``measurements.csv``; may be empty.
        level: Of intervals and verdicts.
        loss_window: Learning rates are left out whose pre-training loss after fine-tuning leaves this range.

    Raises:
        UserError: A column is missing or empty, there are fewer than three budgets, or the window holds no rate.
    """
    if loss_window is not None and not loss_window[0] < loss_window[1]:
        raise UserError(f"overtraining.loss_window is {list(loss_window)}; it must be [lowest, highest]")
    table = checked(results)
    keys = series_keys(table)
    parts = table.groupby(keys, dropna=False, sort=True) if keys else [((), table)]
    groups = [(values if isinstance(values, tuple) else (values,), rows) for values, rows in parts]
    series = [_series(series_name(keys, values), rows, measurements, level, loss_window) for values, rows in groups]
    return Overtraining(tuple(series), level, tuple(_delays(keys, groups, series, level)))


def _delays(
    keys: Sequence[str],
    groups: Sequence[tuple[tuple[object, ...], pd.DataFrame]],
    series: Sequence[Series],
    level: float,
) -> list[Delay]:
    """Compare the series that differ in ``transfer`` only: each with full fine-tuning, or else with the first."""
    if "transfer" not in keys:
        return []
    place = list(keys).index("transfer")
    others = [key for key in keys if key != "transfer"]
    families: dict[str, dict[str, pd.DataFrame]] = {}
    curves = {}
    for (values, rows), item in zip(groups, series, strict=True):
        name, label = series_name(others, (*values[:place], *values[place + 1 :])), str(values[place])
        families.setdefault(name, {})[label] = rows
        curves[name, label] = item.curves
    pairs = []
    for name, family in families.items():
        reference, *methods = sorted(family, key=order)
        pairs += [(name, (reference, family[reference]), (label, family[label])) for label in methods]
    return delays(pairs, {name: BY_LR[name] for name in _TUNED}, curves, level)


def _series(
    name: str, rows: pd.DataFrame, measurements: pd.DataFrame, level: float, window: tuple[float, float] | None
) -> Series:
    budgets = budgets_of(name, rows)
    exclusions: list[Exclusion] = []
    rows = within_window(rows, window, exclusions)
    curves: list[Curve] = []
    for quantity, column in BY_LR.items():
        if column in rows:
            curves += _by_lr(rows, quantity, column, budgets, level, exclusions)
    starts = rows.drop_duplicates("pretrain_run")
    before = cube(starts, "pretrain_loss_before", ["pretrain_seed"], budgets, exclusions, "before")
    if before is not None:
        curves.append(curve("before", budgets, before, level=level))
    measured = last_values(starts, measurements)
    curves += _noise_curves(measured, budgets, level, exclusions)
    passes: dict[Any, float] = {}
    if "pretrain_passes" in rows:
        passes = rows.groupby("budget")["pretrain_passes"].max().to_dict()
    return Series(
        name,
        tuple(budgets),
        tuple(float(passes.get(budget, np.nan)) for budget in budgets),
        tuple(curves),
        _tuned(rows, budgets, level, exclusions),
        tuple(noise_approximations(measured, budgets)),
        line_approximation(rows, budgets),
        tuple(dict.fromkeys(exclusions)),
        unit_of(rows),
    )


def _by_lr(
    rows: pd.DataFrame, quantity: str, column: str, budgets: Sequence[int], level: float, exclusions: list[Exclusion]
) -> list[Curve]:
    family = []
    for lr, runs in rows.groupby("lr"):
        rate = float(lr)  # type: ignore[arg-type]
        values = cube(runs, column, ["pretrain_seed", "draw_seed"], budgets, exclusions, "lr", rate)
        if values is not None:
            log = quantity != "error" and bool((values > 0).all())
            family.append(curve(quantity, budgets, values, "lr", rate, log, level))
    return judged(family, level)


def _noise_curves(
    measured: pd.DataFrame, budgets: Sequence[int], level: float, exclusions: list[Exclusion]
) -> list[Curve]:
    curves: list[Curve] = []
    noisy = measured[measured["quantity"].str.endswith(("sensitivity", "perturbed_loss"))]
    for quantity, rows in noisy.groupby("quantity"):
        family = []
        for key, runs in rows[rows["gamma"] > 0].groupby("gamma"):
            gamma = float(key)  # type: ignore[arg-type]
            values = cube(runs, "value", ["pretrain_seed"], budgets, exclusions, "noise", gamma)
            if values is not None:
                log = bool((values > 0).all())
                family.append(curve(str(quantity), budgets, values, "gamma", gamma, log, level))
        curves += judged(family, level)
        if str(quantity).endswith("perturbed_loss"):
            base = rows[rows["gamma"] == 0]
            values = cube(base, "value", ["pretrain_seed"], budgets, exclusions, "unperturbed") if len(base) else None
            if values is not None:
                name = str(quantity).replace("perturbed_loss", "unperturbed_loss")
                curves.append(curve(name, budgets, values, log=bool((values > 0).all()), level=level))
    traces = measured[(measured["quantity"] == "hessian") & (measured["group"] == "trace")]
    values = cube(traces, "value", ["pretrain_seed"], budgets, exclusions, "trace") if len(traces) else None
    if values is not None:
        curves.append(curve("trace", budgets, values, log=bool((values > 0).all()), level=level))
    return curves


def _tuned(rows: pd.DataFrame, budgets: Sequence[int], level: float, exclusions: list[Exclusion]) -> Tuned | None:
    """Choose a learning rate at each budget by the fine-tuning loss on validation images, over all seeds and draws."""
    lrs = sorted(rows["lr"].unique())
    if len(lrs) < 2:
        return None
    tables = _by_budget_and_lr(rows, ("val_finetune_loss", *(BY_LR[name] for name in _TUNED)), budgets, lrs, exclusions)
    if tables is None:
        return None
    chosen_by = tables["val_finetune_loss"]
    best = chosen_by.mean(axis=(2, 3)).argmin(axis=1)
    log_lr, log_budget = np.log(lrs), np.log(np.array(budgets, float))
    flat = levels(np.log(np.maximum(chosen_by, 1e-12)).reshape(-1, *chosen_by.shape[2:]))
    half = 0.5 - level / 2
    edges: tuple[tuple[float, float], ...] = tuple((float("nan"), float("nan")) for _ in budgets)
    slopes = np.array([np.nan])
    if np.isfinite(flat.stderr):
        drawn = draw_means(flat).reshape(-1, len(budgets), len(lrs)).argmin(axis=2)
        # each end is a rate that was tried
        low, high = np.quantile(drawn, [half, 1 - half], axis=0, method="nearest")
        edges = tuple((float(lrs[a]), float(lrs[b])) for a, b in zip(low, high, strict=True))
        slopes = np.polyfit(log_budget, log_lr[drawn].T, 1)[0]
    slope_low, slope_high = (float(end) for end in np.quantile(slopes, [half, 1 - half]))
    curves = tuple(
        curve(f"tuned {name}", budgets, _at_best(chosen_by, tables[BY_LR[name]]), log=name != "error", level=level)
        for name in _TUNED
    )
    step = max(b - a for a, b in pairwise(log_lr))
    return Tuned(
        tuple(budgets),
        tuple(float(lrs[i]) for i in best),
        edges,
        float(np.polyfit(log_budget, log_lr[best], 1)[0]),
        (slope_low, slope_high),
        scenario(slope_low, slope_high, step / (log_budget[-1] - log_budget[0]), curves[0].verdict),
        tuple(int(budget) for budget, i in zip(budgets, best, strict=True) if i in (0, len(lrs) - 1)),
        curves,
    )


def _by_budget_and_lr(
    rows: pd.DataFrame,
    columns: Sequence[str],
    budgets: Sequence[int],
    lrs: Sequence[float],
    exclusions: list[Exclusion],
) -> dict[str, Array] | None:
    """Return by column the values ``[budgets, learning rates, seeds, draws]`` of runs that exist at all rates."""
    cells = rows.assign(budget=rows["budget"].astype(str) + " " + rows["lr"].astype(str))
    order = [f"{budget} {lr}" for budget in budgets for lr in lrs]
    tables = {}
    for column in columns:
        values = cube(cells, column, ["pretrain_seed", "draw_seed"], order, exclusions, "rates")
        if values is None:
            return None
        tables[column] = values.reshape(len(budgets), len(lrs), *values.shape[1:])
    return tables


def _at_best(chosen_by: Array, values: Array) -> Array:
    """Return values ``[budgets, seeds, draws]`` at the rate that is best on the budget's other draws.

    A rate that was chosen by a run's own luck would make that run look better than the rate is.

    Args:
        chosen_by: ``[budgets, learning rates, seeds, draws]``: the lowest mean wins.
        values: Likewise.
    """
    draws = chosen_by.shape[3]
    taken = []
    for draw in range(draws):
        others = np.delete(chosen_by, draw, axis=3) if draws > 1 else chosen_by
        best = others.mean(axis=(2, 3)).argmin(axis=1)
        taken.append(values[np.arange(len(best)), best, :, draw])
    return np.stack(taken, axis=2)


def scenario(low: float, high: float, step: float, forgotten: str) -> str:
    """Return which of Springer et al.'s cases (Fig. 7) the best learning rate is.

    Args:
        low: Lower end of the interval of the slope of log lr over log budget.
        high: Upper end.
        step: The slope at which the rate changes by one step of the tried grid over all budgets: less is constant.
        forgotten: Verdict on the pre-training loss at that rate. The rate falls quickly enough where that does not
            rise.
    """
    if not (np.isfinite(low) and np.isfinite(high)):
        return "undecided"
    if high < -1e-9:  # the slope of equal rates is 0 but for rounding
        return "slowly decreasing" if forgotten in ("u", "rises", "inverted") else "quickly decreasing"
    if low > 1e-9:
        return "increasing"
    return "constant" if -step < low and high < step else "undecided"
