"""Fine-tuning images needed for an error, against the size of the model or n, by method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lightning_tl.figure_style import fitting, plain_ticks, short
from lightning_tl.study.transfer_methods.labels import WITHOUT
from lightning_tl.study.transfer_methods.panels import MOST_PANELS, Style, finished, panel_grid, styles_of
from lightning_tl.study.transfer_methods.samples import SampleNeeds, SampleRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LABELS = {"parameters": "parameters of the backbone", "n": "pre-training size n (images)"}


def samples_figure(needs: SampleNeeds) -> Figure | None:
    """Draw the fine-tuning images needed, with intervals, on logarithmic axes.

    One panel for each error and n over the size of the model, and for each error and model over n; only axes that vary.
    An arrow upwards: not reached with the sizes measured, it starts at the largest of them.

    Returns:
        The figure; None where neither the model's size nor n varies.
    """
    panels = _panels(needs)
    if not panels:
        return None
    styles = styles_of(row.method for _, _, rows in panels for row in rows)
    figure, axes_of = panel_grid(min(len(panels), MOST_PANELS))
    for axes, (by, title, rows) in zip(axes_of, panels, strict=False):
        for i, (method, style) in enumerate(styles.items()):
            own = [row for row in rows if row.method == method]
            _draw(axes, own, by, (i + 0.5) / len(styles) - 0.5, style)
        axes.set_xscale("log")
        axes.set_yscale("log")
        plain_ticks(axes)
        places = sorted({row.samples.curve.x[by] for row in rows if row.samples.curve.x[by] > 0})
        axes.set_xticks(places, [short(float(f"{place:.2g}")) for place in places])
        axes.minorticks_off()
        axes.set_xlim(min(places) / 1.4, max(places) * 1.4)
        axes.set_title(fitting(title, 44, 44), fontsize=8)
        axes.set_xlabel(_LABELS[by])
        axes.set_ylabel("fine-tuning images needed")
    return finished(figure, styles, "How many fine-tuning images does an error take?", len(panels))


def _panels(needs: SampleNeeds) -> list[tuple[str, str, list[SampleRow]]]:
    panels = []
    for target in dict.fromkeys(row.samples.target for row in needs.rows):
        rows = [row for row in needs.rows if row.samples.target == target]
        for by, fixed in (("parameters", "n"), ("n", "parameters")):
            groups: dict[float, list[SampleRow]] = {}
            for row in rows:
                if row.method != WITHOUT:
                    groups.setdefault(row.samples.curve.x[fixed], []).append(row)
            for value, members in groups.items():
                if len({row.samples.curve.x[by] for row in members}) < 2:
                    continue
                where = f"n = {value:,.0f}" if fixed == "n" else members[0].setting
                without = [row for row in rows if row.method == WITHOUT] if by == "parameters" else []
                title = ", ".join(filter(None, [f"error {target:g}", where]))
                panels.append((by, title, [*members, *without]))
    return panels


def _draw(axes: Axes, rows: Sequence[SampleRow], by: str, aside: float, style: Style) -> None:
    """Draw one method, its points a little aside of those of the others."""
    colour, marker = style
    line = []
    for row in sorted(rows, key=lambda row: row.samples.curve.x[by]):
        item, sizes = row.samples, row.samples.curve.law.cells.n
        at = row.samples.curve.x[by] * float(np.exp(0.12 * aside))
        if item.state != "reached":
            edge = sizes.max() if item.state == "not reached" else sizes.min()
            axes.plot(at, edge, "^" if item.state == "not reached" else "v", color=colour, markerfacecolor="white")
            continue
        low, high = (float(np.clip(end, sizes.min() / 4, sizes.max() * 4)) for end in item.interval)
        bars = [[item.estimate - min(low, item.estimate)], [max(high, item.estimate) - item.estimate]]
        axes.errorbar(at, item.estimate, bars, fmt=marker, color=colour, markersize=4.5, linewidth=0.9, capsize=2)
        line.append((at, item.estimate))
    if len(line) > 1:
        axes.plot(*zip(*line, strict=True), "--" if rows[0].method == WITHOUT else "-", color=colour, linewidth=0.8)
