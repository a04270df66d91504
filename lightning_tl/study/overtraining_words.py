"""The overtraining analysis in sentences: what is shown, with intervals, and what is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lightning_tl.study.curves import VERDICTS, Curve

if TYPE_CHECKING:
    from lightning_tl.study.overtraining import Quadratic, Series, Tuned

_SUBJECTS = {
    ("forgotten", "lr"): "the pre-training loss after fine-tuning",
    ("increase", "lr"): "its rise by fine-tuning",
    ("error", "lr"): "the fine-tuning error",
    ("perturbed_loss", "gamma"): "the pre-training loss under noise in the weights",
    ("sensitivity", "gamma"): "its rise under that noise",
}


_STRESSES = {("sensitivity", "gamma"): "under noise of γ ", ("increase", "lr"): "by fine-tuning at lr "}
_HARMFUL = ("u", "rises")
_HARMS = {
    "error": "makes fine-tuning worse",
    "forgotten": "makes the fine-tuned network forget more of its pre-training",
}


def answers(series: Sequence[Series], level: float) -> list[str]:
    """Return for each series whether longer pre-training does harm, and whether it makes the network fragile."""
    found = []
    for one in series:
        name = f"{one.name}: " if one.name else ""
        found.append(_capital(f"{name}{' '.join(filter(None, [_harm(one, level), _fragility(one, level)]))}"))
    return found


def _harm(one: Series, level: float) -> str:
    told = []
    for quantity, words in _HARMS.items():
        family = one.family(quantity, "lr")
        turned = [item for item in family if item.verdict in _HARMFUL]
        if turned:
            told.append(
                f"pre-training longer {words} at lr {_values(turned, family)} (at {turned[-1].value:g} "
                f"{_turn(turned[-1], level)})"
            )
    if told:
        return f"{'; '.join(told)}."
    if all(item.verdict == "single" for quantity in _HARMS for item in one.family(quantity, "lr")):
        return "whether longer pre-training does harm cannot be told from single runs."
    text = (
        f"no budget up to {one.budgets[-1]:,} steps is shown to be too long: at no learning rate does the error after "
        "fine-tuning, or the pre-training loss, rise detectably."
    )
    if one.tuned is not None and one.tuned.curves[1].verdict == "falls":
        text += " With the best rate of each budget the error still falls."
    return text


def _fragility(one: Series, level: float) -> str:
    told, rising = [], []
    known = [item for each in _STRESSES for item in one.family(*each) if item.verdict != "single"]
    if not known:
        return ""
    for each, words in _STRESSES.items():
        family = [item for item in known if (item.quantity, item.by) == each]
        grown = [item for item in family if item.verdict in _HARMFUL]
        lasting = [item for item in grown if item.rise_interval[0] > item.log]  # factors above 1, differences above 0
        rising += [f"{words}{_values(grown, family)}"] if grown else []
        told += [_more(lasting[-1], words, level)] if lasting else []
    if told:
        return f"The network becomes more fragile: its pre-training loss rises {', and '.join(told)}."
    if rising:
        return (
            f"The network becomes more fragile on the way ({' and '.join(rising)}), but is not shown to be so at "
            f"{one.budgets[-1]:,} steps."
        )
    if all(item.verdict == "falls" for item in known):
        return "The network becomes less fragile: its loss rises less and less under the same noise or fine-tuning."
    return "That its loss rises more under the same noise or fine-tuning, so that it becomes fragile, is not shown."


def _more(item: Curve, words: str, level: float) -> str:
    low, high = item.rise_interval
    much = f"{item.rise:.3g} times as much" if item.log else f"by {item.rise:.3g} more"
    return (
        f"{much} {words}{item.value:g} at {item.budgets[-1]:,} steps as at {item.inflection:,.0f} "
        f"({100 * level:g} % interval {low:.3g} to {high:.3g})"
    )


def sentences(series: Sequence[Series], level: float) -> list[str]:
    """Return the details: for each series what forgetting, error and noise do over budgets, then the best rate."""
    found = []
    for one in series:
        name = f"{one.name[:1].upper()}{one.name[1:]}: " if one.name else ""
        for (quantity, by), subject in _SUBJECTS.items():
            family = one.family(quantity, by)
            if family:
                found.append(_capital(f"{name}{_family(subject, family, level)}"))
        if one.tuned is not None:
            found.append(_capital(f"{name}{_tuned(one.tuned, level)}"))
        plain = next((item for item in one.quadratic if item.noise == ""), None)
        if plain is not None:
            found.append(_capital(f"{name}{_quadratic(plain)}"))
        found.append(_capital(f"{name}{_design(one)}"))
        found += [_capital(f"{name}{note}") for note in one.notes]
    return found


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _family(subject: str, family: Sequence[Curve], level: float) -> str:
    by = "lr" if family[0].by == "lr" else "γ"
    first, last = family[0].budgets[0], family[0].budgets[-1]
    turned = [item for item in family if item.verdict in ("u", "rises", "inverted")]
    text = f"between {first:,} and {last:,} steps "
    if not turned:
        text = "no inflection is shown within these budgets: " + text
    parts = []
    for verdict in VERDICTS:
        mine = [item for item in family if item.verdict == verdict]
        if not mine:
            continue
        words = VERDICTS[verdict]
        at = f"{by} {_values(mine, family)}"
        shown = mine if verdict == "u" else mine[-1:] if verdict == "rises" else []
        told = [f"{by} {item.value:g}: {_turn(item, level)}" for item in shown]
        parts.append(f"{words} at {at}" + (f" ({'; '.join(told)})" if told else ""))
    return f"{text}{subject} {'; '.join(parts)}."


def _values(mine: Sequence[Curve], family: Sequence[Curve]) -> str:
    """Return values as words: all of them, from one on, up to one, or one by one."""
    values, every = [item.value or 0.0 for item in mine], [item.value or 0.0 for item in family]
    if len(values) == 1:
        return f"{values[0]:g}"
    if values == every:
        return f"{values[0]:g} to {values[-1]:g}"
    if values == every[-len(values) :]:
        return f"≥ {values[0]:g}"
    if values == every[: len(values)]:
        return f"≤ {values[-1]:g}"
    return ", ".join(f"{value:g}" for value in values)


def _turn(item: Curve, level: float) -> str:
    """Say where a curve turns upward, and by how much it then rises."""
    low, high = item.inflection_interval
    percent = f"{100 * level:g} % interval"
    where = f"beyond {item.inflection:,.0f} steps ({percent} {low:,.0f} to {high:,.0f})"
    if item.verdict == "rises":
        where = f"from {item.inflection:,.0f} steps on"
    a, b = item.rise_interval
    change = f"by a factor of {item.rise:.3g}" if item.log else f"by {item.rise:.3g}"
    return f"{where}, {change} ({percent} {a:.3g} to {b:.3g}) up to {item.budgets[-1]:,}"


def _tuned(tuned: Tuned, level: float) -> str:
    pairs = ", ".join(
        f"{lr:g}" + (f" ({low:g} to {high:g})" if np.isfinite(low) and low < high else "")
        for lr, (low, high) in zip(tuned.lr, tuned.interval, strict=True)
    )
    low, high = tuned.slope_interval
    interval = f" ({100 * level:g} % interval {low:+.2f} to {high:+.2f})" if np.isfinite(low) else ""
    meaning = {
        "constant": "constant",
        "slowly decreasing": "decreasing, too slowly to keep the pre-training loss from rising",
        "quickly decreasing": "decreasing, fast enough that the pre-training loss does not rise detectably",
        "increasing": "increasing",
        "undecided": "not decided by these runs",
    }[tuned.scenario]
    text = (
        f"the best learning rate at {', '.join(f'{budget:,}' for budget in tuned.budgets)} steps is {pairs}, with "
        f"exponent {tuned.slope:+.2f}{interval} in the budget: {meaning}"
    )
    forgotten, error = tuned.curves
    text += (
        f"; at it the forgotten loss {VERDICTS[forgotten.verdict]} and the fine-tuning error {VERDICTS[error.verdict]}"
    )
    if tuned.at_edge:
        text += (
            f". At {', '.join(f'{budget:,}' for budget in tuned.at_edge)} steps it is the smallest or largest that was "
            "tried: widen the grid"
        )
    return f"{text}."


def _quadratic(found: Quadratic) -> str:
    parts = [f"{g:g} at {budget:,} steps" for g, budget in zip(found.up_to, found.budgets, strict=True)]
    return f"the rise under noise is within 20 % of ½γ²Tr(ΣH) up to γ = {', '.join(parts)}."


def _design(one: Series) -> str:
    passes = [value for value in one.passes if np.isfinite(value)]
    if not passes:
        told = "how often each image was seen is not recorded"
    elif max(passes) <= 1 + 1e-6:
        told = "every pre-training image was fresh, seen once"
    else:
        told = f"images were repeated, {min(passes):g} to {max(passes):g} times: length and repetition go together here"
    curves = one.family("forgotten", "lr")
    if curves:
        seeds, draws = min(item.seeds for item in curves), min(item.draws for item in curves)
        told += f"; {_count(seeds, 'pre-training')} a budget, {_count(draws, 'draw')} of fine-tuning images"
        if seeds < 2:
            told += "; no interval covers the luck of a pre-training"
    return f"{told}."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"
