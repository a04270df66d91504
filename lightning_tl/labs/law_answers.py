"""What `lightning-tl law` answers about simulated worlds, beside the truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from lightning_tl.labs.law_tables import Kind, World, draw_world, table, truth

if TYPE_CHECKING:
    from lightning_tl.labs.outcome import Array
    from lightning_tl.laws.advice import GroupAdvice
    from lightning_tl.laws.group_fits import GroupFit
    from lightning_tl.laws.images_needed import ImagesNeeded

Call = Literal["right", "wrong", "open"]
#: Intervals of predictions are looked at here, in units of the largest size measured.
BEYOND = 4.0
#: Names of the intervals that every kind has.
AT_LARGEST, AT_BEYOND, NEW_RUN, NEEDED = "error at the largest size", "error at 4 times it", "a run there", "images"
#: Names of the warnings.
MISSED, RISES, NO_GAP, FAR = "held-out size is missed", "error rises", "C is not identified", "extrapolation"
#: Worlds whose confidence regions are in memory at once.
_AT_ONCE = 64


@dataclass(frozen=True)
class Answer:
    """What is said of one world.

    Attributes:
        inside: Interval → whether it holds the truth.
        verdict: Whether "render more" or "render differently" is right, for ten times the images.
        reached: Whether it is right that some number of images reaches the error asked for, or that none does.
        warnings: Which are given.
    """

    inside: dict[str, bool]
    verdict: Call
    reached: Call
    warnings: frozenset[str]


def answers(
    kind: Kind, count: int, rng: np.random.Generator, sizes: Array, noise: float, draw_noise: float
) -> list[Answer]:
    """Draw worlds of a kind, and let the library answer as its command does.

    Args:
        kind: Of the worlds.
        count: How many.
        rng: Source of randomness.
        sizes: Pre-training sizes measured, shape (m,).
        noise: Standard deviation of a run's log error.
        draw_noise: That of the luck of a draw, where draws are shared.
    """
    from lightning_tl.laws.advice import advise
    from lightning_tl.laws.fitted_law import WIDE, prepare_regions
    from lightning_tl.laws.group_fits import analyse, fitted
    from lightning_tl.laws.law_options import LawOptions
    from lightning_tl.laws.results_table import groups

    worlds = [draw_world(kind, rng, float(sizes[-1])) for _ in range(count)]
    results = table(kind, worlds, rng, sizes, noise, draw_noise)
    options = LawOptions(by="world", target_size="finetune_images" if kind.full else None)
    fits = fitted(analyse(groups(results, options.columns()), options.law_form(), options.method()))
    spread = noise if kind.draws == 1 else float(np.hypot(noise, draw_noise))
    found = []
    for start in range(0, count, _AT_ONCE):
        chunk = slice(start, start + _AT_ONCE)
        prepare_regions((item.law, level) for item in fits[chunk] for level in (item.law.level, WIDE))
        for item, world in zip(fits[chunk], worlds[chunk], strict=True):
            advice = advise([item], world.target).groups[0]
            new = float(np.exp(spread * rng.standard_normal()))  # the luck of a run at BEYOND times the largest size
            found.append(_answer(kind, world, item, advice, new))
            item.law.forget_regions()
    return found


def _answer(kind: Kind, world: World, item: GroupFit, advice: GroupAdvice, new: float) -> Answer:
    needed = advice.images_needed
    assert needed is not None  # a target is always given
    said = " ".join(advice.sentences)
    given = {
        MISSED: item.hold_out is not None and not item.hold_out.inside,
        RISES: any("error rises" in note for note in item.notes),
        NO_GAP: any(item.law.unidentified(name) for name in ("C", "gamma") if name in item.law.form.parameters),
        FAR: "an extrapolation" in said,
    }
    return Answer(
        inside=_inside(kind, world, item, needed, new),
        verdict=_verdict(world, item, advice),
        reached=_reached(world, needed),
        warnings=frozenset(name for name, there in given.items() if there),
    )


def _inside(kind: Kind, world: World, item: GroupFit, needed: ImagesNeeded, new: float) -> dict[str, bool]:
    law, far = item.law, BEYOND * item.largest
    found = {}
    for name, value in truth(kind, world).items():
        low, high = law.interval(name)
        found[name] = low <= value <= high
    mean = world.curve(np.array([item.largest, far]))
    low, high = (ends.tolist() for ends in law.band([item.largest, far], item.s))
    found[AT_LARGEST], found[AT_BEYOND] = (low[i] <= mean[i] <= high[i] for i in (0, 1))
    (first,), (last,) = law.predict_interval([far], item.s)
    found[NEW_RUN] = first <= mean[1] * new <= last
    found[NEEDED] = needed.low <= world.needed <= needed.high
    return {name: bool(inside) for name, inside in found.items()}


def _verdict(world: World, item: GroupFit, advice: GroupAdvice) -> Call:
    """Judge what is said of ten times the images, which is the verdict of a table without a target."""
    from lightning_tl.laws.advice import CONFIDENT
    from lightning_tl.laws.group_fits import FACTOR
    from lightning_tl.laws.terms import Terms

    assert advice.confidence is not None
    near, far = world.curve(np.array([item.largest, FACTOR * item.largest]))
    more = far <= (1 - Terms().worthwhile) * near
    if 1 - CONFIDENT < advice.confidence < CONFIDENT:
        return "open"
    return "right" if (advice.confidence >= CONFIDENT) == more else "wrong"


def _reached(world: World, needed: ImagesNeeded) -> Call:
    from lightning_tl.laws.advice import CONFIDENT

    if 1 - CONFIDENT < needed.never < CONFIDENT:
        return "open"
    return "right" if (needed.never >= CONFIDENT) == bool(np.isinf(world.needed)) else "wrong"
