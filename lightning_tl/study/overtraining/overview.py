"""The overtraining analysis at a glance: a table with a row per quantity and a column per series."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby

import numpy as np

from lightning_tl.budget_curves import Curve
from lightning_tl.study.overtraining.results import QUADRATIC, Overtraining, Series, Unit
from lightning_tl.study.overtraining.words import budget_text, of_scale

Rows = list[list[str]]

_NOISES = (("", "noise"), ("relative/", "relative noise"))
#: Quantity, its key, and the symbol of what its curves differ in.
_CURVES = (
    ("fine-tuning loss", ("finetune_loss", "lr"), "lr"),
    ("fine-tuning error", ("error", "lr"), "lr"),
    ("pre-training loss after fine-tuning", ("forgotten", "lr"), "lr"),
    ("rise of the pre-training loss by fine-tuning", ("increase", "lr"), "lr"),
    ("pre-training loss under noise", ("perturbed_loss", "gamma"), "γ"),
    ("rise of the pre-training loss under noise", ("sensitivity", "gamma"), "γ"),
    ("pre-training loss under relative noise", ("relative/perturbed_loss", "gamma"), "γ"),
    ("rise of the pre-training loss under relative noise", ("relative/sensitivity", "gamma"), "γ"),
)
NO_BREAK = "\N{NO-BREAK SPACE}"
LEGEND = (
    "Noise has the spread of the initialisation; relative noise is in proportion to each filter or row of the weights. "
    "↘ falls; ↗ rises: by this factor (×) or difference (+), from the budget where it is lowest to the last one; "
    "∪ falls, then rises: where it is lowest, and the rise from there to the last budget; ∩ rises, then falls; – no "
    "rise or fall detected. Each sign is the result of a test, corrected for the number of values of lr or γ. In "
    "brackets: the {level:g} % interval; of several values the smallest range that holds all their intervals."
)


def overview(analysis: Overtraining) -> tuple[list[str], Rows]:
    """Return heads and rows of the table. Neighbouring values with the same cells in all series share a row."""
    series = analysis.series
    heads = ["", *(item.name or "all runs" for item in series)]
    rows = [row for subject, key, symbol in _CURVES for row in _curves(series, subject, key, symbol)]
    rows += _tuned(series)
    for prefix, kind in _NOISES:
        rows += _row(series, f"quadratic under {kind}, up to γ", partial(_noise, prefix))
    rows += _row(series, "quadratic along fine-tuning, up to lr", _line)
    rows += _row(series, "pre-trainings per budget × draws", _runs)
    rows += _row(series, "passes over the pre-training samples", _passes)
    return heads, rows


def notes(level: float) -> list[str]:
    """Return what explains the table; its intervals have this level."""
    quadratic = (
        f"Quadratic: up to this scale the rise is within {100 * QUADRATIC:g} % of its approximation to second order, "
        "at every budget."
    )
    return [LEGEND.format(level=100 * level), quadratic]


def _row(series: Sequence[Series], label: str, cell: Callable[[Series], str]) -> Rows:
    cells = [cell(item) for item in series]
    return [[label, *cells]] if any(cells) else []


def _curves(series: Sequence[Series], subject: str, key: tuple[str, str], symbol: str) -> Rows:
    families = [{item.value or 0.0: item for item in one.family(*key)} for one in series]
    values = sorted({value for family in families for value in family})

    def kinds(value: float) -> list[tuple[str, bool] | None]:
        found = [family.get(value) for family in families]
        return [None if item is None else (item.verdict, item.log) for item in found]

    rows = []
    for _, group in groupby(values, key=kinds):
        same = list(group)
        cells = [
            _cell([family[value] for value in same if value in family], one.unit)
            for one, family in zip(series, families, strict=True)
        ]
        at = f"{symbol} {of_scale(same, values)}".replace(" ", NO_BREAK)
        rows.append([f"{subject}, {at}", *cells])
    return rows


def _cell(curves: Sequence[Curve], unit: Unit) -> str:
    """Return what curves of the same verdict do."""
    if not curves:
        return ""
    form = ".3g" if curves[0].log else ".2g"
    change = ("×" if curves[0].log else "+") + _range(
        [item.rise for item in curves], [item.rise_interval for item in curves], lambda value: f"{value:{form}}"
    )
    if curves[0].verdict == "u":
        place = _range(
            [item.vertex for item in curves],
            [item.vertex_interval for item in curves],
            lambda budget: budget_text(budget, unit),
        )
        return f"∪ near {place} {unit}, then {change}"
    signs = {"rises": f"↗ {change}", "falls": "↘", "inverted": "∩", "flat": "–", "single": "single runs"}
    return signs[curves[0].verdict]


def _range(values: Sequence[float], intervals: Sequence[tuple[float, float]], text: Callable[[float], str]) -> str:
    """Return a value, or the least and the largest of several, with the interval that holds those of all."""
    low, high = text(min(values)), text(max(values))
    ends = text(min(ends[0] for ends in intervals)), text(max(ends[1] for ends in intervals))
    return (low if low == high else f"{low} to {high}") + f" ({ends[0]} to {ends[1]})"


def _tuned(series: Sequence[Series]) -> Rows:
    def rates(item: Series) -> str:
        if item.tuned is None:
            return ""
        found = [f"{lr:g}" for lr in item.tuned.lr]
        text = " → ".join(lr for lr, _ in groupby(found))
        return f"{text} ({item.tuned.scenario})" + (", at the grid's edge" if item.tuned.at_edge else "")

    rows = _row(series, "best lr, from the shortest to the longest budget", rates)
    for name, label in (
        ("finetune_loss", "fine-tuning loss"),
        ("error", "fine-tuning error"),
        ("forgotten", "pre-training loss"),
    ):
        rows += _row(series, f"{label} at the best lr", partial(_at_the_best, name))
    return rows


def _at_the_best(quantity: str, series: Series) -> str:
    return "" if series.tuned is None else _cell([series.tuned.curve(quantity)], series.unit)


def _noise(prefix: str, series: Series) -> str:
    return next((_scales(item.up_to) for item in series.noise if item.noise == prefix), "")


def _line(series: Series) -> str:
    return "" if series.line is None else _scales(series.line.up_to)


def _scales(up_to: Sequence[float]) -> str:
    return f"{min(up_to):g}" if min(up_to) else "none"


def _runs(series: Series) -> str:
    curves = series.family("forgotten", "lr")
    return f"{min(item.seeds for item in curves)} × {min(item.draws for item in curves)}" if curves else ""


def _passes(series: Series) -> str:
    passes = [value for value in series.passes if np.isfinite(value)]
    if not passes:
        return "not recorded"
    low, high = min(passes), max(passes)
    return f"{low:.3g}" if high - low < 1e-3 else f"{low:.3g} to {high:.3g}"
