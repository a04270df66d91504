"""Runs a study with ``until`` step by step, and says what has been spent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean
from typing import Any

from lightning_tl.study.curves import Curves
from lightning_tl.study.execution import Records
from lightning_tl.study.expansion import Expansion
from lightning_tl.study.facts import Facts, read_facts
from lightning_tl.study.plan_items import Run
from lightning_tl.study.step_words import begins, stands
from lightning_tl.study.steps import Step, begun, cost, head, is_final, next_step, opening, taken
from lightning_tl.study.trained import Trained

Train = Callable[[Expansion, Expansion], Trained]


def run_in_steps(curves: Curves, facts: Facts, size: int, train: Train) -> Trained:
    """Begin pre-trainings in batches until the question is decided or nothing may be run any more.

    Args:
        curves: Of the study.
        facts: Its ``study.json``, which keeps the steps: what was stored is not decided again.
        size: Number of pre-trainings to begin together, where ``until.batch`` does not say.
        train: Renders and trains what a part of the study lacks; its second argument is the part that trial runs
            belong to.
    """
    steps = taken(read_facts(facts.path), curves)
    done = Trained([], [], {}, {})
    while True:
        if steps:
            done = train(curves.part(begun(steps, curves)), trial_part(steps, curves))
            if is_final(steps, curves) or done.stuck:
                break
        first = None if steps else opening(curves)
        groups = curves.groups(done.runs, done.records)
        step = first or next_step(curves, steps, groups, size, facts.hours)
        grid = {"grid": grid_cost(curves, done.runs, done.records), "spent": spent(curves, steps, done.records)}
        steps = facts.add_step({**head(curves), **grid}, step, len(steps))
        print("\n".join([*stands(steps[-1]), *begins(steps[-1])]), flush=True)
        if is_final(steps, curves):
            break
    return done


def trial_part(steps: Sequence[Step], curves: Curves) -> Expansion:
    """Return the part of a study that trial runs belong to: what the first step begins."""
    return curves.part(begun(steps[:1], curves))


def spent(curves: Curves, steps: Sequence[Step], records: Records) -> dict[str, Any]:
    """Return the number of pre-trainings so far, what they cost, and the hours of these and of fine-tunings."""
    runs = begun(steps, curves)
    hours = sum(record["seconds"] for record in records.values()) / 3600
    return {"runs": len(runs), "cost": cost(runs, curves), "hours": round(hours, 4)}


def grid_cost(curves: Curves, runs: Sequence[Run], records: Records) -> dict[str, Any]:
    """Return the same for the fixed grid: all candidates. Its hours follow from the mean of the runs so far."""
    seconds: dict[str, list[float]] = {"pretrain": [], "finetune": []}
    for run in runs:
        if run.name in records and not run.trial:
            seconds[run.stage].append(records[run.name]["seconds"])
    planned = {
        "pretrain": len(curves.candidates),
        "finetune": len(curves.expansion.finetune) + len(curves.expansion.scratch),
    }
    hours = None
    if all(seconds.values()):
        hours = round(sum(mean(seconds[name]) * count for name, count in planned.items()) / 3600, 4)
    return {"runs": len(curves.candidates), "cost": cost(curves.candidates, curves), "hours": hours}
