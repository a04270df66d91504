"""Runs that could be done next, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lightning_tl.errors import UserError, nearest
from lightning_tl.laws.posterior import Points
from lightning_tl.laws.results_table import Group

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Candidate:
    """A run that could be done.

    Attributes:
        group: Label of its group.
        n: Pre-training size in images; 0: a run without pre-training, which only ``negative`` takes into account.
        seed: Label of its pre-training run: a new one, or with ``draw`` one that is done.
        draw: Label of a draw of fine-tuning data: only a fine-tuning, of a pre-training run that is done; without
            pre-training, its draw.
    """

    group: str
    n: float
    seed: str = "0"
    draw: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", float(self.n))


@dataclass(frozen=True)
class Costs:
    """What runs cost, in any unit.

    Attributes:
        per_image: One rendered image. A larger set contains the smaller ones, so only images beyond a group's largest
            set are paid for.
        per_run: One pre-training run with its fine-tunings.
        per_draw: One more fine-tuning of a pre-training run that is done; ``None``: as much as ``per_run``.
        budget: What is left to spend; ``None``: without limit.
    """

    per_image: float = 0.0
    per_run: float = 1.0
    per_draw: float | None = None
    budget: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not (np.isfinite(value) and value >= 0):
                raise UserError(f"{name.replace('_', ' ')} is {value:g}; a cost is a number from 0 on")
        if not self.per_run or self.per_draw == 0:
            raise UserError("cost per run or per draw is 0; every run costs something: give it in the unit of an image")

    def of(self, candidate: Candidate, largest: float) -> float:
        """Return the cost of a run in a group whose largest set has so many images."""
        if candidate.draw is not None or candidate.n == 0:
            return self.per_run if self.per_draw is None else self.per_draw
        return self.per_run + self.per_image * max(candidate.n - largest, 0.0)


def default_candidates(groups: Sequence[Group], sizes: Sequence[float] = (), repeats: int = 8) -> list[Candidate]:
    """Return the runs that are open where nobody says which.

    For each group: its sizes, or those given, with new seeds; for each pre-training run one more draw of shots, where
    the table names seeds and draws; and runs without pre-training, where it has some.

    Args:
        groups: The groups of a table.
        sizes: Sizes in images; none: the sizes in the table, with the doublings between them, and twice the largest.
        repeats: New seeds at each size.

    Raises:
        UserError: A size is not over 0.
    """
    for size in sizes:
        if not (np.isfinite(size) and size > 0):
            raise UserError(f"candidate size {size:g} is not a number of images over 0")
    measured = sorted({float(n) for group in groups for n in group.runs["n"]})
    if not sizes and not measured:
        raise UserError("there is no run with pre-training yet: name the sizes that may be run (--candidates)")
    chosen = sorted(set(map(float, sizes))) or _doublings(measured)
    result = []
    for group in groups:
        seeds, draws = group.labels("pretrain"), group.labels("draw")
        taken = set(seeds or ())
        numbers = [int(seed) for seed in taken if seed.isdecimal()]
        first = max(numbers, default=-1) + 1
        for size in chosen:
            used = {seed for n, seed in zip(group.runs["n"], seeds or (), strict=False) if n == size}
            known = [seed for seed in sorted(taken) if seed not in used]
            new = [*known, *(str(first + i) for i in range(repeats))][:repeats]
            result += [Candidate(group.label, size, seed) for seed in new]
        if seeds and draws:
            result += _more_draws(group, seeds, draws)
        if not group.scratch.empty:
            every = [*(draws or ()), *_scratch_draws(group)]
            unused = 1 + max((int(draw) for draw in every if draw.isdecimal()), default=-1)
            result += [Candidate(group.label, 0.0, "", str(unused + i)) for i in range(repeats)]
    return result


def _scratch_draws(group: Group) -> list[str]:
    return [str(draw) for draw in group.scratch["draw"]] if "draw" in group.scratch else []


def _doublings(sizes: Sequence[float]) -> list[float]:
    """Return the sizes measured, the smallest times powers of two between them, and twice the largest."""
    low, high = sizes[0], sizes[-1]
    steps = [low * 2.0**i for i in range(1, int(np.ceil(np.log2(high / low))))] if high > low else []
    far = [step for step in steps if all(abs(np.log2(step / size)) > 0.4 for size in sizes)]
    return sorted({*sizes, *far, 2 * high})


def _more_draws(group: Group, seeds: Sequence[str], draws: Sequence[str]) -> list[Candidate]:
    """Return for each pre-training run a draw that it was not fine-tuned on: one of other runs', else a new one."""
    every = sorted(set(draws))
    new = str(max([int(draw) for draw in every if draw.isdecimal()], default=-1) + 1)
    result = []
    done: dict[tuple[float, str], set[str]] = {}
    for n, seed, draw in zip(group.runs["n"], seeds, draws, strict=True):
        done.setdefault((float(n), seed), set()).add(draw)
    for (n, seed), used in done.items():
        result.append(Candidate(group.label, n, seed, next((draw for draw in every if draw not in used), new)))
    return result


def group_without_runs(label: str, scratch: pd.DataFrame | None = None) -> Group:
    """Return a group of which nothing has been pre-trained yet, so that its first run can be proposed."""
    import pandas as pd

    none = pd.DataFrame({"n": np.zeros(0), "error": np.zeros(0)})
    return Group(label, {}, none, none if scratch is None else scratch)


def open_candidates(candidates: Sequence[Candidate], groups: Sequence[Group]) -> list[Candidate]:
    """Return the candidates that are not in the table yet.

    Raises:
        UserError: A candidate's group is not in the table, its size is negative, or it is a fine-tuning of a
            pre-training run that is not done.
    """
    done: dict[str, set[tuple[float, str]]] = {}
    fine_tuned: dict[str, set[tuple[float, str, str]]] = {}
    for group in groups:
        seeds = group.labels("pretrain") or [""] * len(group.runs)
        draws = group.labels("draw") or [""] * len(group.runs)
        rows = list(zip(map(float, group.runs["n"]), seeds, draws, strict=True))
        done[group.label] = {(n, seed) for n, seed, _ in rows}
        fine_tuned[group.label] = {*rows, *((0.0, "", draw) for draw in _scratch_draws(group))}
    result = []
    for item in candidates:
        if item.group not in done:
            raise UserError(f"candidate group '{item.group}' is not in the table{nearest(item.group, done)}")
        if not (np.isfinite(item.n) and item.n >= 0):
            raise UserError(f"candidate size {item.n:g} is not a number of images from 0 on")
        if item.n == 0:
            result += [] if (0.0, "", item.draw) in fine_tuned[item.group] else [item]
            continue
        known = (float(item.n), item.seed) in done[item.group]
        if item.draw is None:
            result += [] if known else [item]
            continue
        if not known:
            raise UserError(
                f"candidate draw '{item.draw}' of {item.group} at n = {item.n:,.0f} needs the pre-training with seed "
                f"'{item.seed}', which is not in the table; leave the draw out to propose that pre-training"
            )
        result += [] if (float(item.n), item.seed, item.draw) in fine_tuned[item.group] else [item]
    return result


def place_of(candidate: Candidate, points: Points) -> int:
    """Return which of a group's points is the pre-training run of a candidate draw."""
    same = np.flatnonzero(points.n == candidate.n)
    named = [int(i) for i in same if points.seeds and points.seeds[i] == candidate.seed]
    return named[0] if named else int(same[0])
