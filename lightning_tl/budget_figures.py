"""Drawing curves over pre-training budgets, for the overtraining analysis and for series of checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lightning_tl.budget_curves import Curve
from lightning_tl.figure_style import MARKERS, plain_ticks, short

_SYMBOL = {"gamma": "γ", "lr": "lr", "bits": "bits", "share": "pruned"}


def shades_of(count: int) -> list[str]:
    """Return a colour for each of so many ordered values: from dark to light."""
    import matplotlib as mpl

    shades = np.linspace(0.0, 0.88, max(count, 2))[:count]
    return [mpl.colors.to_hex(mpl.colormaps["viridis"](shade)) for shade in shades]


def draw_curves(axes: Any, family: Sequence[Curve], before: Sequence[Curve]) -> None:
    """Draw the curves of a quantity, and dashed what the unchanged network has."""
    for i, (item, colour) in enumerate(zip(family, shades_of(len(family)), strict=True)):
        draw_bars(axes, item, colour, MARKERS[i % len(MARKERS)], f"{_SYMBOL[item.by]} {item.value:g}")
        if item.verdict == "u":
            axes.axvline(item.vertex, color=colour, linestyle=":", linewidth=1)
            axes.axvspan(*item.vertex_interval, color=colour, alpha=0.08, linewidth=0)
        if np.isfinite(item.inflection):
            height = item.mean[item.budgets.index(int(item.inflection))]
            axes.plot(item.inflection, height, "^", color=colour, markersize=7, markeredgecolor="black", zorder=5)
    for item in before:
        axes.plot(item.budgets, item.mean, color="0.4", linestyle="--", linewidth=1, label="as pre-trained")
    budget_scales(axes, family)
    if family:
        axes.legend(fontsize=6.5, loc="best", handlelength=1.4)


def draw_bars(axes: Any, item: Curve, colour: str, marker: str, label: str) -> None:
    """Draw one curve with its intervals; its markers are filled where it falls, then rises."""
    mean = np.array(item.mean)
    ends = np.array([mean - np.array(item.low), np.array(item.high) - mean])
    axes.errorbar(
        item.budgets,
        mean,
        None if np.isnan(ends).any() else np.maximum(ends, 0),
        fmt=f"{marker}-",
        color=colour,
        markersize=4,
        markerfacecolor=colour if item.verdict == "u" else "white",
        linewidth=1.2,
        capsize=2,
        label=label,
    )


def budget_scales(axes: Any, family: Sequence[Curve]) -> None:
    """Put budgets on a logarithmic axis, with at most nine of them written; values too where all are positive."""
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log")
    if family and all(item.log for item in family):
        axes.set_yscale("log")
        plain_ticks(axes)
    if family:
        budgets = family[0].budgets[:: -(-len(family[0].budgets) // 9)]
        axes.set_xticks(budgets, [f"{budget:,}" if budget < 1e6 else short(budget) for budget in budgets])
        axes.xaxis.set_minor_locator(NullLocator())
