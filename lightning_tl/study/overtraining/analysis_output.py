"""What the analysis leaves in a study's folder: ``overtraining.json`` and figures."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from lightning_tl.errors import UserError
from lightning_tl.study.overtraining.analysis import analyse
from lightning_tl.study.overtraining.delay_words import delay_answers, delay_table
from lightning_tl.study.overtraining.overview import notes, overview
from lightning_tl.study.overtraining.words import answers, sentences
from lightning_tl.study.records import write_json

DELAYS = "Does a way of fine-tuning delay the turn?"


def conclude(folder: Path, level: float = 0.95, loss_window: tuple[float, float] | None = None) -> dict[str, Any]:
    """Analyse a study's folder; write ``overtraining.json`` and its figures there.

    Args:
        folder: With ``results.csv`` and ``measurements.csv``.
        level: Of intervals and verdicts.
        loss_window: As in :func:`~lightning_tl.study.overtraining.analysis.analyse`.

    Returns:
        What the file holds: ``answer`` and ``sentences`` (lists of text), ``overview`` (a table, and notes on it),
        ``figures``, ``tables``, ``series``, ``level``, ``delays``.

    Raises:
        UserError: A table is missing or lacks what is needed.
    """
    from lightning_tl.laws.fits_output import plain
    from lightning_tl.study.overtraining.overtraining_figures import write

    tables = []
    for name in ("results.csv", "measurements.csv"):
        try:
            tables.append(pd.read_csv(folder / name))
        except (OSError, ValueError) as error:
            raise UserError(f"{folder / name}: cannot be read ({error}); run the study again") from error
    analysis = analyse(tables[0], tables[1], level, loss_window)
    heads, rows = delay_table(analysis.delays)
    at_a_glance = overview(analysis)
    record: dict[str, Any] = plain(
        {
            "answer": [*answers(analysis), *delay_answers(analysis.delays, analysis.level)],
            "overview": {"heads": at_a_glance[0], "rows": at_a_glance[1], "notes": notes(analysis.level)},
            "sentences": sentences(analysis),
            "figures": write(analysis, folder),
            "tables": [{"title": DELAYS, "heads": heads, "rows": rows}] if rows else [],
            **asdict(analysis),
        }
    )
    write_json(folder / "overtraining.json", record)
    return record
