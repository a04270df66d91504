"""The overtraining analysis in sentences: what the tests detected, with intervals, and what they did not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lightning_tl.budget_curves import VERDICTS, Curve
from lightning_tl.figure_style import short
from lightning_tl.study.overtraining.results import (
    QUADRATIC,
    Exclusion,
    LineApproximation,
    NoiseApproximation,
    Overtraining,
    RateOutsideWindow,
    Series,
    Tuned,
    Unit,
)

_SUBJECTS = {
    ("finetune_loss", "lr"): "the fine-tuning loss",
    ("error", "lr"): "the fine-tuning error",
    ("forgotten", "lr"): "the pre-training loss after fine-tuning",
    ("increase", "lr"): "its rise by fine-tuning",
    ("perturbed_loss", "gamma"): "the pre-training loss under noise in the weights",
    ("sensitivity", "gamma"): "its rise under that noise",
}
_HARMS = {
    "finetune_loss": "raises the fine-tuning loss",
    "error": "raises the fine-tuning error",
    "forgotten": "raises the pre-training loss after fine-tuning",
}
#: Curves at the best rate of each budget, and how one of them, or several, are said to change.
_TUNED = {"finetune_loss": "fine-tuning loss", "error": "fine-tuning error", "forgotten": "pre-training loss"}
_CHANGES = {
    "falls": ("still falls", "still fall"),
    "u": ("falls, then rises", "fall, then rise"),
    "rises": ("rises", "rise"),
    "inverted": ("rises, then falls", "rise, then fall"),
    "flat": ("shows no significant rise or fall", "show no significant rise or fall"),
}
_STRESSES = {("sensitivity", "gamma"): "under noise of γ ", ("increase", "lr"): "by fine-tuning at lr "}
#: Tables that may lack runs, by the quantity of :class:`MissingRuns`.
TABLES = {
    "lr": "lr {value:g}",
    "noise": "noise of {value:g}",
    "unperturbed": "the loss without noise",
    "before": "pre-training loss",
    "trace": "the trace",
    "rates": "the table of all learning rates",
}
_UPWARD = ("u", "rises")
#: What Def. 4.2 speaks of: how well the changed network does, not how much worse the change has made it.
_LOSSES = ("finetune_loss", "error", "forgotten", "perturbed_loss")


def answers(analysis: Overtraining) -> list[str]:
    """Return for each series whether longer pre-training does harm, and whether it makes the network fragile.

    Of several series this is short: where a loss is lowest stands in :func:`sentences` and in the table only.
    """
    level = analysis.level if len(analysis.series) == 1 else None
    return [
        named(series.name, " ".join(filter(None, [_harm(series, level), _fragility(series, analysis.level)])))
        for series in analysis.series
    ]


def sentences(analysis: Overtraining) -> list[str]:
    """Return the details of each series: curves over budgets, the best rate, how far the loss is quadratic."""
    details = []
    for series in analysis.series:
        families = {subject: series.family(*key) for key, subject in _SUBJECTS.items()}
        texts = [
            _family(subject, family, analysis.level, series.unit) for subject, family in families.items() if family
        ]
        texts += [_tuned(series.tuned, analysis.level, series.unit)] if series.tuned is not None else []
        texts += [_noise(item, series.unit) for item in series.noise]
        texts += [_line(series.line, series.unit)] if series.line is not None else []
        texts += [_design(series), *map(_exclusion, series.exclusions)]
        details += [named(series.name, text) for text in texts]
    return details


def amount(budget: float, unit: Unit) -> str:
    """Return a budget in words: ``512 steps``, or three digits of so many tokens: ``1.05M tokens``."""
    return f"{budget:,.0f} steps" if unit == "steps" else f"{budget_text(budget, unit)} tokens"


def budget_text(budget: float, unit: Unit) -> str:
    """Return a budget without its unit."""
    return f"{budget:,.0f}" if unit == "steps" else short(float(f"{budget:.3g}"))


def named(series: str, text: str) -> str:
    """Return a text about a series as a sentence; names with values, as ``weight_decay 0.1``, stay as they are."""
    sentence = f"{series}: {text}" if series else text
    return sentence if any(map(str.isdigit, series)) else sentence[:1].upper() + sentence[1:]


def _interval(ends: tuple[float, float], level: float, form: str = ".3g") -> str:
    return f"{100 * level:g} % interval {ends[0]:{form}} to {ends[1]:{form}}"


def _harm(series: Series, level: float | None) -> str:
    parts = []
    for quantity, words in _HARMS.items():
        family = series.family(quantity, "lr")
        harmed = [item for item in family if item.verdict in _UPWARD]
        if harmed:
            last = harmed[-1]
            turn = f" (at {last.value:g} {_turn(last, level, series.unit)})" if level is not None else ""
            parts.append(f"{words} at lr {_values(harmed, family)}{turn}")
    at_best = _at_best(series.tuned)
    if parts:
        return f"longer pre-training {'; it '.join(parts)}.{at_best}"
    if all(item.verdict == "single" for quantity in _HARMS for item in series.family(quantity, "lr")):
        return "these are single runs, so they cannot show whether longer pre-training does harm."
    text = f"no evidence that a budget up to {amount(series.budgets[-1], series.unit)} is too long"
    if level is None:
        return f"{text}."
    return (
        f"{text}: at no learning rate did the tests detect a rise of fine-tuning loss, fine-tuning error or "
        f"pre-training loss.{at_best}"
    )


def _at_best(tuned: Tuned | None) -> str:
    """Say what becomes of the losses where each budget is fine-tuned at its own best rate."""
    parts = []
    for verdict, words in _CHANGES.items():
        names = [f"the {name}" for key, name in _TUNED.items() if tuned and tuned.curve(key).verdict == verdict]
        if names:
            subject = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
            parts.append(f"{subject} {words[len(names) > 1]}")
    return f" At the best learning rate of each budget, {'; '.join(parts)}." if parts else ""


def _fragility(series: Series, level: float) -> str:
    known = [item for key in _STRESSES for item in series.family(*key) if item.verdict != "single"]
    if not known:
        return ""
    lasting, passing = [], []
    for key, words in _STRESSES.items():
        family = [item for item in known if (item.quantity, item.by) == key]
        grown = [item for item in family if item.verdict in _UPWARD]
        to_the_end = [item for item in grown if item.rise_interval[0] > item.log]  # factor above 1, difference above 0
        lasting += [_growth(to_the_end[-1], words, level, series.unit)] if to_the_end else []
        passing += [f"{words}{_values(grown, family)}"] if grown else []
    if lasting:
        ways = ", and ".join(lasting)
        return f"The network becomes more fragile: its pre-training loss rises {ways}.{_loss_under_noise(series)}"
    if passing:
        return (
            f"The network becomes more fragile at some budgets ({' and '.join(passing)}), but the test does not "
            f"detect it at {amount(series.budgets[-1], series.unit)}."
        )
    if all(item.verdict == "falls" for item in known):
        return "The network becomes less fragile: the same noise or fine-tuning raises its loss less and less."
    return "No evidence that the network becomes more fragile under noise or fine-tuning."


def _loss_under_noise(series: Series) -> str:
    """Say where the loss under noise itself turns upward."""
    family = series.family("perturbed_loss", "gamma")
    turned = [item for item in family if item.verdict in _UPWARD]
    if not turned:
        return ""
    last = turned[-1]
    lowest = last.vertex if last.verdict == "u" else last.budgets[int(np.argmin(last.mean))]
    place = f"at γ {last.value:g} it is lowest near {amount(lowest, series.unit)}"
    return f" Under noise of γ {_values(turned, family)} the loss itself {VERDICTS[last.verdict]}: {place}."


def _growth(item: Curve, words: str, level: float, unit: Unit) -> str:
    much = f"{item.rise:.3g} times as much" if item.log else f"by {item.rise:.3g} more"
    lowest = item.budgets[int(np.argmin(item.mean))]
    interval = f" ({_interval(item.rise_interval, level)})"
    return (
        f"{much} {words}{item.value:g} at {amount(item.budgets[-1], unit)} {'as' if item.log else 'than'} at "
        f"{budget_text(lowest, unit)}{interval}"
    )


def _family(subject: str, family: Sequence[Curve], level: float, unit: Unit) -> str:
    by = "lr" if family[0].by == "lr" else "γ"
    parts = []
    for verdict, words in VERDICTS.items():
        members = [item for item in family if item.verdict == verdict]
        if not members:
            continue
        shown = members if verdict == "u" else members[-1:] if verdict == "rises" else []
        details = "; ".join(f"{by} {item.value:g}: {_turn(item, level, unit)}" for item in shown)
        parts.append(f"{words} at {by} {_values(members, family)}" + (f" ({details})" if details else ""))
    first, last = family[0].budgets[0], family[0].budgets[-1]
    return f"between {budget_text(first, unit)} and {amount(last, unit)}, {subject}: {'; '.join(parts)}."


def _values(members: Sequence[Curve], family: Sequence[Curve]) -> str:
    return of_scale([item.value or 0.0 for item in members], [item.value or 0.0 for item in family])


def of_scale(values: Sequence[float], every: Sequence[float]) -> str:
    """Return some of a scale's values as words: all of them, from or up to one of them, or each by itself."""
    if len(values) == 1:
        return f"{values[0]:g}"
    if list(values) == list(every):
        return f"{values[0]:g} to {values[-1]:g}"
    if list(values) == list(every[-len(values) :]):
        return f"≥ {values[0]:g}"
    if list(values) == list(every[: len(values)]):
        return f"≤ {values[-1]:g}"
    return ", ".join(f"{value:g}" for value in values)


def _turn(item: Curve, level: float, unit: Unit) -> str:
    """Say where a curve is lowest, where it first rises (Def. 4.2), and by how much it rises to the last budget."""
    if item.verdict == "u":
        low, high = (budget_text(end, unit) for end in item.vertex_interval)
        lowest = f"lowest near {amount(item.vertex, unit)} ({100 * level:g} % interval {low} to {high})"
    else:
        lowest = f"lowest at {amount(item.budgets[int(np.argmin(item.mean))], unit)}"
    if np.isfinite(item.inflection):
        name = " (the inflection point of Def. 4.2)" if item.quantity in _LOSSES else ""
        step = f"first significant increase after {amount(item.inflection, unit)}{name}"
    else:
        step = "no single increase between neighbouring budgets is significant"
    change = f"by a factor of {item.rise:.3g}" if item.log else f"by {item.rise:.3g}"
    return f"{lowest}; {step}; up to {amount(item.budgets[-1], unit)} {change} ({_interval(item.rise_interval, level)})"


def _tuned(tuned: Tuned, level: float, unit: Unit) -> str:
    pairs = ", ".join(
        f"{lr:g}" + (f" ({low:g} to {high:g})" if np.isfinite(low) and low < high else "")
        for lr, (low, high) in zip(tuned.lr, tuned.interval, strict=True)
    )
    slope, low, high = (round(value, 2) + 0.0 for value in (tuned.slope, *tuned.slope_interval))  # no -0.00
    interval = f" ({_interval((low, high), level, '+.2f')})" if np.isfinite(low) else ""
    meaning = {
        "constant": "constant",
        "slowly decreasing": "decreasing, too slowly to keep the pre-training loss from rising",
        "quickly decreasing": "decreasing, fast enough that no rise of the pre-training loss is detected",
        "increasing": "increasing",
        "undecided": "undecided by these runs",
    }[tuned.scenario]
    text = (
        f"the best learning rate at {', '.join(budget_text(budget, unit) for budget in tuned.budgets)} {unit}, by the "
        f"fine-tuning loss on validation data, is {pairs}; its exponent in the budget is {slope:+.2f}{interval}: "
        f"{meaning}"
    )
    verdicts = [f"{words}: {VERDICTS[tuned.curve(name).verdict]}" for name, words in _TUNED.items()]
    text = f"{text}. At it, {'; '.join(verdicts)}"
    if tuned.at_edge:
        text += (
            f". At {', '.join(budget_text(budget, unit) for budget in tuned.at_edge)} {unit} it is the smallest or "
            "largest rate that was tried: widen the grid"
        )
    return f"{text}."


def _noise(item: NoiseApproximation, unit: Unit) -> str:
    named = {"": "by initialisation", "relative/": "relative to each filter or row"}
    kind = named.get(item.noise, item.noise.strip("/"))
    parts = [_limit("γ", scale, budget, unit) for scale, budget in zip(item.up_to, item.budgets, strict=True)]
    text = (
        f"the rise under noise ({kind}) is within {100 * QUADRATIC:g} % of ½γ²Tr(ΣH), with the measured trace, "
        f"{', '.join(parts)}"
    )
    if item.deviations:
        size = np.abs(item.deviations)
        text += (
            f"; at γ = {item.gammas[0]:g} the two differ by {np.median(size):.1f} standard errors in the median of "
            f"{len(size)} pre-trainings, by {size.max():.1f} at most"
        )
    return f"{text}."


def _line(item: LineApproximation, unit: Unit) -> str:
    parts = [_limit("lr", scale, budget, unit) for scale, budget in zip(item.up_to, item.budgets, strict=True)]
    return (
        f"from the pre-trained to the fine-tuned weights the rise of the pre-training loss is within "
        f"{100 * QUADRATIC:g} % of gᵀd + ½dᵀHd {', '.join(parts)}."
    )


def _limit(symbol: str, scale: float, budget: int, unit: Unit) -> str:
    return f"up to {symbol} {scale:g} at {amount(budget, unit)}" if scale else f"nowhere at {amount(budget, unit)}"


def _design(series: Series) -> str:
    passes = [value for value in series.passes if np.isfinite(value)]
    if not passes:
        text = "how often each sample was seen is not recorded"
    elif max(passes) <= 1 + 1e-6:
        text = "every pre-training sample was fresh, seen once"
    else:
        text = (
            f"samples were repeated {min(passes):g} to {max(passes):g} times, so the effects of length and repetition "
            "cannot be separated here"
        )
    curves = series.family("forgotten", "lr")
    if curves:
        seeds, draws = min(item.seeds for item in curves), min(item.draws for item in curves)
        text += f"; {_count(seeds, 'pre-training')} per budget, {_count(draws, 'draw')} of fine-tuning data"
        if seeds < 2:
            text += "; no interval covers the variation between pre-trainings"
    return f"{text}."


def _exclusion(item: Exclusion) -> str:
    if isinstance(item, RateOutsideWindow):
        return (
            f"lr {item.lr:g} is left out: the pre-training loss after fine-tuning goes from {item.loss[0]:.3g} to "
            f"{item.loss[1]:.3g}, outside the window of {item.window[0]:g} to {item.window[1]:g}."
        )
    table = TABLES[item.quantity].format(value=item.value)
    rest = f"{item.seeds} seeds and {item.draws} draws remain" if item.seeds else "it is left out"
    return f"{table} lacks {item.runs} runs (failed, or not run yet): {rest}."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"
