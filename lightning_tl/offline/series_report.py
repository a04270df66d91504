"""What a measured series leaves in its folder: measurements.csv, figures, and a report that answers first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_tl import html_page as html
from lightning_tl._io.atomic import write_atomically
from lightning_tl.figure_style import short
from lightning_tl.measured_value import Measured, measurements_table
from lightning_tl.offline.loss_records import key_of
from lightning_tl.offline.series import Result
from lightning_tl.offline.series_analysis import analyse_series
from lightning_tl.offline.series_figures import CAPTIONS, write_figures
from lightning_tl.offline.series_words import answers, sentences

TITLE = "Does longer training make this model fragile?"
_READING = (
    "A U-shaped loss under noise, while the loss itself falls, is what Springer et al. (2025, Overtrained Language "
    "Models Are Harder to Fine-Tune, Figs. 3, 9 and 65) find for models that later fine-tune worse. Noise by "
    "initialisation does not depend on how large the weights have grown; relative noise does. Where the two disagree, "
    "the weights have changed their size.",
    "A checkpoint taken while the learning rate is high is more fragile than one after annealing: compare checkpoints "
    "of the same point of their schedule, or keep this in mind.",
)


def write_series(results: Sequence[Result], settings: Mapping[str, Any], run_id: str, out: Path) -> list[str]:
    """Write ``measurements.csv``, figures and ``report.html``; return the answer in sentences, if there is one.

    Nothing in these files depends on time or machine: the same results give the same bytes.

    Args:
        results: In order of the training seen.
        settings: What was measured and how, for the report.
        run_id: For the table.
        out: Folder.
    """
    records = [{"run_id": run_id, **record.row()} for result in results for record in _records(result)]
    write_atomically(out / "measurements.csv", measurements_table(records))
    analysis = analyse_series(results)
    figures = write_figures(results, analysis, out)
    answer = [] if analysis is None else answers(analysis)
    few = ["An answer needs losses under noise or after fine-tuning of at least three checkpoints of different steps."]
    body = [
        html.answer(answer or few),
        html.paragraphs([] if analysis is None else sentences(analysis)),
        *(html.figure(out / f"{name}.png", CAPTIONS[name]) for name in figures),
        html.heading("The checkpoints"),
        _table(results),
        html.heading("How to read this"),
        html.paragraphs(_READING),
        html.heading("What was measured"),
        html.table(("setting", "value"), [(name, _shown(value)) for name, value in settings.items()], "words"),
    ]
    write_atomically(out / "report.html", html.page(f"{run_id}: {TITLE[0].lower()}{TITLE[1:]}", body))
    return answer


def _records(result: Result) -> list[Measured]:
    """Return the records of a checkpoint, with the tokens that it has seen."""
    if result.revision.tokens is None or not result.records:
        return result.records
    step = result.records[0].step
    return [Measured(step=step, quantity="tokens", value=float(result.revision.tokens)), *result.records]


def _table(results: Sequence[Result]) -> str:
    """Return a table of values: a row per checkpoint, a column per quantity of the whole network.

    The losses along lines between checkpoints, dozens of values, are left to ``measurements.csv`` and its plot.
    """
    columns: dict[str, None] = {}
    rows = []
    for result in results:
        row = {
            key_of(record): f"{record.value:.4g}" + (f" ± {record.stderr:.1g}" if record.stderr else "")
            for record in result.records
            if not record.quantity.endswith("_along")
            if record.group in ("", "total", "previous", "trace", "weighted_trace")
            or record.quantity.endswith(("ed_loss", "finetune_loss", "pretrain_loss_after"))
        }
        columns |= dict.fromkeys(row)
        rows.append((result.revision, row))
    tokens = any(revision.tokens is not None for revision, _ in rows)
    head = ["checkpoint", "step", *(["tokens"] if tokens else []), *columns]
    cells = [
        [
            revision.name,
            "" if revision.step is None else f"{revision.step}",
            *(["" if revision.tokens is None else short(revision.tokens)] if tokens else []),
            *(row.get(column, "") for column in columns),
        ]
        for revision, row in rows
    ]
    return html.table(head, cells, "all")


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
