"""The comparison of methods in sentences and as a table: which to take, how sure that is, where pre-training harms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lightning_tl.figure_style import number
from lightning_tl.html_page import without_empty_columns
from lightning_tl.laws.wording import change_interval, lower_or_higher
from lightning_tl.study.transfer_methods.comparison import Compared, SettingResult
from lightning_tl.study.transfer_methods.labels import FULL
from lightning_tl.study.transfer_methods.methods_table import name_of
from lightning_tl.study.transfer_methods.paired_statistics import Estimate

#: More methods or settings than this are counted in a sentence instead of named.
_MANY = 8


def answers(results: Sequence[SettingResult], level: float = 0.95) -> list[str]:
    """Return which method to take, one sentence for each s (at the largest n), and where pre-training harms."""
    several = len({item.n for item in results}) > 1
    return [*(_take(item, several, level) for item in _first(results)), _negative(results, level)]


def sentences(results: Sequence[SettingResult], level: float = 0.95) -> list[str]:
    """Return the details: the choice elsewhere, the front where it is in the answer, what the intervals are of."""
    several = len({item.n for item in results}) > 1
    first = _first(results)
    takes = [_take(item, several, level) for item in results if item not in first]
    fronts = [text for item in first if (text := _front(item, several))]
    return [*fronts, *takes, _design(results, level)]


def _first(results: Sequence[SettingResult]) -> list[SettingResult]:
    """Return the settings that the answer names: those of the largest n, and not more than are read."""
    largest: dict[tuple[tuple[str, str], ...], float] = {}
    for item in results:
        key = tuple(item.keys.items())
        largest[key] = max(item.n, largest.get(key, 0.0))
    return [item for item in results if item.n == largest[tuple(item.keys.items())]][:_MANY]


def _where(item: SettingResult, several: bool) -> str:
    parts = [name_of(item.keys), f"n = {item.n:,.0f}" if several else "", f"s = {item.s:,.0f}"]
    return ", ".join(filter(None, parts))


def _take(item: SettingResult, several: bool, level: float) -> str:
    taken = item.method(item.take)
    text = f"At {_where(item, several)} take {taken.label}: error {_mean(taken.error, level)}"
    full = item.method(FULL) if item.has(FULL) else None
    if full is not None and taken is not full:
        text += f", {_against(taken, full, level)}"
    elif item.lowest != item.take:
        text += f", as low as that of {item.lowest} ({number(item.method(item.lowest).error.mean)})"
    if not np.isfinite(taken.forgetting.mean):
        return f"{text}. It has the lowest error of validation images; forgetting was not measured."
    text += f"; its pre-training loss {_moved(taken.forgetting.mean)}"
    if full is not None and taken is not full and np.isfinite(full.forgetting.mean):
        low, high = taken.forgetting_to_full.interval(level)
        apart = not low <= 0 <= high  # also where there is no interval
        text += " instead of " if apart else ", not distinguishable from full's "
        text += number(full.forgetting.mean, 2)
        if np.isfinite(low):
            text += f" (difference {_signed(taken.forgetting_to_full.mean)}, {_ends(low, high)})"
    rest = "" if taken is not full else " No method whose error is as low forgets less."
    if not np.isfinite(taken.error.stderr):
        rest += " These are single runs, so nothing is known about their scatter."
    return f"{text}.{rest}"


def _against(taken: Compared, full: Compared, level: float) -> str:
    low, high = taken.error_to_full.interval(level)
    if not np.isfinite(low):
        return f"that of full is {number(full.error.mean)}"
    difference = f"difference {_signed(taken.error_to_full.mean)}, {_ends(low, high)}"
    if low > 0:
        return f"higher than that of full, {number(full.error.mean)} ({difference})"
    if high < 0:
        return f"lower than that of full, {number(full.error.mean)} ({difference})"
    return f"not distinguishable from that of full, {number(full.error.mean)} ({difference})"


def _moved(change: float) -> str:
    return f"{'rises' if change >= 0 else 'falls'} by {number(abs(change), 2)}"


def _negative(results: Sequence[SettingResult], level: float) -> str:
    tested = [item for item in results if item.scratch.draws]
    if not tested:
        return (
            "Whether pre-training harms (negative transfer) is not known: there are no runs without it; add them, by "
            "scratch: true."
        )
    several = len({item.n for item in results}) > 1
    named = [(item, one) for item in tested for one in item.methods if one.p_negative <= 1 - level]
    test = f"one-sided test, paired by draw, Holm's correction over the methods of each setting, level {1 - level:.2g}"
    if not named:
        single = all(not np.isfinite(one.to_scratch.stderr) for item in tested for one in item.methods)
        why = "these are single draws" if single else test
        return f"Negative transfer was not detected with any method ({why})."
    texts = [
        f"{one.label} at {_where(item, several)} (error {lower_or_higher(one.to_scratch.mean)} than without "
        f"pre-training, {100 * level:g} % interval {change_interval(*one.to_scratch.interval(level))})"
        for item, one in named[:_MANY]
    ]
    more = f"; and {len(named) - _MANY} more" if len(named) > _MANY else ""
    return f"Negative transfer: {'; '.join(texts)}{more}. With the others it was not detected ({test})."


def _front(item: SettingResult, several: bool) -> str:
    standings: dict[str, list[Compared]] = {}
    for one in item.methods:
        standings.setdefault(one.place.standing, []).append(one)
    on = standings.get("on", [])
    if not on or len(item.methods) < 2:
        return ""
    parts = [f"on the front of error against forgetting: {', '.join(one.label for one in on)}"]
    if off := standings.get("off"):
        parts.append("off it: " + ", ".join(f"{one.label} ({one.place.better} is better in both)" for one in off))
    behind = len(standings.get("not distinguishable", []))
    if behind:
        parts.append(f"{behind} more {'is' if behind == 1 else 'are'} behind it by the means, but not beyond chance")
    return f"At {_where(item, several)}, {'; '.join(parts)}."


def _design(results: Sequence[SettingResult], level: float) -> str:
    estimates = [one.error for item in results for one in item.methods]
    draws = min(item.draws for item in estimates)
    pretrainings = min(item.pretrainings for item in estimates)
    text = (
        f"Each method has {draws} draw{'s' * (draws != 1)} of fine-tuning images and {pretrainings} "
        f"pre-training{'s' * (pretrainings != 1)} or more. Differences are paired: same pre-training, same draw. "
        f"Intervals are of {100 * level:g} %, each by itself; the method to take was chosen by validation images, its "
        "error is of test images"
    )
    if pretrainings < 2:
        text += "; no interval covers the variation between pre-trainings"
    return f"{text}."


def table(results: Sequence[SettingResult], level: float = 0.95) -> tuple[list[str], list[list[str]]]:
    """Return the comparison as heads and rows of a table for readers; empty columns are left out."""
    heads = ["setting", "n", "s", "method", "error", "less full", "pre-training loss rises by", "less full (loss)"]
    heads += ["distance", "trained parameters", "seconds", "front", "against no pre-training"]
    rows = []
    for item in results:
        for one in item.methods:
            low, high = one.to_scratch.interval(level)
            change = lower_or_higher(one.to_scratch.mean) if one.to_scratch.draws else ""
            interval = f" ({change_interval(low, high)})" if np.isfinite(low) else ""
            harm = ": negative transfer" if one.p_negative <= 1 - level else ""
            rows.append(
                [
                    name_of(item.keys),
                    f"{item.n:,.0f}",
                    f"{item.s:,.0f}",
                    one.label + (" (take)" if one.label == item.take else ""),
                    _mean(one.error, level, words=False),
                    _difference(one.error_to_full, level) if one.label != FULL else "",
                    _mean(one.forgetting, level, words=False, digits=2),
                    _difference(one.forgetting_to_full, level) if one.label != FULL else "",
                    number(one.distance.mean) if np.isfinite(one.distance.mean) else "",
                    f"{one.trainable:,.0f}" if np.isfinite(one.trainable) else "",
                    f"{one.seconds.mean:.1f}" if np.isfinite(one.seconds.mean) else "",
                    "" if one.place.standing == "unknown" else one.place.standing,
                    change + interval + harm,
                ]
            )
    return without_empty_columns(heads, rows)


def _mean(item: Estimate, level: float, words: bool = True, digits: int = 3) -> str:
    if not np.isfinite(item.mean):
        return ""
    text = f"{'−' * (item.mean < 0)}{number(abs(item.mean), digits)}"
    low, high = item.interval(level)
    if not low < high:  # no interval, or runs that agree to the bit
        return text
    return f"{text} ({f'{100 * level:g} % interval ' * words}{_ends(low, high, digits)})"


def _difference(item: Estimate, level: float) -> str:
    if not np.isfinite(item.mean):
        return ""
    low, high = item.interval(level)
    return _signed(item.mean) + (f" ({_ends(low, high)})" if np.isfinite(low) else "")


def _signed(value: float) -> str:
    text = number(abs(value), 2)
    return text if value == 0 else f"{'+' if value > 0 else '−'}{text}"


def _ends(low: float, high: float, digits: int = 2) -> str:
    return " to ".join(f"{'−' * (end < 0)}{number(abs(end), max(digits, 2))}" for end in (low, high))
