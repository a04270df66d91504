"""What ``lightning-tl next`` leaves: a table for the terminal, ``next.json`` and ``next.csv``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning_tl
from lightning_tl._io.json_text import parse_json
from lightning_tl.laws.fits_output import plain
from lightning_tl.laws.next_runs import Plan
from lightning_tl.laws.proposals import Proposal
from lightning_tl.laws.questions import Question
from lightning_tl.laws.stopping import Look

#: Proposals in the terminal; the files have all.
_SHOWN = 10


def asked(question: Question) -> str:
    """Return a question in words."""
    n, fields = f"{question.at:,.0f}", vars(question)
    if question.name == "more_or_different":
        change = f"{100 * fields['worthwhile']:g} % or more"
        return f"Do {fields['factor']:g} times the images, from n = {n} on, lower the error by {change}?"
    if question.name == "best":
        return f"Which group has the lowest error at n = {n}, or one at most {100 * fields['within']:g} % above it?"
    if question.name == "target":
        return f"Is the error at n = {n} at most {fields['target']:g}?"
    return f"Is the error at n = {n} above that without pre-training?"


def earlier_looks(path: Path, question: Question) -> tuple[Look, ...]:
    """Return the looks that an earlier ``next.json`` records for the same question; none where there is none."""
    try:
        record = parse_json(path.read_bytes())
        if record["question"] != plain(asdict(question)):  # type: ignore[call-overload]
            return ()
        return tuple(Look(int(item["runs"]), float(item["confidence"])) for item in record["looks"])
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def rows(plan: Plan) -> list[dict[str, Any]]:
    """Return ``next.csv``'s rows: one row per proposal, the best first; ``batch`` numbers those to start now."""
    started = [item.candidate for item in plan.batch]
    table = []
    for rank, item in enumerate([*plan.batch, *(p for p in plan.proposals if p.candidate not in started)], start=1):
        where = asdict(item.candidate) if item.candidate else dict.fromkeys(("group", "n", "seed", "draw"))
        numbers = {name: getattr(item, name) for name in ("gain", "insight", "cost", "gain_per_cost", "settles")}
        batch = rank if rank <= len(started) else None
        table.append({"rank": rank, "batch": batch, "kind": item.kind, **where, **numbers, "why": item.why})
    return table


def write(plan: Plan, out: Path, settings: dict[str, Any]) -> list[Path]:
    """Write ``next.json`` and ``next.csv`` into a folder, which is made where missing.

    Args:
        plan: What to run next.
        out: The folder.
        settings: How it was asked for, kept in the file.
    """
    import pandas as pd

    out.mkdir(parents=True, exist_ok=True)
    record = {
        "format": 1,
        "version": lightning_tl.__version__,
        "settings": settings,
        "question": asdict(plan.question),  # type: ignore[call-overload]
        "asked": asked(plan.question),
        "done": plan.done,
        "decisions": [asdict(item) for item in plan.decisions],
        "looks": [asdict(item) for item in plan.looks],
        "checks": [asdict(item) | {"sentence": item.sentence} for item in plan.checks],
        "proposals": rows(plan),
    }
    paths = [out / "next.json", out / "next.csv"]
    paths[0].write_text(json.dumps(plain(record), indent=1) + "\n", encoding="utf-8")
    pd.DataFrame(rows(plan)).to_csv(paths[1], index=False)
    return paths


def terminal_text(plan: Plan) -> str:
    """Return where the question stands and the proposals, as text."""
    lines = [asked(plan.question)]
    for item in plan.decisions:
        who = f"{item.group}: " if item.group else ""
        verdict = f"{item.answer}" if item.state == "decided" else f"not decided; likeliest is: {item.answer}"
        lines.append(f"  {who}{verdict}. {item.why}")
    lines += [f"  {check.sentence}" for check in plan.checks if check.sentence]
    shown = list(plan.batch) or list(plan.proposals[:1])
    rest = [item for item in plan.proposals if item.candidate not in [done.candidate for done in shown]]
    lines += [""] if plan.done else ["", _table([*shown, *rest][:_SHOWN]), ""]
    for i, run in enumerate(shown):
        start = "Stop" if run.candidate is None else "With it" if i else "Next"
        name = f"{run.candidate.group}. " if run.candidate and len(plan.decisions) > 1 else ""
        lines.append(f"{start}: {name}{run.why}")
    doubtful = [check.group for check in plan.checks if check.flagged]
    if plan.done and doubtful:
        lines[-1] += f" But the law does not fit {', '.join(doubtful)}: repeat the runs named above first."
    return "\n".join(lines)


def _table(proposals: Sequence[Proposal]) -> str:
    head = ["", "group", "n", "seed", "draw", "P(wrong) falls by", "doubt by", "decides with", "cost"]
    body = []
    for item in proposals:
        run = item.candidate
        if run is None:
            continue
        gain, insight, settles = (f"{100 * value:.1f} %" for value in (item.gain, item.insight, item.settles))
        body.append(
            [item.kind, run.group, f"{run.n:,.0f}", run.seed, run.draw or "-", gain, insight, settles, f"{item.cost:g}"]
        )
    width = [max(len(row[i]) for row in [head, *body]) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, width, strict=True)).rstrip() for row in [head, *body]]
    lines.insert(1, "  ".join("-" * w for w in width))
    return "\n".join(lines)
