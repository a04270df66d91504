"""A lab's outcome as files: figures, a CSV of all comparisons, a JSON, and a page of three paragraphs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning_tl._io.atomic import write_atomically
from lightning_tl.figure_style import STYLE, number, save_figures
from lightning_tl.html_page import details, figure, page, paragraphs, table
from lightning_tl.labs.lab import Lab
from lightning_tl.labs.outcome import Outcome
from lightning_tl.laws.fits_output import plain
from lightning_tl.study.records import write_json, write_table

_COLUMNS = ("part", "case", "at", "theory", "simulation", "stderr", "allowed", "runs", "agreement")


def write_outcome(name: str, lab: Lab, outcome: Outcome, folder: Path) -> list[Path]:
    """Write ``<name>.csv``, ``<name>.json``, ``<name>.html`` and each figure as PNG (two widths) and SVG.

    Args:
        name: Of the lab.
        lab: Its parameters.
        outcome: What it gave.
        folder: To write into; it is made where it is missing.

    Returns:
        The paths, the page last.
    """
    import matplotlib as mpl

    folder.mkdir(parents=True, exist_ok=True)
    rows = [{**asdict(item), "agreement": item.agreement} for item in outcome.comparisons]
    paths = [folder / f"{name}.csv", folder / f"{name}.json"]
    write_table(paths[0], _COLUMNS, rows)
    content = {
        "lab": name,
        "parameters": asdict(lab),
        "agreement": outcome.counts(),
        "comparisons": rows,
        "facts": outcome.facts,
    }
    write_json(paths[1], plain(content))
    suffixes = ("png", "svg")
    with mpl.rc_context(STYLE):
        names = save_figures(outcome.draw, folder, suffixes)
    for key in names:
        paths += [folder / f"{key}.{suffix}" for suffix in suffixes]
    paths.append(folder / f"{name}.html")
    write_atomically(paths[-1], _page(outcome, folder, rows))
    return paths


def _page(outcome: Outcome, folder: Path, rows: list[dict[str, Any]]) -> str:
    cells = [
        [value if isinstance(value, str) else "" if value is None else number(value, 4) for value in row.values()]
        for row in rows
    ]
    # plural: "38 agree"
    counts = ", ".join(f"{count} {kind.removesuffix('s')}" for kind, count in outcome.counts().items() if count)
    body = [
        *(paragraphs([text]) for text in outcome.paragraphs),
        *(figure(folder / f"{key}.png", outcome.captions[key]) for key in outcome.captions),
        details(f"All comparisons ({counts})", table(_COLUMNS, cells)),
    ]
    return page(outcome.title, body)
