"""What the fits mean: render more, render differently, or the data cannot tell. Structured, and in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from lightning_tl.laws.analysis import GroupFit, Scratch
from lightning_tl.laws.compare import Comparison, compare, log_ratio
from lightning_tl.laws.fitted import ImagesNeeded

#: A question asked of every curve: what would this many times the images change?
FACTOR = 10.0
#: Share of the error that they must take away to be worth rendering.
WORTHWHILE = 0.10
#: Confidence from which a verdict is given; below it the text says that the data cannot tell.
CONFIDENT = 0.80

MORE, DIFFERENT, UNCLEAR, UNFITTED = "render more", "render differently", "cannot tell", "not fitted"


@dataclass
class GroupAdvice:
    """What one group's fit means.

    Attributes:
        label: The group.
        verdict: ``render more``, ``render differently``, ``cannot tell`` or ``not fitted``.
        sentences: The verdict with its grounds, in full sentences.
        reduction: Share of the error that :data:`FACTOR` times the images take away: estimate, low, high.
        confidence: Confidence that this is at least :data:`WORTHWHILE`.
        images_needed: Images for the target error, where one is asked for.
    """

    label: str
    verdict: str
    sentences: list[str]
    reduction: tuple[float, float, float] | None = None
    confidence: float | None = None
    images_needed: ImagesNeeded | None = None


@dataclass
class Advice:
    """What a table of fits means.

    Attributes:
        headline: The first lines: which group to keep and each group's verdict.
        groups: One a group, in the table's order.
        comparisons: Every two fitted groups.
        best: Label of the group with the lowest error at its largest size; ``None`` where none is fitted.
        target: The target error asked for.
    """

    headline: list[str]
    groups: list[GroupAdvice]
    comparisons: list[Comparison] = field(default_factory=list)
    best: str | None = None
    target: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON."""
        return asdict(self)


def advise(fits: Sequence[GroupFit], target: float | None = None) -> Advice:
    """Say what the fits of a table mean.

    Args:
        fits: The groups as :func:`lightning_tl.laws.analysis.analyse` returns them.
        target: A target error in (0, 1), or ``None``.

    Returns:
        A verdict for each group, comparisons, and sentences to be read first.
    """
    fitted = [item for item in fits if item.law is not None]
    ranked = sorted(fitted, key=lambda item: item.law.log_level(item.largest)[0] if item.law else np.inf)
    best = ranked[0] if ranked else None
    each = [_group(item, best, target) for item in fits]
    pairs = [compare(a, b) for a, b in combinations(fitted, 2)] if len(fitted) <= 12 else []
    headline = []
    if best is not None and len(ranked) > 1:
        headline.append(_keep(best, ranked[1]))
    headline += [f"{item.label}: {item.sentences[0]}" for item in each]
    return Advice(headline, each, pairs, best.label if best else None, target)


def percent(share: float) -> str:
    """Return a share as a percentage with about two digits."""
    value = 100 * share
    return f"{value:.0f} %" if abs(value) >= 10 or abs(value) < 0.05 else f"{value:.1f} %"


def images(count: float) -> str:
    """Return a number of images with two or three digits that mean something."""
    if not np.isfinite(count):
        return "no bound"
    if count < 1000:
        return f"{count:.0f}"
    digits = 10 ** (int(np.floor(np.log10(count))) - 2)
    rounded = round(count / digits) * digits
    return f"{rounded:,.0f}" if count < 1e7 else f"{count:.1e}"


def _keep(best: GroupFit, second: GroupFit) -> str:
    ratio = log_ratio(best, best.largest, second, second.largest)
    lower, low, high = (1 - np.exp(value) for value in (ratio.estimate, ratio.interval[1], ratio.interval[0]))
    here = f"{best.label} ({best.largest:,.0f} images) against {second.label} ({second.largest:,.0f} images)"
    if ratio.sign < 0:
        interval = f"95 % interval {percent(low)} to {percent(high)}"
        return f"Keep {best.label}: its error is {percent(lower)} lower ({interval}), {here}."
    return (
        f"Which of {best.label} and {second.label} is better cannot be told: the error of {best.label} is "
        f"{percent(lower)} lower, with a 95 % interval from {percent(low)} to {percent(high)}."
    )


def _group(item: GroupFit, best: GroupFit | None, target: float | None) -> GroupAdvice:
    law = item.law
    if law is None:
        return GroupAdvice(item.label, UNFITTED, [f"not fitted: {item.reason}."])
    far = FACTOR * item.largest
    change, (down, up) = law.log_ratio(item.largest, far)
    reduction = (float(1 - np.exp(change)), float(1 - np.exp(up)), float(1 - np.exp(down)))
    confidence = law.probability_of_reduction(item.largest, far, WORTHWHILE)
    needed = law.images_needed(target) if target is not None else None
    verdict, why = _verdict(item, best, confidence, needed)
    sentences = [f"{verdict}. {why} {_tenfold(item, reduction, confidence)}"]
    sentences += _gap_sentences(item)
    if needed is not None:
        sentences.append(_needed(needed))
    if item.scratch is not None:
        sentences.append(_scratch(item.scratch))
    if item.hold_out is not None:
        sentences.append(_hold_out(item))
    return GroupAdvice(item.label, verdict, sentences, reduction, confidence, needed)


def _verdict(item: GroupFit, best: GroupFit | None, confidence: float, needed: ImagesNeeded | None) -> tuple[str, str]:
    """Return the verdict and its ground; what the data firmly say comes first."""
    assert item.law is not None
    far = FACTOR * item.largest
    if item.law.freedom < 1:
        return UNCLEAR, f"{len(item.law.cells.n)} points fit any such law exactly; add sizes or pre-training seeds."
    if best is not None and best is not item:
        ahead = log_ratio(item, far, best, best.largest)
        if ahead.sign > 0:
            return DIFFERENT, (
                f"{best.label} is already better with {best.largest:,.0f} images than {item.label} would be "
                f"with {far:,.0f}."
            )
    if item.scratch is not None and item.scratch.low[-1] > 0:
        return DIFFERENT, f"With {item.largest:,.0f} images it is worse than no pre-training (negative transfer)."
    if needed is not None and needed.never >= CONFIDENT:
        return DIFFERENT, (
            f"No number of images reaches an error of {needed.target:g}: with {percent(needed.never)} confidence "
            "the curve stays above it."
        )
    if confidence >= CONFIDENT:
        return MORE, "More images still lower the error."
    if confidence <= 1 - CONFIDENT:
        return DIFFERENT, "More images of this kind change little."
    return UNCLEAR, (
        "The noise leaves both open: more pre-training seeds, or one larger size, would tell whether more images help."
    )


def _tenfold(item: GroupFit, reduction: tuple[float, float, float], confidence: float) -> str:
    assert item.law is not None
    far = FACTOR * item.largest
    now, then = item.law.predict([item.largest, far])
    if item.law.freedom < 1:
        return f"The curve through them goes from {now:.3g} to {then:.3g} at {far:,.0f} images, with no interval."
    return (
        f"{FACTOR:g} times the images ({far:,.0f}) are predicted to take the error from {now:.3g} to {then:.3g}: "
        f"{percent(reduction[0])} lower (95 % interval {percent(reduction[1])} to {percent(reduction[2])}); "
        f"confidence that they lower it by {percent(WORTHWHILE)} or more: {percent(confidence)}."
    )


def _gap_sentences(item: GroupFit) -> list[str]:
    assert item.law is not None
    law, found = item.law, []
    for name, words in (("C", "transfer gap C"), ("alpha", "pre-training rate alpha")):
        if name not in law.form.parameters:
            continue
        reason = law.unidentified(name)
        low, high = law.interval(name)
        if reason is None:
            found.append(f"The {words} is {law.params[name]:.3g} (95 % interval {low:.3g} to {high:.3g}).")
            continue
        if name == "C" and law.at_bound(name):
            best = "best value 0, at its bound"
        elif law.at_bound(name):
            best = "at its bound"
        else:
            best = f"best value {law.params[name]:.3g}"
        limit = f"; it is at most {high:.3g}" if name == "C" and np.isfinite(high) else ""
        found.append(f"The {words} is not identified ({best}): {reason}{limit}.")
    return found


def _needed(needed: ImagesNeeded) -> str:
    start = f"For an error of {needed.target:g}: "
    if not np.isfinite(needed.low):
        return f"{start}never: with {percent(needed.never)} confidence the curve stays above it, however many images."
    never = f"; with {percent(needed.never)} confidence no number of images reaches it" if needed.never > 0.005 else ""
    if not np.isfinite(needed.estimate):
        return f"{start}the best fit never reaches it; at least {images(needed.low)} images{never}."
    high = f"to {images(needed.high)}" if np.isfinite(needed.high) else "upwards, unbounded by the data"
    reach = needed.estimate / needed.largest
    beyond = f" That is {reach:.0f} times the largest size measured: an extrapolation." if reach > FACTOR else ""
    return f"{start}about {images(needed.estimate)} images (95 % interval {images(needed.low)} {high}){never}.{beyond}"


def _scratch(scratch: Scratch) -> str:
    at = f"Without pre-training the error is {scratch.error:.3g}"
    if np.isfinite(scratch.stderr):
        at += f" ± {scratch.stderr:.2g} ({scratch.runs} runs)"
    sizes = ", ".join(f"{size:,.0f}" for size in scratch.harmful)
    if sizes:
        at += f"; negative transfer at n = {sizes}: pre-training there is worse than none"
    start = scratch.helps_from
    if start is not None:
        first = " (the smallest size measured)" if start == scratch.sizes[0] else ""
        return f"{at}; pre-training helps from n = {start:,.0f}{first}."
    if not sizes and len(scratch.above):
        above = ", ".join(f"{size:,.0f}" for size in scratch.above)
        at += f"; measured errors above it (n = {above}) are within the noise"
    low, high = (percent(1 - np.exp(value)) for value in (scratch.high[-1], scratch.low[-1]))
    return (
        f"{at}; at n = {scratch.sizes[-1]:,.0f} the change is {percent(1 - np.exp(scratch.ratio[-1]))} lower "
        f"(95 % interval {low} to {high}), so that pre-training helps is not shown."
    )


def _hold_out(item: GroupFit) -> str:
    held = item.hold_out
    assert held is not None
    inside = "inside" if held.inside else "outside"
    return (
        f"Check: without n = {held.n:,.0f}, the smaller sizes predicted {held.predicted:.3g} there; measured was "
        f"{held.observed:.3g} ({100 * held.off:+.0f} %), {inside} the 95 % prediction interval "
        f"({held.interval[0]:.3g} to {held.interval[1]:.3g}); a power law predicted {held.power:.3g}."
    )
