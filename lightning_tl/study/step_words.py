"""The steps of a study in words: where its questions stand, what is begun next and why, what the whole grid costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_tl.laws.wording import sure
from lightning_tl.study.curves import Curves
from lightning_tl.study.steps import Step, begun, next_step, opening

Steps = Mapping[str, Any]


def stands(step: Step) -> list[str]:
    """Say where each question stood at a step, one line each; nothing before the first look."""
    lines = [f"{_answer(decision)}. {decision['why']}" for decision in step["decisions"]]
    return [*lines, *step["notes"], *([f"The study ends: {_end(step)}."] if step["done"] else [])]


def _end(step: Step) -> str:
    return "every question is decided" if step["reason"] == "decided" else str(step["reason"])


def begins(step: Step) -> list[str]:
    """Say which pre-trainings a step begins, and why."""
    return [
        f"Next: {item['group']}, n = {item['n']:,.0f}, seed {item['seed']}: {item['why']}" for item in step["batch"]
    ]


def _answer(decision: Mapping[str, Any]) -> str:
    return f"{decision['group']}: {decision['answer']}" if decision["group"] else str(decision["answer"])


def answer(steps: Steps) -> list[str]:
    """Return the sentences that a report begins with: what is decided, after how much, and what the grid costs."""
    if not steps.get("taken") or not steps["taken"][-1]["decisions"]:
        return []
    last, own, grid = steps["taken"][-1], steps["spent"], steps["grid"]
    after = f"at look {max(looks(last), 1)}, with {own['runs']} of {grid['runs']} pre-trainings"
    given = "; ".join(f"{_answer(item)} (confidence {sure(item['confidence'])})" for item in last["decisions"])
    if last["done"] and last["reason"] == "decided":
        first = f"Decided {after}: {given}."
    elif last["done"]:
        first = f"Not decided {after}: {last['reason']}. The likeliest answers so far: {given}."
    else:
        first = f"Not decided yet {after}: {given}."
    return [f"{steps['asked']} {first}", grid_sentence(own, grid), *last["notes"]]


def looks(step: Step) -> int:
    """Return the number of looks up to a step; one at which no answer could be decided, for lack of runs, is none."""
    return len(step["looks"])


def grid_sentence(own: Mapping[str, Any], grid: Mapping[str, Any]) -> str:
    """Say what the fixed grid would have cost."""
    more = grid["cost"] / own["cost"] if own["cost"] else float("inf")
    cost = f"{grid['cost']:,.6g} instead of {own['cost']:,.6g}"
    times = f", {more:.1f} times as much" if own["runs"] < grid["runs"] else ""
    hours = ""
    if grid["hours"] and own["hours"]:
        hours = f"; trainings of about {_duration(grid['hours'])} instead of {_duration(own['hours'])}"
    return f"The fixed grid of {grid['runs']} pre-trainings would have cost {cost}{times}{hours}."


def _duration(hours: float) -> str:
    return f"{60 * hours:.2g} minutes" if hours < 1 else f"{hours:.3g} hours"


def table(steps: Steps) -> tuple[list[str], list[list[object]]]:
    """Return the path of the decision as a table: its head, and one row per step.

    A look is numbered where an answer could be decided by it.
    """
    head = ["step", "look", "pre-trainings", "cost", "lowest confidence", "asked for", "then begun"]
    rows, count = list[list[object]](), 0
    seeds = {item["seed"] for step in steps["taken"] for item in step["batch"]}
    for number, step in enumerate(steps["taken"], 1):
        decisions = step["decisions"]
        counted = bool(step["looks"]) and step["looks"][-1]["runs"] == step["runs"]
        least = min(decisions, key=lambda item: item["confidence"], default=None)
        known = [sure(least["confidence"]), f"{100 * least['threshold']:.1f} %"] if least else ["-", "-"]
        batch = ", ".join(
            f"{item['group']} n = {item['n']:,.0f}" + (f" (seed {item['seed']})" if len(seeds) > 1 else "")
            for item in step["batch"]
        )
        look = looks(step) if counted else "-"
        rows.append([number, look, count, f"{step['cost']:,.6g}", *known, batch or _end(step)])
        count += len(step["batch"])
    return head, rows


def candidate_lines(curves: Curves, steps: Sequence[Step], size: int) -> list[str]:
    """Say, for ``--dry-run``, what may be run and what would be begun first or next."""
    question = curves.until.asked(curves.largest)
    done = begun(steps, curves)
    lines = [f"in steps, until {curves.until.question} is decided at n = {question.at:,.0f}; pre-trainings to choose:"]
    for name in curves.labels:
        own = [item for item in curves.candidates if item.group == name]
        counts = {n: sum(item.n == n for item in own) for n in sorted({item.n for item in own})}
        sizes = ", ".join(f"{n:,.0f}" + (f" ({count} seeds)" if count > 1 else "") for n, count in counts.items())
        begun_here = sum(item in done for item in own)
        lines.append(f"  {name}: n = {sizes}" + (f"; {begun_here} begun" if begun_here else ""))
    if steps:
        return [*lines, *stands(steps[-1]), *begins(steps[-1])]
    first = opening(curves) or next_step(curves, [], curves.groups([], {}), size, 0.0)
    return [*lines, *(begins(first) or ["Next: the runs without pre-training"])]
