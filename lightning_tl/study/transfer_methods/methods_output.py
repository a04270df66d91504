"""What the comparison leaves in a study's folder: ``transfer_methods.json`` and ``.csv``, and figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from lightning_tl.errors import UserError
from lightning_tl.figure_style import save_figures
from lightning_tl.laws.fits_output import plain
from lightning_tl.laws.image_sampling import read_replicates
from lightning_tl.study.records import write_json, write_table
from lightning_tl.study.transfer_methods import method_figures
from lightning_tl.study.transfer_methods.comparison import EQUAL, SettingResult, compare_methods
from lightning_tl.study.transfer_methods.method_words import answers, sentences, table
from lightning_tl.study.transfer_methods.methods_table import settings
from lightning_tl.study.transfer_methods.paired_statistics import Estimate
from lightning_tl.study.transfer_methods.sample_figure import samples_figure
from lightning_tl.study.transfer_methods.sample_words import fall_table, sample_answers, sample_table
from lightning_tl.study.transfer_methods.samples import SampleNeeds, sample_needs, table_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FIGURES: dict[str, tuple[Callable[[Sequence[SettingResult], float], Figure | None], str]] = {
    "transfer_front": (
        method_figures.front_figure,
        "Test error against the rise of the pre-training loss by fine-tuning. Filled: on the front; hollow: another "
        "method is better in both, but not beyond chance; grey: off the front. Lines join interpolations between the "
        "pre-trained (α = 0) and the fine-tuned network. Bars: {level} intervals of the difference to full "
        "fine-tuning, paired by pre-training and draw.",
    ),
    "transfer_sizes": (
        method_figures.sizes_figure,
        "Test error against fine-tuning size s, both on logarithmic axes, by method. Bars: {level} intervals, with the "
        "luck of the draws.",
    ),
    "transfer_inherited": (
        method_figures.inherited_figure,
        "Test error against the share of the backbone's filters (or its first stages) that is inherited, the rest "
        "being initialised anew. Dashed: without pre-training. Squares: negative transfer. Bars: {level} intervals of "
        "the ratio to the error without pre-training, paired by draw.",
    ),
}

_SAMPLES = (
    "Fine-tuning images at which the law over s reaches an error, by the size of the model or by n. Bars: {level} "
    "intervals of the law, cut at four times the sizes measured. Triangles: not reached with the largest (upwards), "
    "or reached already with the smallest (downwards)."
)


def varies(results: Path) -> bool:
    """Return whether a table of results has several methods."""
    try:
        return pd.read_csv(results, usecols=["transfer"])["transfer"].nunique() > 1
    except (OSError, ValueError):
        return False


def conclude(
    folder: Path, level: float = 0.95, equal: float = EQUAL, target_errors: Sequence[float] | None = None
) -> dict[str, Any]:
    """Compare the methods of a study's folder; write ``transfer_methods.json``, two tables and figures there.

    Args:
        folder: With ``results.csv``, and where interpolations were evaluated ``interpolations.csv``.
        level: Of intervals and tests.
        equal: Share of the lowest error by which another may be higher and still count as equal.
        target_errors: Errors of which the samples needed are asked; None: one that most curves reach.

    Returns:
        What the file holds: ``answer`` and ``sentences`` (lists of text), ``figures``, ``tables``, ``level``.

    Raises:
        UserError: A table is missing or lacks what is needed.
    """
    path = folder / "interpolations.csv"
    interpolations = _read(path) if path.is_file() else None
    found = settings(_read(folder / "results.csv"), interpolations, read_replicates(folder / "results.csv"))
    compared = compare_methods(found, level, equal)
    needs = sample_needs(found, target_errors, level)
    rows = [_row(item, place, level) for item in compared for place in range(len(item.methods))]
    _write(folder / "transfer_methods.csv", rows)
    _write(folder / "samples_needed.csv", table_rows(needs))
    tables = {
        "Each method": table(compared, level),
        "Fine-tuning images needed": sample_table(needs),
        "How fast the fine-tuning images needed fall": fall_table(needs),
    }
    record: dict[str, Any] = plain(
        {
            "answer": [*answers(compared, level), *sample_answers(needs)],
            "sentences": sentences(compared, level),
            "figures": _draw(compared, needs, folder, level),
            "tables": [{"title": title, "heads": heads, "rows": body} for title, (heads, body) in tables.items()],
            "level": level,
        }
    )
    write_json(folder / "transfer_methods.json", record)
    return record


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_table(path, list(dict.fromkeys(name for row in rows for name in row)), rows)


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, dtype={"run_id": str, "pretrain_run": str})
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); run the study again") from error


def _draw(compared: Sequence[SettingResult], needs: SampleNeeds, folder: Path, level: float) -> list[dict[str, str]]:
    """Write the figures as PNG, also for narrow screens, and SVG; return file and caption of each."""
    drawing: dict[str, tuple[Callable[[], Figure | None], str]] = {
        name: (partial(draw, compared, level), caption) for name, (draw, caption) in _FIGURES.items()
    }
    drawing["samples_needed"] = (partial(samples_figure, needs), _SAMPLES)
    written = save_figures(lambda: {name: draw() for name, (draw, _) in drawing.items()}, folder, ("png", "svg"))
    text = f"{100 * level:g} %"
    return [{"file": f"{name}.png", "caption": drawing[name][1].format(level=text)} for name in written]


def _row(item: SettingResult, place: int, level: float) -> dict[str, Any]:
    """Return a row of ``transfer_methods.csv``."""
    one = item.methods[place]
    row: dict[str, Any] = {**item.keys, "pretrain_images": item.n, "finetune_images": item.s, "transfer": one.label}
    row |= {"pretrainings": one.error.pretrainings, "draws": one.error.draws, "trainable_params": one.trainable}
    for name in ("error", "val_error", "forgetting", "distance", "seconds"):
        row |= _columns(name, getattr(one, name), level)
    for name in ("error_to_full", "forgetting_to_full", "distance_to_full", "seconds_to_full"):
        row |= _columns(name, getattr(one, name), level)
    row |= _columns("log_error_to_scratch", one.to_scratch, level)
    row |= {"p_negative_transfer": one.p_negative if item.scratch.draws else None}
    row |= {"front": one.place.standing, "better_in_both": one.place.better, "p_off_front": one.place.p}
    row |= {"take": int(one.label == item.take)}
    return {key: _cell(value) for key, value in row.items()}


def _columns(name: str, item: Estimate, level: float) -> dict[str, float]:
    low, high = item.interval(level)
    return {name: item.mean, f"{name}_low": low, f"{name}_high": high}


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if value != value else float(f"{value:.7g}")
    return value
