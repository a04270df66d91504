"""Theory as lines, simulation as points with error bars: what the labs' figures have in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from lightning_tl.figure_style import COLOURS, MARKERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lightning_tl.labs.outcome import Comparison


def draw_points(axes: Axes, points: Sequence[Comparison], index: int, label: str) -> None:
    """Draw simulated values with one standard error, in the colour and with the marker of a case.

    Args:
        axes: To draw on.
        points: Of one case.
        index: Of its colour and marker.
        label: In the legend.
    """
    axes.errorbar(
        [point.at for point in points],
        [point.simulation for point in points],
        [point.stderr for point in points],
        fmt=MARKERS[index % len(MARKERS)],
        color=COLOURS[index % len(COLOURS)],
        markersize=4,
        linewidth=1,
        label=label,
    )


def draw_line(axes: Axes, x: Iterable[float], y: Iterable[float], index: int, dashed: bool = False) -> None:
    """Draw a theoretical curve in the colour of a case."""
    axes.plot(list(x), list(y), "--" if dashed else "-", color=COLOURS[index % len(COLOURS)], linewidth=1.2)


def cases(points: Sequence[Comparison]) -> dict[str, list[Comparison]]:
    """Return the points by case, in order."""
    found: dict[str, list[Comparison]] = {}
    for point in points:
        found.setdefault(point.case, []).append(point)
    return found


def titled(axes: Axes, title: str, x: str, y: str) -> None:
    """Write title and labels; make the legend where there is something for it."""
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=7)
