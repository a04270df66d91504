"""Does longer pre-training make a network harder to fine-tune? From a study's two tables to an answer.

After Springer et al. 2025, *Overtrained Language Models Are Harder to Fine-Tune*: what noise in the weights and what
fine-tuning at each learning rate does to the pre-training loss, by pre-training budget; the same at the learning rate
that is best at each budget; and how that learning rate goes with the budget. The statistics are those of
:mod:`lightning_tl.study.curves`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lightning_tl.errors import UserError
from lightning_tl.study.curves import LEAST_BUDGETS, Array, Curve, curve, draw_means, judged, levels
from lightning_tl.study.records import write_json

_NEEDED = ("pretrain_images", "pretrain_steps", "pretrain_seed", "pretrain_run", "draw_seed", "lr", "error")
_FORGOTTEN = ("pretrain_loss_before", "pretrain_loss_after", "param_distance")
_AXES = ("render", "pretrain_task", "backbone", "finetune_task", "finetune_data", "finetune_fraction", "transfer")
#: Quantities by learning rate, and from which column.
BY_LR = {"forgotten": "pretrain_loss_after", "increase": "increase", "error": "error", "distance": "param_distance"}
#: How far a rise under noise may be from its quadratic approximation to be called quadratic.
QUADRATIC = 0.2


@dataclass(frozen=True)
class Tuned:
    """The best learning rate by budget.

    Attributes:
        budgets: Steps.
        lr: With the lowest mean fine-tuning error.
        interval: By budget, of drawn mean errors' best.
        slope: Of log lr over log budget.
        slope_interval: Of it.
        scenario: ``constant``, ``slowly decreasing``, ``quickly decreasing``, ``increasing`` or ``undecided``.
        at_edge: Budgets whose best is the smallest or largest that was tried.
        curves: ``forgotten`` and ``error`` at the rate that is best on the other draws.
    """

    budgets: tuple[int, ...]
    lr: tuple[float, ...]
    interval: tuple[tuple[float, float], ...]
    slope: float
    slope_interval: tuple[float, float]
    scenario: str
    at_edge: tuple[int, ...]
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class Quadratic:
    """Rises under noise against ½γ²Tr(ΣH) as the smallest γ gives it.

    Attributes:
        noise: Prefix of the measurement, ``""`` or such as ``relative/``.
        gammas: The scales, ascending.
        ratio: By budget and γ, Δ(γ) / (Δ(γ₀)·(γ/γ₀)²), γ₀ the smallest; 1 where quadratic.
        budgets: Steps.
        up_to: By budget, the largest γ up to which it is within ``QUADRATIC`` of 1.
    """

    noise: str
    gammas: tuple[float, ...]
    ratio: tuple[tuple[float, ...], ...]
    budgets: tuple[int, ...]
    up_to: tuple[float, ...]


@dataclass(frozen=True)
class Series:
    """Pre-trainings that differ in budget and seed alone, and what was found on them.

    Attributes:
        name: What tells it from the others; empty where it is the only one.
        budgets: Steps.
        passes: How often each image was seen, by budget; 1: all fresh. NaN where it is not known.
        curves: All curves.
        tuned: The best learning rate; None with a single one.
        quadratic: By kind of noise.
        notes: What was left out.
    """

    name: str
    budgets: tuple[int, ...]
    passes: tuple[float, ...]
    curves: tuple[Curve, ...]
    tuned: Tuned | None = None
    quadratic: tuple[Quadratic, ...] = ()
    notes: tuple[str, ...] = ()

    def family(self, quantity: str, by: str = "") -> list[Curve]:
        """Return a quantity's curves in ascending order of γ or learning rate."""
        mine = [item for item in self.curves if item.quantity == quantity and item.by == by]
        return sorted(mine, key=lambda item: item.value or 0.0)


@dataclass(frozen=True)
class Overtraining:
    """The analysis: series, the level of all intervals and verdicts, the answer and its details in sentences."""

    series: tuple[Series, ...]
    level: float
    answer: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()


def analyse(results: pd.DataFrame, measurements: pd.DataFrame, level: float = 0.95) -> Overtraining:
    """Analyse a study of pre-training budgets.

    Args:
        results: As in ``results.csv``, with ``forgetting: true``; rows without pre-training are left out.
        measurements: As in ``measurements.csv``; may be empty.
        level: Of intervals and verdicts.

    Raises:
        UserError: A column is missing or empty, or there are fewer than three budgets.
    """
    from lightning_tl.study.overtraining_words import answers, sentences

    table = _checked(results)
    keys = _series_keys(table)
    found = []
    for values, rows in table.groupby(keys, dropna=False, sort=True) if keys else [((), table)]:
        found.append(_series(_name(keys, values), rows, measurements, level))
    return Overtraining(tuple(found), level, tuple(answers(found, level)), tuple(sentences(found, level)))


def _checked(results: pd.DataFrame) -> pd.DataFrame:
    for name in (*_NEEDED, *_FORGOTTEN):
        if name not in results.columns or ("pretrain_images" in results and results[name].isna().all()):
            mend = "set forgetting: true and run the study again" if name in _FORGOTTEN else "run the study again"
            raise UserError(f"results.csv has no {name}, which the overtraining analysis needs; {mend}")
    table = results[pd.to_numeric(results["pretrain_images"], errors="coerce") > 0].copy()
    numbers = [name for name in (*_NEEDED, *_FORGOTTEN) if name != "pretrain_run"]
    for name in numbers:
        table[name] = pd.to_numeric(table[name], errors="coerce")
    table = table.dropna(subset=numbers)
    if table.empty:
        raise UserError("results.csv has no row of a fine-tuning from a pre-training with numbers in all its columns")
    table["increase"] = table["pretrain_loss_after"] - table["pretrain_loss_before"]
    table["pretrain_steps"] = table["pretrain_steps"].astype(int)
    return table


def _series_keys(table: pd.DataFrame) -> list[str]:
    """Return the columns that tell series apart: those that differ where budget, seeds and learning rate do not."""
    same = table.groupby(["pretrain_steps", "pretrain_seed", "draw_seed", "lr"])
    axes = [name for name in table.columns if name in _AXES or name.startswith(("pretrain.", "finetune."))]
    return [name for name in axes if same[name].nunique(dropna=False).max() > 1]


def _name(keys: Sequence[str], values: object) -> str:
    parts = []
    for key, value in zip(keys, values if isinstance(values, tuple) else (values,), strict=True):
        last = key.rpartition(".")[2]
        ends = {0.0: "annealed to zero", 1.0: "constant rate"}
        known = key == "pretrain.model.schedule.init_args.end" and isinstance(value, int | float) and value in ends
        parts.append(ends[float(value)] if known else str(value) if key in _AXES else f"{last} {value}")
    return ", ".join(parts)


def _series(name: str, rows: pd.DataFrame, measurements: pd.DataFrame, level: float) -> Series:
    budgets = sorted(rows["pretrain_steps"].unique())
    if len(budgets) < LEAST_BUDGETS:
        raise UserError(
            f"{name or 'the study'} has pre-trainings of {len(budgets)} budgets (pretrain_steps "
            f"{', '.join(map(str, budgets))}); a turn between them needs at least {LEAST_BUDGETS}: add lengths of "
            "pre-training to the study"
        )
    notes: list[str] = []
    curves: list[Curve] = []
    for quantity, column in BY_LR.items():
        family = []
        for lr, mine in rows.groupby("lr"):
            values = cube(mine, column, ["pretrain_seed", "draw_seed"], budgets, notes, f"lr {lr:g}")
            if values is not None:
                log = quantity != "error" and bool((values > 0).all())
                family.append(curve(quantity, budgets, values, "lr", float(lr), log, level))  # type: ignore[arg-type]
        curves += judged(family, level)
    starts = rows.drop_duplicates("pretrain_run")
    before = cube(starts, "pretrain_loss_before", ["pretrain_seed"], budgets, notes, "pre-training loss")
    if before is not None:
        curves.append(curve("before", budgets, before, level=level))
    measured = _last_values(starts, measurements)
    curves += _noise_curves(measured, budgets, level, notes)
    passes: dict[Any, float] = {}
    if "pretrain_passes" in rows:
        passes = rows.groupby("pretrain_steps")["pretrain_passes"].max().to_dict()
    return Series(
        name,
        tuple(map(int, budgets)),
        tuple(float(passes.get(budget, np.nan)) for budget in budgets),
        tuple(curves),
        _tuned(rows, budgets, level, notes),
        tuple(_quadratics(curves)),
        tuple(dict.fromkeys(notes)),
    )


def cube(
    rows: pd.DataFrame, column: str, repeats: Sequence[str], budgets: Sequence[int], notes: list[str], what: str
) -> Array | None:
    """Return a column's values ``[budgets, seeds, draws]`` without gaps, or None where too few runs are there.

    Args:
        rows: A row a run; several of one budget, seed and draw are averaged.
        column: The values.
        repeats: The column of seeds, and that of draws where there is one.
        budgets: Steps, ascending.
        notes: Is told of what is left out.
        what: The rows, for the notes.
    """
    keys = ["pretrain_steps", *repeats]
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
        left = f"{values.shape[1]} seeds and {values.shape[2]} draws are left" if values.size else "it is left out"
        notes.append(f"{what} lacks {missing} runs (failed, or not run yet): {left}.")
    return values if values.size else None


def _last_values(starts: pd.DataFrame, measurements: pd.DataFrame) -> pd.DataFrame:
    """Return what was measured on each pre-training after its last step, with its budget and seed."""
    columns = ["pretrain_run", "pretrain_steps", "pretrain_seed"]
    if measurements.empty:
        return pd.DataFrame(columns=[*columns, "quantity", "group", "gamma", "value"])
    table = measurements.merge(starts[columns], left_on="run_id", right_on="pretrain_run")
    table = table[table["step"] == table["pretrain_steps"]].copy()
    for name in ("gamma", "value"):
        table[name] = pd.to_numeric(table[name], errors="coerce")
    return table


def _noise_curves(measured: pd.DataFrame, budgets: Sequence[int], level: float, notes: list[str]) -> list[Curve]:
    curves: list[Curve] = []
    noisy = measured[measured["quantity"].astype(str).str.endswith(("sensitivity", "perturbed_loss"))]
    for quantity, rows in noisy.groupby("quantity"):
        family = []
        for gamma, mine in rows[rows["gamma"] > 0].groupby("gamma"):
            values = cube(mine, "value", ["pretrain_seed"], budgets, notes, f"noise of {gamma:g}")
            if values is not None:
                log = bool((values > 0).all())
                family.append(curve(str(quantity), budgets, values, "gamma", float(gamma), log, level))  # type: ignore[arg-type]
        curves += judged(family, level)
    traces = measured[(measured["quantity"] == "hessian") & (measured["group"] == "trace")]
    values = cube(traces, "value", ["pretrain_seed"], budgets, notes, "the trace") if len(traces) else None
    if values is not None:
        curves.append(curve("trace", budgets, values, log=bool((values > 0).all()), level=level))
    return curves


def _quadratics(curves: Sequence[Curve]) -> list[Quadratic]:
    found = []
    for quantity in dict.fromkeys(item.quantity for item in curves if item.quantity.endswith("sensitivity")):
        family = sorted((item for item in curves if item.quantity == quantity), key=lambda item: item.value or 0.0)
        gammas = np.array([item.value for item in family], float)
        rises = np.array([item.mean for item in family]).T
        if len(gammas) < 2 or (rises[:, 0] <= 0).any():
            continue
        ratio = rises / (rises[:, :1] * (gammas / gammas[0]) ** 2)
        near = np.logical_and.accumulate(np.abs(ratio - 1) <= QUADRATIC, axis=1)
        up_to = [float(gammas[row.sum() - 1]) for row in near]
        rows = tuple(tuple(map(float, row)) for row in ratio)
        noise = quantity.removesuffix("sensitivity")
        found.append(Quadratic(noise, tuple(gammas.tolist()), rows, family[0].budgets, tuple(up_to)))
    return found


def _tuned(rows: pd.DataFrame, budgets: Sequence[int], level: float, notes: list[str]) -> Tuned | None:
    lrs = sorted(rows["lr"].unique())
    if len(lrs) < 2:
        return None
    # [budgets, learning rates, seeds, draws], of runs that are there at all rates
    both = ["pretrain_seed", "draw_seed"]
    cells = rows.assign(pretrain_steps=rows["pretrain_steps"].astype(str) + " " + rows["lr"].astype(str))
    order = [f"{budget} {lr}" for budget in budgets for lr in lrs]
    found = {}
    for quantity in ("error", "forgotten"):
        values = cube(cells, BY_LR[quantity], both, order, notes, "the table of all learning rates")  # type: ignore[arg-type]
        if values is None:
            return None
        found[quantity] = values.reshape(len(budgets), len(lrs), *values.shape[1:])
    error = found["error"]
    best = error.mean(axis=(2, 3)).argmin(axis=1)
    log_lr, log_budget = np.log(lrs), np.log(np.array(budgets, float))
    flat = levels(error.reshape(-1, *error.shape[2:]))
    half = 0.5 - level / 2
    edges: tuple[tuple[float, float], ...] = tuple((float("nan"), float("nan")) for _ in budgets)
    slopes = np.array([np.nan])
    if np.isfinite(flat.stderr):
        drawn = draw_means(flat).reshape(-1, len(budgets), len(lrs)).argmin(axis=2)
        # a share of the draws lies at each tried rate: the ends are tried rates too
        low, high = np.quantile(drawn, [half, 1 - half], axis=0, method="nearest")
        edges = tuple((float(lrs[a]), float(lrs[b])) for a, b in zip(low, high, strict=True))
        slopes = np.polyfit(log_budget, log_lr[drawn].T, 1)[0]
    slope = float(np.polyfit(log_budget, log_lr[best], 1)[0])
    slope_low, slope_high = (float(end) for end in np.quantile(slopes, [half, 1 - half]))
    curves = tuple(
        curve(f"tuned {name}", budgets, _at_best(error, found[name]), log=name == "forgotten", level=level)
        for name in ("forgotten", "error")
    )
    step = max(b - a for a, b in pairwise(log_lr))
    return Tuned(
        tuple(map(int, budgets)),
        tuple(float(lrs[i]) for i in best),
        edges,
        slope,
        (slope_low, slope_high),
        scenario(slope_low, slope_high, step / (log_budget[-1] - log_budget[0]), curves[0].verdict),
        tuple(int(budget) for budget, i in zip(budgets, best, strict=True) if i in (0, len(lrs) - 1)),
        curves,
    )


def _at_best(error: Array, values: Array) -> Array:
    """Return values ``[budgets, seeds, draws]`` at the learning rate that is best at the budget on the other draws."""
    draws = error.shape[3]
    taken = []
    for draw in range(draws):
        others = np.delete(error, draw, axis=3) if draws > 1 else error
        best = others.mean(axis=(2, 3)).argmin(axis=1)
        taken.append(values[np.arange(len(best)), best, :, draw])
    return np.stack(taken, axis=2)


def scenario(low: float, high: float, step: float, forgotten: str) -> str:
    """Return which of Springer et al.'s cases (Fig. 7) the best learning rate is.

    Args:
        low: Lower end of the interval of the slope of log lr over log budget.
        high: Upper end.
        step: The slope at which the rate changes by one step of the tried grid over all budgets: less is constant.
        forgotten: Verdict on the forgotten loss at that rate. It falls quickly enough where that does not rise.
    """
    if not (np.isfinite(low) and np.isfinite(high)):
        return "undecided"
    if high < -1e-9:  # the slope of equal rates is 0 but for rounding
        return "slowly decreasing" if forgotten in ("u", "rises", "inverted") else "quickly decreasing"
    if low > 1e-9:
        return "increasing"
    return "constant" if -step < low and high < step else "undecided"


def conclude(folder: Path, level: float = 0.95) -> Overtraining:
    """Analyse a study's folder: write ``overtraining.json`` and its figures there, return the analysis.

    Raises:
        UserError: A table is missing or lacks what is needed.
    """
    from lightning_tl.laws.output import plain
    from lightning_tl.study.overtraining_plots import write

    tables = []
    for name in ("results.csv", "measurements.csv"):
        try:
            tables.append(pd.read_csv(folder / name))
        except (OSError, ValueError) as error:
            raise UserError(f"{folder / name}: cannot be read ({error}); run the study again") from error
    found = analyse(tables[0], tables[1], level)
    record = {"answer": found.answer, "sentences": found.sentences, "figures": write(found, folder), **asdict(found)}
    write_json(folder / "overtraining.json", plain(record))
    return found
