"""What the figures of the comparison share: panels, the look of each method, the legend below."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from lightning_tl.figure_style import COLOURS, MARKERS, STYLE, fitting, headed, is_narrow, new_figure
from lightning_tl.study.transfer_methods.labels import WITHOUT, order

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Panels drawn at most.
MOST_PANELS = 12
_COLUMNS = 3
Style = tuple[str, str]


def styles_of(labels: Iterable[str]) -> dict[str, Style]:
    """Return a colour and a marker for each method, ``full`` first, no pre-training last."""
    count = len(COLOURS)
    known = sorted(set(labels), key=lambda label: (label == WITHOUT, order(label)))
    return {label: (COLOURS[i % count], MARKERS[(i + i // count) % len(MARKERS)]) for i, label in enumerate(known)}


def panel_grid(count: int) -> tuple[Figure, list[Axes]]:
    """Return a figure with so many panels, up to three in a row."""
    import matplotlib as mpl

    columns = min(_COLUMNS, count)
    rows = -(-count // columns)
    with mpl.rc_context(STYLE):
        figure, grid = new_figure(max(3.3 * columns, 4.6), 2.9 * rows + 0.9, rows, columns)
    axes = list(grid.ravel())
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def finished(figure: Figure, styles: Mapping[str, Style], title: str, count: int, scratch: bool = False) -> Figure:
    """Give a figure its legend, below the panels, and its title.

    Args:
        figure: The figure.
        styles: Of the methods.
        title: The title.
        count: Panels that there would be without a limit.
        scratch: Whether a dashed line is the error without pre-training.
    """
    import matplotlib as mpl
    from matplotlib.lines import Line2D

    with mpl.rc_context(STYLE):
        handles = [
            Line2D([], [], color=colour, marker=marker, linestyle="", markersize=5, label=fitting(label, 22, 34))
            for label, (colour, marker) in styles.items()
        ]
        if scratch:
            handles.append(Line2D([], [], color="0.4", linestyle="--", linewidth=1, label=WITHOUT))
        if handles:
            columns = 2 if is_narrow() else max(1, int(figure.get_figwidth() // 2.2))
            figure.legend(handles=handles, loc="outside lower left", ncols=columns, fontsize=7, handletextpad=0.3)
        headed(figure, title + (f" (the first {MOST_PANELS} of {count})" if count > MOST_PANELS else ""))
    return figure
