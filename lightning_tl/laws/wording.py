"""Numbers in sentences: as many digits as mean something, intervals, and what of a fit is said in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lightning_tl.figure_style import number, superscript
from lightning_tl.laws.compare import Comparison, Difference
from lightning_tl.laws.fitted_law import FittedLaw
from lightning_tl.laws.forms import Measured
from lightning_tl.laws.group_fits import GroupFit, HoldOut
from lightning_tl.laws.identification import IDENTIFIED
from lightning_tl.laws.images_needed import ImagesNeeded
from lightning_tl.laws.scratch import Scratch
from lightning_tl.laws.terms import Terms

PLURAL: dict[Measured, str] = {"error": "errors", "loss": "losses"}
_LINES = 10  # of the file that are named for each reason
#: A reach beyond this many times the largest size is called an extrapolation.
FAR = 10.0


def percent(share: float) -> str:
    """Return a share as a percentage with about two digits."""
    value = 100 * share if abs(share) >= 5e-4 else 0.0
    return f"{value:.0f} %" if abs(value) >= 10 or abs(value) < 0.05 else f"{value:.1f} %"


def sure(confidence: float) -> str:
    """Return a confidence as a percentage that never claims certainty."""
    if confidence > 0.99:
        return "over 99 %"
    return "under 1 %" if confidence < 0.01 else percent(confidence)


def signed(change: float) -> str:
    """Return a relative change in whole percent with its sign; one that rounds to nothing has none."""
    rounded = round(100 * change)
    return f"{rounded:+.0f} %" if rounded else "0 %"


def lower_or_higher(log_ratio: float) -> str:
    """Return by how much an error is below or above another, from the log of their ratio."""
    if not np.isfinite(log_ratio):
        return "without bound"
    size = percent(abs(float(np.expm1(log_ratio))))
    return "unchanged" if size == percent(0) else f"{size} {'higher' if log_ratio > 0 else 'lower'}"


def change_interval(low: float, high: float) -> str:
    """Return an interval of such changes, from the logs of its ends; with one word for both where they agree."""
    ends = (high, low) if high < 0 else (low, high)
    texts = [lower_or_higher(end) for end in ends]
    if low * high > 0 and np.isfinite(low * high) and "unchanged" not in texts:
        texts = [text.rpartition(" ")[0] for text in texts]
    return " to ".join(texts)


def images(count: float) -> str:
    """Return an estimated number of images or tokens with three digits: 12,300, 1.23 million, 4.5×10¹⁶."""
    if not np.isfinite(count):
        return "no bound"
    if count < 1000:
        return f"{count:.0f}"
    power = int(np.floor(np.log10(count)))
    digits = 10 ** (power - 2)
    rounded = round(count / digits) * digits
    if rounded >= 1e15:
        return f"{rounded / 10.0**power:.2g}×10{superscript(str(power))}"
    for unit, word in ((10**12, "trillion"), (10**9, "billion"), (10**6, "million")):
        if rounded >= unit:
            return f"{rounded / unit:.3g} {word}" if rounded < 1000 * unit else f"{rounded / unit:,.0f} {word}"
    return f"{rounded:,.0f}"


def a(measured: Measured) -> str:
    """Return what is measured with its article."""
    return f"an {measured}" if measured == "error" else f"a {measured}"


def counted(size: float, terms: Terms) -> str:
    """Return a size in all its digits where images are counted, in three where they are many more, as tokens are."""
    return f"{size:,.0f}" if terms.sizes == "images" else images(size)


def confidence_level(law: FittedLaw) -> str:
    """Return "95 %", or the level asked for."""
    return f"{100 * law.level:g} %"


def up_to(high: float) -> str:
    """Return the upper end of an interval in words."""
    return f"to {number(high)}" if np.isfinite(high) else "upwards"


def gap_sentences(law: FittedLaw, terms: Terms) -> list[str]:
    """Say what C (gamma), E and the exponents are, or that they are not identified and why."""
    sentences = []
    level = confidence_level(law)
    words = {"C": "transfer gap C", "gamma": "transfer gap over D, gamma,", "alpha": "pre-training rate alpha"}
    if terms.by_model:
        words = {"E": "loss E that neither size removes", "b": f"exponent b of the {terms.sizes}"}
        words["a"] = f"exponent a of the {terms.seconds}"
    for name in words:
        if name not in law.form.parameters:
            continue
        reason = law.unidentified(name)
        low, high = law.interval(name)
        if reason is None:
            ends = f"{level} interval {low:.3g} {up_to(high)}"
            if low <= 0 or not np.isfinite(high):  # identified, though not with this much confidence
                lower, upper = law.interval(name, IDENTIFIED)
                ends += f", {percent(IDENTIFIED)} interval {lower:.3g} {up_to(upper)}"
            sentences.append(f"The {words[name]} is {number(law.params[name])} ({ends}).")
            continue
        best = f"best value {number(law.params[name])}"
        if law.at_bound(name):
            best = "best value 0, at its bound" if name in law.form.scales else "at its bound"
        # no error is above 1
        bounded = name in ("gamma", "E") or (name == "C" and (high < 1 or terms.measured == "loss"))
        limit = f"; it is at most {number(high)}" if bounded and np.isfinite(high) else ""
        sentences.append(f"The {words[name]} is not identified ({best}): {reason}{limit}.")
    return sentences


def needed_sentence(needed: ImagesNeeded, law: FittedLaw, terms: Terms, where: str = "", noun: str = "") -> str:
    """Say how many images or tokens reach the target, or that none do.

    Args:
        needed: What was found.
        law: The law.
        terms: What is measured and counted.
        where: What the other size is, after "for an error of …".
        noun: What is counted, where it is not the pre-training size.
    """
    noun = noun or terms.sizes
    start = f"For {a(terms.measured)} of {needed.target:g}{where}: "
    if law.dof < 1:
        curve = "the curve through the points, which has no interval"
        if not np.isfinite(needed.estimate):
            return f"{start}not reached by {curve}."
        return f"{start}about {images(needed.estimate)} {noun} by {curve}."
    if not np.isfinite(needed.low):
        return f"{start}never: with {sure(needed.never)} confidence the curve stays above it, however many {noun}."
    never = f"; with {sure(needed.never)} confidence no number of {noun} reaches it" if needed.never > 0.005 else ""
    if not np.isfinite(needed.estimate):
        return (
            f"{start}the best fit levels off above it; if any number of {noun} reaches it, then more than "
            f"{images(needed.low)} ({confidence_level(law)} interval){never}."
        )
    high = f"to {images(needed.high)}" if np.isfinite(needed.high) else "upwards, unbounded by the data"
    reach = needed.estimate / needed.largest
    beyond = f" That is {images(reach)} times the largest size measured: an extrapolation." if reach > FAR else ""
    interval = f"{confidence_level(law)} interval {images(needed.low)} {high}"
    return f"{start}about {images(needed.estimate)} {noun} ({interval}){never}.{beyond}"


def scratch_sentence(scratch: Scratch, law: FittedLaw, terms: Terms) -> str:
    """Say from which size on pre-training helps; name negative transfer."""
    measured = terms.measured
    at = f"Without pre-training the {measured} is {scratch.error:.3g}"
    if np.isfinite(scratch.stderr):
        at += f" ± {scratch.stderr:.2g} ({scratch.runs} runs)"
    sizes = ", ".join(counted(size, terms) for size in scratch.harmful)
    if sizes:
        at += f"; negative transfer at n = {sizes}: pre-training there is worse than none"
    start = scratch.helps_from
    if start is not None:
        first = " (the smallest size measured)" if start == scratch.sizes[0] else ""
        return f"{at}; pre-training helps from n = {counted(start, terms)}{first}."
    if not sizes and len(scratch.above):
        above = ", ".join(counted(size, terms) for size in scratch.above)
        at += f"; measured {PLURAL[measured]} above it (n = {above}) are within the noise"
    low, high = scratch.low[-1], scratch.high[-1]
    known = np.isfinite(high - low)
    interval = f"{confidence_level(law)} interval {change_interval(low, high)}" if known else "no interval"
    whose = f"the {measured}" if law.dof > 0 else f"the curve through the {PLURAL[measured]}"
    size = counted(scratch.sizes[-1], terms)
    return (
        f"{at}; at n = {size} {whose} with pre-training is {lower_or_higher(scratch.ratio[-1])} "
        f"({interval}): no evidence that pre-training helps."
    )


def left_out_sentence(dropped: Sequence[Mapping[str, Any]]) -> str:
    """Say how many rows were left out, for each reason with their lines; empty where there are none.

    Args:
        dropped: Rows with their ``line`` in the file, the ``reason`` and the ``value``.
    """
    reasons: dict[str, list[Mapping[str, Any]]] = {}
    for row in dropped:
        reasons.setdefault(str(row["reason"]), []).append(row)
    if not reasons:
        return ""
    texts = []
    for reason, rows in reasons.items():
        lines = ", ".join(str(row["line"]) for row in rows[:_LINES]) + (", …" if len(rows) > _LINES else "")
        lines = f"line{'s' * (len(rows) > 1)} {lines}"
        values = dict.fromkeys(f"'{row['value']}'" for row in rows)
        texts.append(f"{len(rows)} as {reason} ({', '.join(list(values)[:3])}; {lines})")
    return f"{len(dropped)} row{'s' * (len(dropped) > 1)} left out: {'; '.join(texts)}."


def hold_out_sentence(item: GroupFit, held: HoldOut) -> str:
    """Say how far off the prediction of the held-out sizes was."""
    law, terms = item.law, item.group.terms
    first, last = (f"{terms.symbol} = {counted(end, terms)}" for end in (held.n.min(), held.n.max()))
    inside = "inside" if held.inside else "outside"
    level = confidence_level(law)
    if len(held.n) == 1:
        power = f"; a power law predicted {held.power[0]:.3g}" if held.power_law else ""
        return (
            f"without {first}, the smaller sizes predicted {held.predicted[0]:.3g} there; measured "
            f"was {held.observed[0]:.3g} ({signed(held.off)}), {inside} the {level} prediction interval "
            f"({held.low[0]:.3g} to {held.high[0]:.3g}){power}."
        )
    power = f" (power law {held.power_rmse:.2g})" if held.power_law else ""
    sizes = f"{len(held.n)} points at {first}"
    if held.n.min() < held.n.max():
        sizes = f"{len(held.n)} points from {first} to {last.removeprefix(f'{terms.symbol} = ')}"
    count = int(np.sum((held.low <= held.observed) & (held.observed <= held.high)))
    return (
        f"{sizes} were predicted from the smaller sizes with an RMSE of {held.rmse:.2g}{power}; "
        f"{count} of {len(held.n)} lie inside prediction intervals that hold all of them with {level}."
    )


def comparison_sentence(pair: Comparison, terms: Terms) -> str:
    """Say by how much two groups differ, with intervals."""

    def with_interval(difference: Difference) -> str:
        low, high = difference.interval
        if not np.isfinite(high - low):
            return "not bounded by the data"
        return f"{difference.estimate:+.3g} ({low:+.3g} to {high:+.3g})"

    ratio = pair.log_ratio
    low, high = ratio.interval
    text = f"{pair.first} against {pair.second} at {terms.symbol} = {counted(pair.n, terms)}: "
    text += f"{terms.measured} {lower_or_higher(ratio.estimate)} "
    text += f"({change_interval(low, high)})" if np.isfinite(high - low) else "(no interval)"
    for name, difference in (("alpha", pair.alpha), ("C", pair.gap)):
        if difference is not None:
            text += f"; difference of {name} {with_interval(difference)}"
    text += f"; paired over {pair.paired} draws" if pair.paired else ""
    if pair.same_images:
        text += "; paired by test image"
        if pair.wider_unpaired > 1.005:
            text += f" (unpaired, the interval would be {percent(pair.wider_unpaired - 1)} wider)"
    return f"{text}."
