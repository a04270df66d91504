"""A quantity over pre-training budgets: its level at each, and whether it falls and then rises.

The unit is a pre-training; its fine-tunings on the same draws of images are repeats of it. A value is modelled as

    budget + seed + draw + (budget × seed) + (budget × draw) + rest,

on the logarithm for losses, distances and traces. The luck that a seed or a draw brings to all budgets alike cancels
between budgets and is taken out. The rest is a two-way analysis of variance: a budget's mean has the variance
MS(budget × seed) / seeds + MS(budget × draw) / draws, pooled over budgets, with Satterthwaite's degrees of freedom; it
counts the rest twice and so is rather too wide. With one seed it covers only the draws, and the other way round.

A curve rises where the largest studentised increase, over all pairs of budgets in order, is beyond what a flat curve
gives: of all curves that never rise the flat one gives the largest increases, so the test holds for each of them. It
falls likewise. It is U-shaped where it falls to some budget and rises from the same one, both beyond that limit. Where
a rise and a fall both hold, it is U-shaped too if the fall comes first, else an inverted U.

Two places are given. The *inflection point* is that of Springer et al. 2025, Def. 4.2: the smallest budget r after
which the next larger budget is worse, L(A(θ_r)) < L(A(θ_r+1)). With noise any curve has such a budget, so the increase
between the two neighbours must be beyond what flat curves give for the largest of such increases. The *vertex* is the
minimum of the parabola in the logarithm of the budget through the lowest mean and its neighbours: an estimate of where
the curve is lowest, of which Def. 4.2 says nothing. Its interval comes from the same for means drawn around those
measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy.stats import t as student

Array = np.ndarray

LEAST_BUDGETS = 3
_SIMULATED = 20_000
_DRAWN = 4_000

VERDICTS = {
    "u": "falls, then rises",
    "rises": "rises",
    "falls": "falls",
    "inverted": "rises, then falls",
    "flat": "no rise or fall detected",
    "single": "single runs, so no interval",
}


@dataclass(frozen=True)
class Levels:
    """Means by budget ``[K]``, the standard error that each has against the others, and its degrees of freedom."""

    mean: Array
    stderr: float
    dof: float


@dataclass(frozen=True)
class Curve:
    """A quantity over budgets.

    Attributes:
        quantity: What it is.
        by: ``gamma`` or ``lr``; empty where it is neither.
        value: Of γ or of the learning rate, or None.
        budgets: Steps, ascending.
        mean: By budget; geometric where ``log``.
        low: Lower ends of the intervals by budget, for comparing budgets (luck that all share is left out).
        high: Upper ends.
        log: Whether all is done on logarithms.
        seeds: Pre-trainings per budget.
        draws: Draws of fine-tuning images.
        p_rise: Of a flat or falling curve, to show so large a rise.
        p_fall: Of a flat or rising curve, to show so large a fall.
        p_u: Of a curve that is not U-shaped, to show such a fall and rise.
        p_step: By pair of neighbouring budgets, of a curve that never rises: to show so large an increase anywhere.
        verdict: A key of ``VERDICTS``.
        inflection: The inflection point of Def. 4.2 (steps): the budget before the first increase between neighbours
            that is significant; NaN where none is.
        vertex: Where a parabola has its minimum (steps); the first or last budget where the lowest mean is there.
        vertex_interval: Of it, cut at the ends.
        inside: Share of the drawn curves whose minimum is neither at the first nor at the last budget. A flat curve of
            K budgets has about (K − 2)/K: the verdict comes from ``p_u``.
        rise: From the lowest mean to the last budget: factor where ``log``, else difference.
        rise_interval: Of it, for all pairs of budgets together.
    """

    quantity: str
    by: str
    value: float | None
    budgets: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    log: bool
    seeds: int
    draws: int
    p_rise: float
    p_fall: float
    p_u: float
    p_step: tuple[float, ...]
    verdict: str
    inflection: float
    vertex: float
    vertex_interval: tuple[float, float]
    inside: float
    rise: float
    rise_interval: tuple[float, float]


def levels(values: Array) -> Levels:
    """Return means by budget and their common standard error.

    Args:
        values: ``[budgets, seeds, draws]``, complete.
    """
    budgets, *repeats = values.shape
    parts = []
    for axis, count in ((1, repeats[0]), (2, repeats[1])):
        if count < 2:
            continue
        cell = values.mean(axis=3 - axis)
        rest = cell - cell.mean(axis=1, keepdims=True) - cell.mean(axis=0) + cell.mean()
        dof = (budgets - 1) * (count - 1)
        parts.append((float((rest**2).sum()) / dof / count, dof))
    variance = sum(part for part, _ in parts)
    mean = values.mean(axis=(1, 2))
    if not parts:
        return Levels(mean, float("nan"), 0.0)
    floor = (1e-9 * (1 + float(np.abs(values).max()))) ** 2  # runs that agree to the bit
    dof = variance**2 / sum(part**2 / own for part, own in parts) if variance > 0 else float(parts[0][1])
    return Levels(mean, float(np.sqrt(max(variance, floor))), dof)


def draw_means(by_budget: Levels, count: int = _DRAWN, seed: int = 0) -> Array:
    """Return means drawn around those measured, by Student's t with a common scale: ``[count, budgets]``."""
    rng = np.random.default_rng(seed)
    scale = np.sqrt(by_budget.dof / rng.chisquare(by_budget.dof, (count, 1)))
    return by_budget.mean + by_budget.stderr * scale * rng.standard_normal((count, len(by_budget.mean)))


def curve(
    quantity: str,
    budgets: Sequence[int],
    values: Array,
    by: str = "",
    value: float | None = None,
    log: bool = True,
    level: float = 0.95,
    seed: int = 0,
) -> Curve:
    """Return a quantity's curve over budgets, with its tests; the verdict is that of this curve by itself.

    Args:
        quantity: Its name.
        budgets: Steps, ascending, ``[K]``.
        values: ``[K, seeds, draws]``, complete; positive for ``log``.
        by: ``gamma``, ``lr`` or empty.
        value: Of it.
        log: Analyse logarithms.
        level: Of intervals and verdict.
        seed: Of the simulations.
    """
    by_budget = levels(np.log(values) if log else values)
    steps = np.log(np.array(budgets, float))
    back = np.exp if log else np.asarray
    lowest = int(np.argmin(by_budget.mean))
    rise = float(by_budget.mean[-1] - by_budget.mean[lowest])
    single = not np.isfinite(by_budget.stderr)
    half = np.nan if single else float(student.ppf(0.5 + level / 2, by_budget.dof)) * by_budget.stderr
    p_rise = p_fall = p_u = inside = limit = float("nan")
    p_step = (float("nan"),) * (len(budgets) - 1)
    ends = (float("nan"), float("nan"))
    if not single:
        null, null_step = _flat(len(budgets), round(by_budget.dof, 1), seed)
        p_rise, p_fall, p_u = (p_value(null, size) for size in largest_changes(by_budget))
        p_step = tuple(p_value(null_step, size) for size in np.diff(by_budget.mean) / (by_budget.stderr * 2**0.5))
        limit = float(np.quantile(null, 0.5 + level / 2)) * by_budget.stderr * 2**0.5
        minima = minimum(steps, draw_means(by_budget, seed=seed))
        inside = float(np.mean((minima > steps[0]) & (minima < steps[-1])))
        low, high = np.exp(np.quantile(minima, [0.5 - level / 2, 0.5 + level / 2]))
        ends = (float(low), float(high))
    result = Curve(
        quantity,
        by,
        value,
        tuple(int(budget) for budget in budgets),
        tuple(map(float, back(by_budget.mean))),
        tuple(map(float, back(by_budget.mean - half))),
        tuple(map(float, back(by_budget.mean + half))),
        log,
        values.shape[1],
        values.shape[2],
        p_rise,
        p_fall,
        p_u,
        p_step,
        "single",
        float("nan"),
        float(np.exp(minimum(steps, by_budget.mean[None])[0])),
        ends,
        inside,
        float(back(rise)),
        (float(back(rise - limit)), float(back(rise + limit))),
    )
    return judged([result], level)[0]


def judged(family: Sequence[Curve], level: float = 0.95) -> list[Curve]:
    """Return curves with verdicts and inflection points that hold for all of them together (Holm's correction)."""
    tested = [item for item in family if np.isfinite(item.p_rise)]
    share = (1 - level) / 2  # rises and falls are claims of one side each
    rises, falls, turns, steps = (
        _holm(values, share)
        for values in (
            [item.p_rise for item in tested],
            [item.p_fall for item in tested],
            [item.p_u for item in tested],
            [min(item.p_step) for item in tested],
        )
    )
    result = {id(item): item for item in family}
    for item, up, down, turn, step in zip(tested, rises, falls, turns, steps, strict=True):
        both = "u" if _falls_first(item) else "inverted"
        verdict = "u" if turn else both if up and down else "rises" if up else "falls" if down else "flat"
        first = [budget for budget, p in zip(item.budgets, item.p_step, strict=False) if p <= step]
        result[id(item)] = replace(item, verdict=verdict, inflection=float(first[0]) if first else float("nan"))
    return [result[id(item)] for item in family]


def _falls_first(item: Curve) -> bool:
    """Tell which is larger: a fall before a rise, or a rise before a fall."""
    mean = np.log(item.mean) if item.log else np.array(item.mean)
    return largest_changes(Levels(mean, 1.0, 0.0))[2] >= largest_changes(Levels(-mean, 1.0, 0.0))[2]


def minimum(steps: Array, means: Array) -> Array:
    """Return where curves are lowest.

    Args:
        steps: Logarithms of the budgets ``[K]``.
        means: ``[N, K]``.

    Returns:
        ``[N]``: the vertex of the parabola through the lowest mean and its neighbours; an end where that is lowest.
    """
    at = np.argmin(means, axis=1)
    middle = np.clip(at, 1, len(steps) - 2)
    rows = np.arange(len(means))
    x0, x1, x2 = steps[middle - 1], steps[middle], steps[middle + 1]
    y0, y1, y2 = means[rows, middle - 1], means[rows, middle], means[rows, middle + 1]
    left, right = (y1 - y0) / (x1 - x0), (y2 - y1) / (x2 - x1)
    bend = (right - left) / (x2 - x0)
    with np.errstate(divide="ignore", invalid="ignore"):
        vertex = (x0 + x1) / 2 - left / (2 * bend)
    vertex = np.where(np.isfinite(vertex), np.clip(vertex, x0, x2), x1)
    lowest: Array = np.where((at > 0) & (at < len(steps) - 1), vertex, steps[at])
    return lowest


def largest_changes(by_budget: Levels) -> tuple[float, float, float]:
    """Return the largest rise, the largest fall, and the best of falls before rises, in errors of a difference."""
    count = len(by_budget.mean)
    steps = (by_budget.mean[None, :] - by_budget.mean[:, None]) / (by_budget.stderr * 2**0.5)  # [from, to]
    up = np.array([max([steps[j, k] for k in range(j + 1, count)], default=-np.inf) for j in range(count)])
    down = np.array([max([-steps[i, j] for i in range(j)], default=-np.inf) for j in range(count)])
    return float(up.max()), float(down.max()), float(np.minimum(up, down).max())


@lru_cache(maxsize=256)
def _flat(budgets: int, dof: float, seed: int) -> tuple[Array, Array]:
    """Return what flat curves give: the largest studentised increase of each, and that between neighbours."""
    rng = np.random.default_rng(seed + 1)
    means = rng.standard_normal((_SIMULATED, budgets))
    scale = np.sqrt(rng.chisquare(dof, _SIMULATED) / dof) * 2**0.5
    lowest = np.minimum.accumulate(means[:, :-1], axis=1)
    return (means[:, 1:] - lowest).max(axis=1) / scale, np.diff(means, axis=1).max(axis=1) / scale


def p_value(null: Array, size: float) -> float:
    """Return how often simulated sizes reach a measured one."""
    return float((1 + np.sum(null >= size)) / (1 + len(null)))


def _holm(values: Sequence[float], share: float) -> list[float]:
    """Return by value the limit at which Holm's procedure rejects it; 0 where it does not."""
    limits = [0.0] * len(values)
    for rank, index in enumerate(np.argsort(values)):
        limit = share / (len(values) - rank)
        if values[index] > limit:
            break
        limits[int(index)] = limit
    return limits
