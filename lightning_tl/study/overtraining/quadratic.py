"""How far the pre-training loss is quadratic: under noise, and along fine-tuning (Springer et al. 2025, App. D)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lightning_tl.budget_curves import Array
from lightning_tl.study.overtraining.results import QUADRATIC, LineApproximation, NoiseApproximation


def noise_approximations(measured: pd.DataFrame, budgets: Sequence[int]) -> list[NoiseApproximation]:
    """Compare rises under noise with ½γ²Tr(ΣH), Tr(ΣH) being the measured ``hessian/weighted_trace``.

    Args:
        measured: From :func:`~lightning_tl.study.overtraining.budget_table.last_values`.
        budgets: Ascending.

    Returns:
        One per kind of noise of which both were measured on pre-trainings of every budget.
    """
    approximations: list[NoiseApproximation] = []
    rises = measured[measured["quantity"].str.endswith("sensitivity") & (measured["gamma"] > 0)]
    for quantity, by_gamma in rises.groupby("quantity"):
        noise = str(quantity).removesuffix("sensitivity")
        traces = measured[(measured["quantity"] == f"{noise}hessian") & (measured["group"] == "weighted_trace")]
        both = by_gamma.merge(traces, on=["pretrain_run", "budget"], suffixes=("", "_trace"))
        if set(both["budget"]) != set(budgets):
            continue
        half = 0.5 * both["gamma"] ** 2
        both = both.assign(predicted=half * both["value_trace"])
        gammas = [float(gamma) for gamma in sorted(both["gamma"].unique())]
        values = [_means(both, name, budgets, "gamma", gammas) for name in ("value", "predicted")]
        smallest = both[both["gamma"] == gammas[0]]
        stderr = np.hypot(smallest["stderr"].fillna(0.0), half[smallest.index] * smallest["stderr_trace"].fillna(0.0))
        deviations: Array = ((smallest["value"] - smallest["predicted"]) / stderr).to_numpy(float)
        approximations.append(
            NoiseApproximation(
                noise,
                tuple(budgets),
                tuple(gammas),
                rows(values[0]),
                rows(values[1]),
                up_to(values[0], values[1], gammas),
                tuple(map(float, deviations[np.isfinite(deviations)])),
            )
        )
    return approximations


def line_approximation(table: pd.DataFrame, budgets: Sequence[int]) -> LineApproximation | None:
    """Compare rises along pre-trained → fine-tuned weights with gᵀd + ½dᵀHd.

    Args:
        table: Rows of a series of ``results.csv``.
        budgets: Ascending.

    Returns:
        None where they were not measured at every budget and learning rate.
    """
    columns = ["line_slope", "line_curvature", "line_rise"]
    if not set(columns) <= set(table.columns):
        return None
    lrs = [float(lr) for lr in sorted(table["lr"].unique())]
    slope, curvature, rise = (_means(table, name, budgets, "lr", lrs) for name in columns)
    predicted = slope + curvature / 2
    if np.isnan(rise).any() or np.isnan(predicted).any():
        return None
    return LineApproximation(
        tuple(budgets),
        tuple(lrs),
        rows(rise),
        rows(predicted),
        rows(slope),
        up_to(rise, predicted, lrs),
    )


def up_to(measured: Array, predicted: Array, scales: Sequence[float]) -> tuple[float, ...]:
    """Return by budget the largest scale up to which the two agree within :data:`QUADRATIC`; 0 where they never do.

    Args:
        measured: ``[budgets, scales]``.
        predicted: Likewise.
        scales: Ascending, ``[scales]``.
    """
    near = np.logical_and.accumulate(np.abs(measured - predicted) <= QUADRATIC * np.abs(predicted), axis=1)
    return tuple(float(scales[row.sum() - 1]) if row.any() else 0.0 for row in near)


def _means(table: pd.DataFrame, column: str, budgets: Sequence[int], by: str, scales: Sequence[float]) -> Array:
    """Return a column's means ``[budgets, scales]``."""
    means = table.pivot_table(values=column, index="budget", columns=by)
    return means.reindex(index=list(budgets), columns=list(scales)).to_numpy(float)


def rows(values: Array) -> tuple[tuple[float, ...], ...]:
    """Return a matrix as plain tuples."""
    return tuple(tuple(map(float, row)) for row in values)
