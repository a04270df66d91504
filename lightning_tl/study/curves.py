"""A study's pre-trainings as candidates of curves: error against size, one curve per series of pre-trainings."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lightning_tl.errors import UserError
from lightning_tl.laws.candidates import Candidate, group_without_runs
from lightning_tl.laws.fitting import LEAST_ERROR
from lightning_tl.laws.results_table import Group
from lightning_tl.laws.stopping import LEAST_RUNS
from lightning_tl.study.expansion import Expansion
from lightning_tl.study.grid import Point, label
from lightning_tl.study.plan_items import Run
from lightning_tl.study.records import fingerprint
from lightning_tl.study.until import DRAWS, Until

_ERROR = "test/error"
#: Axes of pre-training that only repeat it.
_REPEATS = ("seed_everything", "data.seed")


@dataclass(frozen=True)
class Curves:
    """The pre-trainings of a study that is run in steps.

    Attributes:
        until: When it ends.
        expansion: All of it.
        labels: The curves: the axes of pre-training without n and seeds.
        candidates: One per pre-training, in the order of the expansion.
    """

    until: Until
    expansion: Expansion
    labels: tuple[str, ...]
    candidates: tuple[Candidate, ...]

    @property
    def largest(self) -> float:
        """Largest size, in images."""
        return max(item.n for item in self.candidates)

    @property
    def settings(self) -> str:
        """Hash of all that a look goes by, besides the runs."""
        return fingerprint([vars(self.until), [vars(item) for item in self.candidates]])

    def part(self, begun: Collection[Candidate]) -> Expansion:
        """Return the expansion with only these pre-trainings, and all runs from scratch."""
        kept = [number for number, item in enumerate(self.candidates) if item in begun]
        places = {number: place for place, number in enumerate(kept)}
        finetune = tuple((places[number], point) for number, point in self.expansion.finetune if number in places)
        pretrain = tuple(self.expansion.pretrain[number] for number in kept)
        return replace(self.expansion, pretrain=pretrain, finetune=finetune)

    def groups(self, runs: Sequence[Run], records: Mapping[str, Mapping[str, Any]]) -> list[Group]:
        """Return the curves with their finished fine-tunings; a curve without any has no rows.

        Args:
            runs: Of the study, as far as it has begun.
            records: Of the finished ones.

        Raises:
            UserError: A fine-tuning logged no test error.
        """
        place = {repr(point.point): item for point, item in zip(self.expansion.pretrain, self.candidates, strict=True)}
        started = {run.name: place[repr(run.point)] for run in runs if run.stage == "pretrain"}
        rows: dict[str, list[dict[str, Any]]] = {name: [] for name in self.labels}
        scratch: dict[str, list[dict[str, Any]]] = {name: [] for name in self.labels}
        for run in runs:
            if run.stage != "finetune" or run.name not in records:
                continue
            metrics = records[run.name]["metrics"]
            if _ERROR not in metrics:
                raise UserError(f"until: a study in steps goes by {_ERROR}, which run {run.name} did not log")
            if not LEAST_ERROR <= metrics[_ERROR] <= 1:  # as in the law, which takes its logarithm
                continue
            row = {"error": metrics[_ERROR], "run_id": run.name, "draw": label(_only(run.point, DRAWS))}
            if run.start is None:
                for name, shared in self._shared().items():
                    if all(run.point.get(key) == value for key, value in shared.items()):
                        scratch[name].append({"n": 0.0, **row})
            else:
                start = started[run.start]
                rows[start.group].append({"n": start.n, "pretrain": start.seed, **row})
        return [_group(name, rows[name], scratch[name]) for name in self.labels]

    def _shared(self) -> dict[str, Point]:
        """Return, for each curve, the keys in which fine-tunings must agree with it, and their values."""
        same = self.expansion.study.finetune.same
        return {
            item.group: {key: planned.own[key] for key in same}
            for item, planned in zip(self.candidates, self.expansion.pretrain, strict=True)
        }


def curves_of(expansion: Expansion) -> Curves:
    """Return the curves of a study with ``until``.

    Raises:
        UserError: A pre-training has no size or no fine-tuning, two are the same, or there are too few of them, or too
            small a budget, for any decision.
    """
    until = expansion.study.until
    if until is None:
        raise ValueError("the study has no until")
    settings = expansion.study.pretrain
    candidates = []
    for planned in expansion.pretrain:
        size = None if settings is None else settings.overrides(planned.own).get("data.n")
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise UserError(
                f"until: data.n of a pre-training is {size!r}; give sizes as an axis, pretrain.product: "
                "{data.n: [64, 128, …]}, or one under pretrain.set"
            )
        candidates.append(candidate(planned.point | {"data.n": size}))
    tuned = {number for number, _ in expansion.finetune}
    for number, item in enumerate(candidates):
        if number not in tuned:
            raise UserError(f"until: the pre-training {item.group}, n = {item.n:,.0f} has no fine-tuning: exclude it")
        if item in candidates[:number]:
            raise UserError(f"until: two pre-trainings are both {item.group}, n = {item.n:,.0f}, seed {item.seed}")
    curves = Curves(until, expansion, tuple(dict.fromkeys(item.group for item in candidates)), tuple(candidates))
    _check_reach(curves)
    return curves


def candidate(point: Point) -> Candidate:
    """Return the candidate of a pre-training's axes, with ``render``."""
    series = {key: value for key, value in point.items() if key not in (*_REPEATS, "data.n")}
    seeds = [str(value) for value in _only(point, _REPEATS).values()] or ["0"]
    return Candidate(
        label(series) or "pretrained", point["data.n"], "-".join(seeds if len(set(seeds)) > 1 else seeds[:1])
    )


def _check_reach(curves: Curves) -> None:
    until = curves.until
    for name in curves.labels:
        sizes = len({item.n for item in curves.candidates if item.group == name})
        if sizes < until.least_sizes:
            raise UserError(f"until: least_sizes is {until.least_sizes}, and {name} has {sizes}; add values to data.n")
    if until.budget is not None:
        cheapest = min(until.costs().of(item, 0.0) for item in curves.candidates)
        if cheapest > until.budget:
            raise UserError(
                f"until: budget is {until.budget:g}, and the cheapest pre-training costs {cheapest:g}; raise it"
            )
    if until.question == "best":
        if len(curves.labels) < 2:
            raise UserError("until: best compares curves, and there is one; vary the rendering or the pre-training")
        return
    least = LEAST_RUNS * len(curves.labels)
    if until.max_runs is not None and until.max_runs < least:
        raise UserError(
            f"until: max_runs is {until.max_runs}, and {until.question} is not decided for {len(curves.labels)} "
            f"curve{'s' * (len(curves.labels) > 1)} with fewer than {least} pre-trainings, {LEAST_RUNS} each"
        )
    for name in curves.labels:
        own = sum(item.group == name for item in curves.candidates)
        if own < LEAST_RUNS:
            raise UserError(
                f"until: {name} has {own} pre-training{'s' * (own > 1)}, and {until.question} is not decided with "
                f"fewer than {LEAST_RUNS}; give it more sizes or seeds"
            )


def _only(point: Point, keys: Collection[str]) -> Point:
    return {key: value for key, value in point.items() if key in keys}


def _group(name: str, rows: list[dict[str, Any]], scratch: list[dict[str, Any]]) -> Group:
    import pandas as pd

    without = pd.DataFrame(scratch, columns=["n", "error", "draw", "run_id"])
    if not rows:
        return group_without_runs(name, without)
    return Group(name, {}, pd.DataFrame(rows, columns=["n", "error", "pretrain", "draw", "run_id"]), without)
