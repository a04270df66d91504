"""What the fits mean: render more, render differently, or the data cannot tell. Structured, and in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from lightning_tl.laws.compare import Comparison, compare, log_ratio
from lightning_tl.laws.error_sources import error_sources, sources_sentence
from lightning_tl.laws.group_fits import FACTOR, GroupFit, GroupResult, fitted
from lightning_tl.laws.images_needed import ImagesNeeded
from lightning_tl.laws.pretraining import first_answer
from lightning_tl.laws.spending import MODEL_COLUMNS, RENDER_COLUMNS, Budget, Choice, NextSize, choices, next_size
from lightning_tl.laws.terms import Terms
from lightning_tl.laws.transfer_gaps import trait_sentences
from lightning_tl.laws.wording import (
    a,
    change_interval,
    confidence_level,
    counted,
    gap_sentences,
    hold_out_sentence,
    images,
    lower_or_higher,
    needed_sentence,
    percent,
    scratch_sentence,
    sure,
)

#: Least confidence for a verdict; below it the text says that the data cannot tell.
CONFIDENT = 0.80
#: More groups than this are counted in the first lines instead of named.
MANY = 8
_MOST_PAIRS = 300

MORE, DIFFERENT, UNCLEAR, UNFITTED = "render more", "render differently", "cannot tell", "not fitted"
#: Only with a budget: what else it could be spent on.
MODEL = "use another model"


@dataclass
class GroupAdvice:
    """What one group's fit means.

    Attributes:
        label: The group.
        verdict: ``render more``, ``render differently``, ``cannot tell`` or ``not fitted``; with a budget also
            ``use another model``. The first two are :meth:`.Terms.verdict` where sizes are not images.
        sentences: The verdict with its grounds, in full sentences.
        reduction: Share of the error that :data:`FACTOR` times the images take away: estimate, low, high.
        confidence: Confidence that this is worthwhile (:attr:`.Terms.worthwhile`).
        images_needed: Images (tokens) for the target error, where one is asked for.
        choices: Ways to spend the budget, the lowest expected error first, where there is one.
        next_size: The size worth rendering next.
    """

    label: str
    verdict: str
    sentences: list[str]
    reduction: tuple[float, float, float] | None = None
    confidence: float | None = None
    images_needed: ImagesNeeded | None = None
    choices: list[Choice] = field(default_factory=list)
    next_size: NextSize | None = None


@dataclass
class Advice:
    """What a table of fits means.

    Attributes:
        headline: The first lines: whether pre-training is better than none; the ranking; each group's verdict (counted
            where there are many).
        ranking: Which group to keep, of each set of groups that compete.
        groups: One per group, in the table's order.
        comparisons: Fitted groups that differ in one column, two by two.
        best: Label of the group with the lowest error at its largest size, of those that compete; ``None`` where none
            is fitted or they do not compete.
        target: The target error asked for.
        pretraining: Whether pre-training is better than none.
        gaps: How C depends on the model's size and the data's complexity.
    """

    headline: list[str]
    ranking: list[str]
    groups: list[GroupAdvice]
    comparisons: list[Comparison] = field(default_factory=list)
    best: str | None = None
    target: float | None = None
    gaps: list[str] = field(default_factory=list)
    pretraining: list[str] = field(default_factory=list)


def advise(fits: Sequence[GroupResult], target: float | None = None, budget: Budget | None = None) -> Advice:
    """Say what the fits of a table mean.

    Args:
        fits: The groups as :func:`lightning_tl.laws.group_fits.analyse` returns them.
        target: A target error in (0, 1) or a target loss, or ``None``.
        budget: What may be spent on images, or ``None``.

    Returns:
        A verdict for each group, comparisons, and sentences to be read first.
    """
    laws = fitted(fits)
    rivals = _rivals(laws)
    ranked = {id(item): family for family in rivals for item in family}
    groups = [
        _group(item, ranked[id(item)], laws, target, budget)
        if isinstance(item, GroupFit)
        else GroupAdvice(item.label, UNFITTED, [f"not fitted: {item.reason}."])
        for item in fits
    ]
    ranking = [_keep(family) for family in rivals if len(family) > 1][:MANY]
    gaps = trait_sentences(laws)
    asked = [(item, item.hold_out) for item in laws if item.hold_out is not None and item.hold_out.asked]
    held = [f"{item.label}: {hold_out_sentence(item, out)}" for item, out in asked if len(asked) <= MANY]
    pretraining = first_answer(fits)
    headline = [*pretraining, *held, *ranking, *gaps]
    if len(fits) > MANY:
        counts = Counter(item.verdict for item in groups)
        verdicts = "; ".join(f"{verdict}: {count} group{'s' * (count > 1)}" for verdict, count in counts.items())
        headline.append(f"{verdicts}.")
    else:
        headline += [f"{item.label}: {item.sentences[0]}" for item in groups]
    best = rivals[0][0].label if len(rivals) == 1 else None
    return Advice(headline, ranking, groups, [compare(a, b) for a, b in _pairs(laws)], best, target, gaps, pretraining)


def _rivals(fits: Sequence[GroupFit]) -> list[list[GroupFit]]:
    """Return the fitted groups that compete (renderings of one task with one model), the best of each first."""
    names = {name for item in fits for name in item.group.keys}
    varying = {name for name in names if len({item.group.keys.get(name) for item in fits}) > 1}
    own = varying & {*RENDER_COLUMNS, "pretrain_task"}  # what was pre-trained on, and for
    if not own and len(varying) == 1:
        own = varying - set(MODEL_COLUMNS)
    families: dict[tuple[str, ...], list[GroupFit]] = {}
    for item in fits:
        families.setdefault(tuple(item.group.keys.get(name, "") for name in sorted(varying - own)), []).append(item)
    return [sorted(family, key=_error_now) for family in families.values()]


def _error_now(item: GroupFit) -> float:
    return item.law.log_error(item.largest, item.s)


def _pairs(fits: Sequence[GroupFit]) -> list[tuple[GroupFit, GroupFit]]:
    """Return the pairs to compare: of many groups, those that differ in one column, and not more than are read."""
    if len(fits) <= MANY:
        return list(combinations(fits, 2))
    alike: dict[tuple[str, tuple[str, ...]], list[int]] = {}
    others = [
        {name: tuple(value for key, value in item.group.keys.items() if key != name) for name in item.group.keys}
        for item in fits
    ]
    for i, rests in enumerate(others):
        for name, rest in rests.items():
            alike.setdefault((name, rest), []).append(i)
    pairs: list[tuple[GroupFit, GroupFit]] = []
    for i, rests in enumerate(others):
        rivals = {j for name, rest in rests.items() for j in alike[name, rest] if j > i}
        pairs += [(fits[i], fits[j]) for j in sorted(rivals)]
        if len(pairs) >= _MOST_PAIRS:
            break
    return pairs[:_MOST_PAIRS]


def _keep(family: Sequence[GroupFit]) -> str:
    best, second, terms = family[0], family[1], family[0].group.terms
    ratio = log_ratio(best, best.largest, second, second.largest)
    change, ends = lower_or_higher(ratio.estimate), change_interval(*ratio.interval)
    level = confidence_level(best.law)
    if ratio.sign < 0:
        ours, theirs = (counted(item.largest, terms) for item in (best, second))
        here = f"{ours} {terms.sizes} of it against {theirs} of {second.label}"
        return f"Keep {best.label}: its {terms.measured} is {change} ({level} interval {ends}) with {here}."
    known = np.isfinite(ratio.interval[0]) or np.isfinite(ratio.interval[1])
    return (
        f"Which of {best.label} and {second.label} is better cannot be determined: the {terms.measured} of "
        f"{best.label} is {change}, with {f'a {level} interval of {ends}' if known else 'no interval'}."
    )


def _group(
    item: GroupFit,
    family: Sequence[GroupFit],
    fits: Sequence[GroupFit],
    target: float | None,
    budget: Budget | None,
) -> GroupAdvice:
    law, terms = item.law, item.group.terms
    change, (down, up), confidence = item.outlook.change, item.outlook.interval, item.outlook.confidence
    reduction = (float(1 - np.exp(change)), float(1 - np.exp(up)), float(1 - np.exp(down)))
    needed = law.images_needed(target, item.s) if target is not None else None
    ways = choices(item, fits, budget) if budget is not None and law.dof > 0 else []
    better = ways[0] if ways and _is_better(item, ways[0], fits, budget) else None
    verdict, why = _verdict(item, family[0], confidence, needed, better)
    verdict = terms.verdict(verdict)
    advice = GroupAdvice(item.label, verdict, [], reduction, confidence, needed, ways)
    tenfold = "" if item.group.question else f" {_tenfold(item, (change, down, up), confidence)}"
    advice.sentences.append(f"{verdict}. {why}{tenfold}")
    if item.group.question:
        return advice
    if item.outlook.model_change is not None and law.dof > 0:
        advice.sentences.append(_larger_model(item, item.outlook.model_change))
    advice.sentences += gap_sentences(law, terms)
    if needed is not None:
        where = f" with {images(float(law.cells.s.max()))} {terms.seconds}" if terms.by_model else ""
        advice.sentences.append(needed_sentence(needed, law, terms, where))
    if target is not None and law.form.uses_s:
        other = f" after pre-training on {counted(item.largest, terms)} {terms.sizes}"
        samples = law.images_needed(target, over="s", n=item.largest)
        advice.sentences.append(needed_sentence(samples, law, terms, other, terms.seconds))
    if budget is not None and ways:
        advice.sentences.append(_spend(ways, budget, better is not None, terms))
    if item.scratch is not None:
        advice.sentences.append(scratch_sentence(item.scratch, law, terms))
    if item.hold_out is not None:
        advice.sentences.append(f"Check: {hold_out_sentence(item, item.hold_out)}")
    if (sources := error_sources(item)) is not None:
        advice.sentences.append(sources_sentence(sources, terms))
    advice.next_size = next_size(item, FACTOR, budget)
    if advice.next_size is not None:
        advice.sentences.append(_next(advice.next_size, terms))
    return advice


def _verdict(
    item: GroupFit, best: GroupFit, confidence: float, needed: ImagesNeeded | None, better: Choice | None
) -> tuple[str, str]:
    """Return the verdict and its ground; what the data firmly say comes first."""
    law, terms = item.law, item.group.terms
    far = FACTOR * item.largest
    if item.group.question:
        return UNCLEAR, item.group.question
    if law.dof < 1:
        need, sizes = len(law.form.parameters) + 1, len(np.unique(law.cells.n))
        more = f"add {'one' if need - sizes == 1 else need - sizes}, larger or between" if need > sizes else "add one"
        return UNCLEAR, f"Such a law goes through any {sizes} sizes exactly: {need} are needed; {more}."
    if better is not None:
        verdict = MODEL if better.kind == "another model" else DIFFERENT
        return (
            verdict,
            f"For the budget, {better.group} has a lower {terms.measured} than more {terms.sizes} of this kind.",
        )
    if best is not item and best.law.dof > 0:
        ahead = log_ratio(item, far, best, best.largest)
        if ahead.sign > 0:
            return DIFFERENT, (
                f"{best.label} is already better with {counted(best.largest, terms)} {terms.sizes} than {item.label} "
                f"would be with {counted(far, terms)}."
            )
    if item.scratch is not None and item.scratch.low[-1] > 0:
        return (
            DIFFERENT,
            f"With {counted(item.largest, terms)} {terms.sizes} it is worse than no pre-training (negative transfer).",
        )
    if needed is not None and needed.never >= CONFIDENT:
        return DIFFERENT, (
            f"No number of {terms.sizes} reaches {a(terms.measured)} of {needed.target:g}: with {sure(needed.never)} "
            "confidence the curve stays above it."
        )
    if confidence >= CONFIDENT:
        return MORE, f"More {terms.sizes} still lower the {terms.measured}."
    if confidence <= 1 - CONFIDENT:
        return DIFFERENT, f"More {terms.sizes} of this kind change little."
    return UNCLEAR, (
        "The noise leaves both open: more pre-training seeds, or one larger size, would show whether more "
        f"{terms.sizes} help."
    )


def _tenfold(item: GroupFit, change: tuple[float, float, float], confidence: float) -> str:
    law, terms = item.law, item.group.terms
    far = FACTOR * item.largest
    size = counted(far, terms)
    now, then = law.predict([item.largest, far], item.s)
    if law.dof < 1:
        return f"The curve through them has no interval; at {size} {terms.sizes} it is at {then:.3g}."
    interval = f"{confidence_level(law)} interval {change_interval(change[1], change[2])}"
    return (
        f"{FACTOR:g} times the {terms.sizes} ({size}) are predicted to take the {terms.measured} from {now:.3g} to "
        f"{then:.3g}: "
        f"{lower_or_higher(change[0])} ({interval}); "
        f"confidence that they lower it by {percent(terms.worthwhile)} or more: {sure(confidence)}."
    )


def _larger_model(item: GroupFit, change: float) -> str:
    """Say what a larger model does to the loss, beside what more tokens do."""
    law, terms, s = item.law, item.group.terms, float(item.law.cells.s.max())
    then = law.predict([item.largest], FACTOR * s)[0]
    interval = f"{confidence_level(law)} interval {change_interval(*item.outlook.model_interval)}"
    return (
        f"{FACTOR:g} times the {terms.seconds} ({images(FACTOR * s)}) instead would take it to {then:.3g}: "
        f"{lower_or_higher(change)} ({interval})."
    )


def _is_better(item: GroupFit, choice: Choice, fits: Sequence[GroupFit], budget: Budget | None) -> bool:
    """Return whether a way of spending is not more images, and its error is lower beyond the noise."""
    if choice.kind == "more images" or budget is None:
        return False
    other = next(rival for rival in fits if rival.label == choice.group)
    return log_ratio(item, item.largest + budget.images, other, choice.n).sign > 0


def _spend(ways: Sequence[Choice], budget: Budget, distinct: bool, terms: Terms) -> str:
    """Say which way of spending lowers the expected error most, and whether more images do as well within the noise."""
    texts = []
    for choice in ways:
        where = "" if choice.kind == "more images" else f" ({choice.group}, n = {counted(choice.n, terms)})"
        texts.append(f"{_kind(choice, terms)}{where}: {choice.error:.3g} ({choice.low:.3g} to {choice.high:.3g})")
    start = f"A budget of {budget.amount:g} buys {counted(budget.images, terms)} {terms.sizes}: {'; '.join(texts)}."
    first = ways[0]
    if len(ways) == 1:
        return start
    if first.kind == "more images":
        return f"{start} Of these, more {terms.sizes} have the lowest expected {terms.measured}."
    doubt = "" if distinct else f", but its difference from more {terms.sizes} is within the noise"
    words = _kind(first, terms).capitalize()
    return f"{start} {words} ({first.group}) has the lowest expected {terms.measured}{doubt}."


def _kind(choice: Choice, terms: Terms) -> str:
    return f"more {terms.sizes}" if choice.kind == "more images" else choice.kind


def _next(size: NextSize, terms: Terms) -> str:
    start = "Rendering" if terms.sizes == "images" else "Pre-training on"
    return (
        f"{start} n = {counted(size.n, terms)} next would narrow the interval at {counted(size.at, terms)} "
        f"{terms.sizes} by about "
        f"{percent(size.narrower)}; a second pre-training at the largest size by {percent(max(size.again, 0.0))}."
    )
