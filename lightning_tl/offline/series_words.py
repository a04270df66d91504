"""The analysis of a series of checkpoints in sentences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lightning_tl.budget_curves import VERDICTS, Curve
from lightning_tl.figure_style import short
from lightning_tl.offline.series_analysis import Family, SeriesAnalysis

#: Fewer checkpoints detect nothing but a very clear turn.
FEW = 7
SUBJECTS = {
    "perturbed_loss": ("the loss under noise in the weights", "γ"),
    "sensitivity": ("its rise under that noise", "γ"),
}
_UPWARD = ("u", "rises")


def answers(analysis: SeriesAnalysis) -> list[str]:
    """Return whether the loss of the changed network turns upward, and whether the network becomes more fragile."""
    words = []
    for quantity in ("perturbed_loss",):
        if (family := analysis.family(quantity)) is not None:
            words.append(_turn_of(family, analysis))
    if (family := analysis.family("sensitivity")) is not None:
        words.append(_fragility(family, analysis))
    return words


def sentences(analysis: SeriesAnalysis) -> list[str]:
    """Return the details of each quantity, and what the intervals hold for."""
    details = [_family_in_words(family, analysis) for family in analysis.families]
    plain = analysis.plain
    values = f"{plain.mean[0]:.4g} to {plain.mean[-1]:.4g}"
    details.insert(0, f"The loss of the unchanged network goes from {values}: {VERDICTS[plain.verdict]}.")
    draws = max((item.seeds for family in analysis.families for item in family.curves), default=1)
    parts = [f"{plain.draws} batches" if plain.draws > 1 else "", f"{draws} pairs of noise" if draws > 1 else ""]
    same = " under the same ".join(filter(None, parts)) or "batch"
    details.append(
        f"All checkpoints were measured on the same {same}; intervals are for comparing these checkpoints. A verdict "
        "has to hold against the fluctuation between neighbouring checkpoints too, as all are of one run. Another run "
        "of the same training may differ."
    )
    if plain.draws < 2:
        details.append("There is one batch: no interval covers the choice of the data (--batches 8).")
    if len(analysis.budgets) < FEW:
        details.append(
            f"With {len(analysis.budgets)} checkpoints hardly any turn can be told from fluctuation between them; "
            f"{FEW + 1} or more, evenly spaced in the logarithm of {analysis.unit}, can show one."
        )
    return details


def _turn_of(family: Family, analysis: SeriesAnalysis) -> str:
    subject, symbol = SUBJECTS[family.quantity]
    turned = [item for item in family.curves if item.verdict in _UPWARD]
    if turned:
        last = turned[-1]
        base = analysis.plain.verdict
        although = ", although the loss itself falls" if base == "falls" else ""
        return (
            f"Longer training makes {subject} worse at {symbol} {_values(turned)}{although}: at {symbol} "
            f"{last.value:g} it is {_turn(last, analysis)}."
        )
    if all(item.verdict == "single" for item in family.curves):
        return "These are single values, so they cannot show whether longer training does harm."
    text = f"No evidence that longer training does harm: {subject} does not turn upward at any {symbol} by these tests."
    differing = [item for item in family.sampled if item.verdict in _UPWARD]
    if differing:
        text += (
            f" At {symbol} {_values(differing)} some later checkpoints are worse than earlier ones, but neighbouring "
            "checkpoints differ by chance as much."
        )
    return text


def _fragility(family: Family, analysis: SeriesAnalysis) -> str:
    grown = [item for item in family.curves if item.verdict in _UPWARD]
    if grown:
        last = grown[-1]
        much = f"{last.rise:.3g} times as much" if last.log else f"by {last.rise:.3g} more"
        lowest = last.budgets[int(np.argmin(last.mean))]
        return (
            f"The network becomes more fragile: noise of γ = {last.value:g} raises its loss {much} at "
            f"{short(last.budgets[-1])} {analysis.unit} as at {short(lowest)} ({_interval(last, analysis.level)})."
        )
    if all(item.verdict == "falls" for item in family.curves):
        return "The network becomes less fragile: the same noise raises its loss less and less."
    return "No evidence that the network becomes more fragile: the rise under noise does not grow by these tests."


def _family_in_words(family: Family, analysis: SeriesAnalysis) -> str:
    subject, symbol = SUBJECTS[family.quantity]
    parts = []
    for verdict, words in VERDICTS.items():
        members = [item for item in family.curves if item.verdict == verdict]
        if not members:
            continue
        shown = members if verdict == "u" else members[-1:] if verdict == "rises" else []
        details = "; ".join(f"{symbol} {item.value:g}: {_turn(item, analysis)}" for item in shown)
        parts.append(f"{words} at {symbol} {_values(members)}" + (f" ({details})" if details else ""))
    first, last = (short(analysis.budgets[i]) for i in (0, -1))
    return f"Between {first} and {last} {analysis.unit}, {subject}: {'; '.join(parts)}."


def _turn(item: Curve, analysis: SeriesAnalysis) -> str:
    """Say where a curve is lowest, where it first rises (Def. 4.2), and by how much it rises to the last checkpoint."""
    percent = f"{100 * analysis.level:g} % interval"
    if item.verdict == "u":
        low, high = (short(_rounded(end)) for end in item.vertex_interval)
        lowest = f"lowest near {short(_rounded(item.vertex))} {analysis.unit} ({percent} {low} to {high})"
    else:
        lowest = f"lowest at {short(item.budgets[int(np.argmin(item.mean))])} {analysis.unit}"
    step = ""
    if np.isfinite(item.inflection):
        step = f", increases significantly for the first time after {short(item.inflection)} (Def. 4.2)"
    change = f"by a factor of {item.rise:.3g}" if item.log else f"by {item.rise:.3g}"
    return f"{lowest}{step}, and rises {change} up to {short(item.budgets[-1])} ({_interval(item, analysis.level)})"


def _interval(item: Curve, level: float) -> str:
    return f"{100 * level:g} % interval {item.rise_interval[0]:.3g} to {item.rise_interval[1]:.3g}"


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def _values(members: Sequence[Curve]) -> str:
    return ", ".join(f"{item.value:g}" for item in members)
