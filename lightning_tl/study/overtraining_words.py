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
    ("error", "lr"): "the fine-tuning error",
    ("perturbed_loss", "gamma"): "the pre-training loss under noise in the weights",
    ("sensitivity", "gamma"): "its rise under that noise",
}


def sentences(series: Sequence[Series], level: float) -> list[str]:
    """Return the answer: for each series what forgetting, error and noise do over budgets, then the best rate."""
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
