"""The steps of a study with ``until``: a look at the results, then the pre-trainings that are begun after it.

A step depends on the steps before it and on the results of what they began, and on nothing else. So the same results
give the same steps, also where ``study.json``, which keeps them, was lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import log
from typing import Any

from lightning_tl.laws.candidates import Candidate
from lightning_tl.laws.next_output import asked
from lightning_tl.laws.next_runs import Plan, next_runs
from lightning_tl.laws.results_table import Group
from lightning_tl.laws.stopping import Look
from lightning_tl.study.curves import Curves
from lightning_tl.study.plan import content_key, trial_starts
from lightning_tl.study.records import fingerprint

#: One step, of the shape :class:`.shapes.Step`.
Step = dict[str, Any]


def head(curves: Curves) -> dict[str, Any]:
    """Return what ``study.json`` says once for all steps."""
    return {"content": content_key(curves.expansion), "asked": asked(curves.until.asked(curves.largest))}


def taken(facts: Mapping[str, Any], curves: Curves) -> list[Step]:
    """Return the steps that a ``study.json`` records; none where runs are configured otherwise now."""
    kept = facts.get("steps") or {}
    return list(kept.get("taken", [])) if kept.get("content") == content_key(curves.expansion) else []


def begun(steps: Sequence[Step], curves: Curves) -> list[Candidate]:
    """Return the pre-trainings that steps began, in order; those that the study no longer has are left out."""
    named = [Candidate(item["group"], item["n"], item["seed"]) for step in steps for item in step["batch"]]
    return [item for item in dict.fromkeys(named) if item in curves.candidates]


def is_final(steps: Sequence[Step], curves: Curves) -> bool:
    """Return whether the last step ends the study as it is asked for now."""
    return bool(steps) and bool(steps[-1]["done"]) and steps[-1]["settings"] == curves.settings


def cost(runs: Sequence[Candidate], curves: Curves) -> float:
    """Return what pre-trainings and their images cost, done in this order."""
    costs, largest, total = curves.until.costs(), dict[str, float](), 0.0
    for item in runs:
        total += costs.of(item, largest.get(item.group, 0.0))
        largest[item.group] = max(largest.get(item.group, 0.0), item.n)
    return total


def opening(curves: Curves) -> Step | None:
    """Return the step before the first look, where there must be one; else None.

    To choose a value, each series needs the pre-training that its trial runs start from. Whether pre-training is worse
    than none is asked of runs without pre-training, which are done first.
    """
    study = curves.expansion.study
    if study.choose is None and curves.until.question != "negative_transfer":
        return None
    starts = [curves.candidates[number] for number in trial_starts(curves.expansion)] if study.choose else []
    why = f"Trial runs start from it, by which {study.choose.key} is chosen." if study.choose else ""
    return _step(curves, [], [{**_named(item), "kind": "size", "why": why} for item in starts], 0, 0.0)


def next_step(curves: Curves, steps: Sequence[Step], groups: Sequence[Group], size: int, hours: float) -> Step:
    """Look at the results, and return the step.

    Args:
        curves: Of the study.
        steps: Those before; all that they began has ended.
        groups: Results so far.
        size: Number of pre-trainings to begin together, where ``until.batch`` does not say.
        hours: Duration of the study so far.

    Raises:
        UserError: The results cannot be used.
    """
    until, before = curves.until, begun(steps, curves)
    question = until.asked(curves.largest)
    open_ones = [item for item in curves.candidates if item not in before]
    room = until.batch or size
    if until.max_runs is not None:
        room = min(room, until.max_runs - len(before))
    stopped = ""
    if until.max_hours is not None and hours >= until.max_hours:
        stopped = f"it has taken {hours:.3g} hours, and max_hours is {until.max_hours:g}"
    elif room < 1:
        stopped = f"max_runs is {until.max_runs}, and so many pre-trainings have been run"
    counted = [item for item in steps[-1:] if item["question"] == _asked(curves)]
    plan = next_runs(
        groups,
        question,
        [] if stopped else open_ones,
        until.costs(cost(before, curves)),
        confidence=until.confidence,
        looks=[Look(item["runs"], item["confidence"]) for step in counted for item in step["looks"]],
        batch=max(room, 1),
        prior=until.prior(),
    )
    batch = [
        {**_named(item.candidate), "kind": item.kind, "why": item.why, "gain": item.gain, "settles": item.settles}
        for item in plan.batch
        if item.candidate is not None
    ]
    if not stopped:  # what the question needs comes first
        begin = [item.candidate for item in plan.batch if item.candidate is not None]
        for item in _sizes_lacking(curves, plan, [*before, *begin], open_ones)[: room - len(batch)]:
            why = f"The question is decided; least_sizes is {until.least_sizes}, for the law in the report."
            batch.append({**_named(item), "kind": "size", "why": why})
    runs = sum(len(group.runs) + len(group.scratch) for group in groups)
    reason = "" if batch else _reason(plan, stopped, open_ones)
    return _step(curves, steps, batch, runs, hours) | {
        "done": not batch,
        "reason": reason,
        "decisions": [asdict(item) for item in plan.decisions] if before else [],  # else they are only the prior
        "looks": [asdict(item) for item in plan.looks],
        "notes": [item.sentence for item in plan.checks if item.flagged],
    }


def _sizes_lacking(
    curves: Curves, plan: Plan, before: Sequence[Candidate], open_ones: Sequence[Candidate]
) -> list[Candidate]:
    """Return the pre-trainings that decided curves lack of the sizes that ``until.least_sizes`` asks for.

    Each is the affordable one at the size that lies farthest from those that its curve has: there it tells most of the
    law.
    """
    until, found = curves.until, list[Candidate]()
    undecided = set() if plan.done else {item.group for item in plan.decisions if item.state == "open"}
    for name in curves.labels:
        if name in undecided or "" in undecided:  # "": one answer for all curves
            continue
        while True:
            spent = [*before, *found]
            sizes = {item.n for item in spent if item.group == name}
            new = [
                item
                for item in open_ones
                if item.group == name
                and item.n not in sizes
                and (until.budget is None or cost([*spent, item], curves) <= until.budget)
            ]
            if len(sizes) >= until.least_sizes or not new:
                break
            found.append(max(new, key=lambda item: min((abs(log(item.n / n)) for n in sizes), default=0.0)))
    return found


def _reason(plan: Plan, stopped: str, open_ones: Sequence[Candidate]) -> str:
    """Say why a study ends: that it is decided, or what keeps it from going on."""
    undecided = [item.group for item in plan.decisions if item.state != "decided"]
    if not undecided:
        return "decided"
    if stopped:
        return stopped
    if any(item.group in undecided or plan.question.joint for item in open_ones):
        return "the budget pays for no further pre-training"
    return "all pre-trainings that could decide it have been run"


def _step(curves: Curves, steps: Sequence[Step], batch: list[dict[str, Any]], runs: int, hours: float) -> Step:
    return {
        "settings": curves.settings,
        "question": _asked(curves),
        "done": False,
        "reason": "",
        "runs": runs,
        "cost": cost(begun(steps, curves), curves),
        "hours": round(hours, 4),
        "decisions": [],
        "looks": [],
        "notes": [],
        "batch": batch,
    }


def _asked(curves: Curves) -> str:
    question = curves.until.asked(curves.largest)
    return fingerprint([question.name, vars(question)])


def _named(item: Candidate | None) -> dict[str, Any]:
    return {} if item is None else {"group": item.group, "n": item.n, "seed": item.seed}
