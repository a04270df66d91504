"""Is pre-training better than none? The first question, answered for the largest size of each group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from lightning_tl.laws.forms import Array
from lightning_tl.laws.group_fits import GroupFit, GroupResult
from lightning_tl.laws.terms import Terms
from lightning_tl.laws.wording import change_interval, counted, lower_or_higher

if TYPE_CHECKING:
    import pandas as pd

#: More groups than this are counted instead of named.
_MANY = 8


@dataclass(frozen=True)
class Benefit:
    """The error with the most pre-training, against the error without.

    Attributes:
        label: The group.
        n: The largest pre-training size measured.
        ratio: log(error at n / error without pre-training), of geometric means or of the law.
        low: Lower end of its interval; -inf where nothing is known about the scatter.
        high: Upper end.
        level: Confidence level of the interval.
        runs: Number of runs at n.
        scratch_runs: Number of runs without pre-training.
        by_law: The error at n is the law's, which all sizes support.
    """

    label: str
    n: float
    ratio: float
    low: float
    high: float
    level: float
    runs: int
    scratch_runs: int
    by_law: bool

    @property
    def sign(self) -> int:
        """-1: the error is lower with pre-training, beyond the interval; 1: higher; 0: the data cannot tell."""
        return -1 if self.high < 0 else 1 if self.low > 0 else 0


def benefit(item: GroupResult, level: float = 0.95) -> Benefit | None:
    """Compare a group's largest size with the runs without pre-training.

    Where there is a law with a degree of freedom left, its error is compared (see
    :func:`~.scratch.scratch_contrast`); else the runs at the largest size: by a paired t interval where both have
    at least two draws in common, by one with a pooled variance otherwise.

    Args:
        item: The group.
        level: Confidence level, where no law has one.

    Returns:
        The comparison; None where a group has no run without pre-training, or none with it.
    """
    group = item.group
    if group.scratch.empty or group.runs.empty:
        return None
    n = float(group.runs["n"].max())
    own, scratch = group.runs[group.runs["n"] == n], group.scratch
    counts = (len(own), len(scratch))
    if isinstance(item, GroupFit) and item.scratch is not None and item.law.dof > 0:
        contrast = item.scratch
        low, high = float(contrast.low[-1]), float(contrast.high[-1])
        return Benefit(item.label, n, float(contrast.ratio[-1]), low, high, item.law.level, *counts, True)
    if "s" in own:
        largest = own["s"].max()
        own, scratch = own[own["s"] == largest], scratch[scratch["s"] == largest]
        if scratch.empty:
            return None
    level = item.law.level if isinstance(item, GroupFit) else level
    return Benefit(item.label, n, *_difference(own, scratch, level), level, len(own), len(scratch), False)


def _difference(own: pd.DataFrame, scratch: pd.DataFrame, level: float) -> tuple[float, float, float]:
    """Return the mean difference of log errors and its interval."""
    y, z = (np.log(frame["error"].to_numpy(float)) for frame in (own, scratch))
    pairs = _paired(own, scratch)
    if pairs is not None and len(pairs) > 1:
        estimate, spread, dof = float(pairs.mean()), float(pairs.std(ddof=1) / np.sqrt(len(pairs))), len(pairs) - 1
    else:
        estimate, dof = float(y.mean() - z.mean()), len(y) + len(z) - 2
        squares = float(((y - y.mean()) ** 2).sum() + ((z - z.mean()) ** 2).sum())
        spread = float(np.sqrt(squares / dof * (1 / len(y) + 1 / len(z)))) if dof > 0 else np.inf
    half = float(stats.t.ppf((1 + level) / 2, dof)) * spread if dof > 0 else np.inf
    return estimate, estimate - half, estimate + half


def _paired(own: pd.DataFrame, scratch: pd.DataFrame) -> Array | None:
    """Return the differences of log errors by draw; None where the draws are not known."""
    if "draw" not in own or "draw" not in scratch:
        return None
    means = []
    for frame in (own, scratch):
        draws, errors = frame["draw"].astype(str).to_numpy(), np.log(frame["error"].to_numpy(float))
        means.append({draw: float(errors[draws == draw].mean()) for draw in dict.fromkeys(draws)})
    return np.array([means[0][draw] - means[1][draw] for draw in means[0] if draw in means[1]])


def first_answer(fits: Sequence[GroupResult]) -> list[str]:
    """Answer in sentences whether pre-training is better than none, the conclusion first.

    Args:
        fits: The groups of a table.
    """
    questions = list(dict.fromkeys(item.group.question for item in fits if item.group.question))
    if questions:
        return questions
    if any(item.group.terms.by_model for item in fits):
        return []  # a law of model size and tokens: nothing is fine-tuned
    benefits = [result for item in fits if (result := benefit(item)) is not None]
    if not benefits:
        return [
            "Whether pre-training is better than none is not known: there is no run without it (size 0). Add some; in "
            "a study, by scratch: true."
        ]
    sentences = [_verdict(benefits) + (f" {_grounds(benefits, fits[0].group.terms)}" if len(benefits) <= _MANY else "")]
    if any(result.scratch_runs == 1 for result in benefits):
        sentences.append(
            "Without pre-training there is one run only, so its scatter is not known"
            + (" and is taken to be that of the others" if any(result.by_law for result in benefits) else "")
            + ": repeat it with other seeds and draws before relying on this."
        )
    return sentences


def _verdict(benefits: Sequence[Benefit]) -> str:
    signs = [result.sign for result in benefits]
    words = {-1: "better than none", 1: "worse than none"}
    if len(set(signs)) == 1:
        if signs[0]:
            together = {1: "", 2: " with both"}.get(len(benefits), f" with all {len(benefits)}")
            return f"Pre-training is {words[signs[0]]}{together}."
        any_of = {1: "", 2: " in either case"}.get(len(benefits), f" in any of the {len(benefits)} cases")
        return f"Whether pre-training is better than none cannot be determined{any_of}."
    if len(benefits) > _MANY:
        counts = [(signs.count(sign), text) for sign, text in ((-1, words[-1]), (1, words[1]), (0, "undetermined"))]
        return f"Pre-training, of {len(benefits)} groups: {', '.join(f'{text} in {n}' for n, text in counts if n)}."
    names = {sign: " and ".join(result.label for result in benefits if result.sign == sign) for sign in (-1, 1, 0)}
    known = " and ".join(f"{words[sign]} with {names[sign]}" for sign in (-1, 1) if names[sign])
    unknown = f"; with {names[0]}, this cannot be determined" if names[0] else ""
    return f"Pre-training is {known}{unknown}."


def _grounds(benefits: Sequence[Benefit], terms: Terms) -> str:
    texts = []
    for result in benefits:
        start = f"{result.label}, at" if len(benefits) > 1 else "At"
        size = lower_or_higher(result.ratio)
        change = f"{start} n = {counted(result.n, terms)}: {terms.measured} {size}"
        change += "" if size == "unchanged" else " than without"
        runs = f"{_count(result.runs)} against {_count(result.scratch_runs)} without"
        if np.isfinite(result.high - result.low):
            change += f" ({100 * result.level:g} % interval {change_interval(result.low, result.high)}; {runs})"
        else:
            change += f" (no interval: {runs})"
        texts.append(change)
    return "; ".join(texts) + "."


def _count(runs: int) -> str:
    return f"{runs} run{'s' * (runs != 1)}"
