"""Figures of a rendered data set's statistics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator

from lightning_tl.figure_style import NARROW, fitting, is_narrow, new_figure, save
from lightning_tl.inspection.split_statistics import SplitStats

_COLORS = ("#0072b2", "#d55e00")
_QUANTITIES = {
    "per_image": "objects in an image",
    "sides": "side of an object's box / side of the image",
    "visible": "visible fraction of an object",
    "brightness": "mean brightness of an image, 0 to 255",
    "contrast": "standard deviation of brightness in an image",
}


def class_figure(statistics: dict[str, SplitStats], path: Path) -> None:
    """Draw one bar per category and split, the most frequent category first."""
    names = list(next(iter(statistics.values())).classes)
    totals = {name: sum(each.classes[name] for each in statistics.values()) for name in names}
    names.sort(key=lambda name: (-totals[name], name))
    along = max(0.2 * len(names), 2.0)  # inches for the categories
    if is_narrow():  # bars from left to right, so that names can be read and many categories make it higher
        _lying_bars(statistics, names, path, along)
        return
    figure, grid = new_figure(max(6.0, along + 1.5), 3.2)
    axes = grid[0, 0]
    width = 0.8 / len(statistics)
    for place, (split, each) in enumerate(statistics.items()):
        at = np.arange(len(names)) + (place - (len(statistics) - 1) / 2) * width
        axes.bar(at, [each.classes[name] for name in names], width, color=_COLORS[place % 2], label=split)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylabel("objects")
    figure.legend(loc="outside upper right", ncols=len(statistics), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def _lying_bars(statistics: dict[str, SplitStats], names: list[str], path: Path, along: float) -> None:
    figure, grid = new_figure(NARROW, along + 1.0)
    figure.set_size_inches(NARROW, along + 1.0)
    axes = grid[0, 0]
    height = 0.8 / len(statistics)
    for place, (split, each) in enumerate(statistics.items()):
        at = np.arange(len(names)) + (place - (len(statistics) - 1) / 2) * height
        axes.barh(at, [each.classes[name] for name in names], height, color=_COLORS[place % 2], label=split)
    axes.set_yticks(range(len(names)), [fitting(name, 20) for name in names], fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel("objects")
    figure.legend(loc="outside upper right", ncols=len(statistics), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def histogram_figure(statistics: dict[str, SplitStats], path: Path) -> None:
    """Draw one histogram per quantity, as shares of each split's images or objects."""
    # the last of six panels is for the legend, which stands above them on narrow screens
    figure, grid = new_figure(9, 5, *((len(_QUANTITIES), 1) if is_narrow() else (2, 3)))
    if is_narrow():
        figure.set_size_inches(NARROW, 1.8 * len(_QUANTITIES))
    panels = grid.flat
    for axes, (name, title) in zip(panels, _QUANTITIES.items(), strict=False):
        values = {split: np.array(getattr(each, name), float) for split, each in statistics.items()}
        edges = _edges(name, np.concatenate(list(values.values())))
        for place, (split, numbers) in enumerate(values.items()):
            if len(numbers):
                weights = np.full(len(numbers), 1 / len(numbers))
                kind = {"histtype": "step", "linewidth": 1.5} if place else {"alpha": 0.45}
                axes.hist(numbers, edges, weights=weights, color=_COLORS[place % 2], label=split, **kind)
        if name == "per_image":
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel(title, fontsize=8)
        axes.set_ylabel("share", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    handles = figure.axes[0].get_legend_handles_labels()
    if is_narrow():
        figure.legend(*handles, loc="outside upper right", ncols=len(statistics), frameon=False)
    else:
        last = figure.axes[-1]
        last.axis("off")
        last.legend(*handles, frameon=False, loc="upper left")
    save(figure, path)


def _edges(name: str, values: np.ndarray) -> np.ndarray:
    if name == "per_image":
        return np.arange(0, (values.max() if len(values) else 0) + 2) - 0.5
    if name in ("sides", "visible"):
        return np.linspace(0, 1, 31)
    return np.linspace(0, 255 if name == "brightness" else max(1.0, values.max(initial=0)), 41)
