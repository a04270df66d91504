"""Figures of the comparison: error against forgetting, error against s, error against the share inherited."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_tl.figure_style import COLOURS, fitting, plain_ticks, short
from lightning_tl.laws.curve_figures import ERROR_LABEL
from lightning_tl.study.transfer_methods.comparison import Compared, SettingResult
from lightning_tl.study.transfer_methods.labels import FULL, WITHOUT, is_interpolation, parse_label, without_alpha
from lightning_tl.study.transfer_methods.methods_table import name_of
from lightning_tl.study.transfer_methods.paired_statistics import Estimate
from lightning_tl.study.transfer_methods.panels import MOST_PANELS, Style, finished, panel_grid, styles_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def front_figure(results: Sequence[SettingResult], level: float = 0.95) -> Figure | None:
    """Draw test error against the rise of the pre-training loss, one panel for each n and s.

    Bars are intervals of the difference to full fine-tuning, so that what a draw does to all methods is left out.
    Filled: on the front; hollow: behind it, but not beyond chance; grey: off it. A line joins the interpolations.

    Returns:
        The figure; None where forgetting was not measured.
    """
    shown = [item for item in results if any(np.isfinite(one.forgetting.mean) for one in item.methods)]
    if not shown:
        return None
    styles = _styles(shown)
    figure, panels = _panels(shown[:MOST_PANELS], several_n=len({item.n for item in shown}) > 1)
    for axes, item in panels:
        for one in item.methods:
            _point(axes, one, styles[without_alpha(one.label)], level)
        for base in dict.fromkeys(without_alpha(one.label) for one in item.methods if is_interpolation(one.label)):
            path = sorted(
                (one for one in item.methods if without_alpha(one.label) == base), key=lambda one: one.forgetting.mean
            )
            axes.plot(
                [one.forgetting.mean for one in path],
                [one.error.mean for one in path],
                color=styles[base][0],
                linewidth=0.8,
                zorder=1,
            )
        axes.locator_params("x", nbins=5)
        axes.set_xlabel("rise of the pre-training loss")
        axes.set_ylabel(ERROR_LABEL)
    return finished(figure, styles, "Error against forgetting: the lower left is best", len(shown))


def sizes_figure(results: Sequence[SettingResult], level: float = 0.95) -> Figure | None:
    """Draw test error against the fine-tuning size s, one curve for each method, one panel for each n.

    Returns:
        The figure; None where s does not vary.
    """
    families: dict[Any, list[SettingResult]] = {}
    for item in results:
        families.setdefault((tuple(item.keys.items()), item.n), []).append(item)
    shown = [members for members in families.values() if len({item.s for item in members}) > 1]
    if not shown:
        return None
    styles = _styles(results)
    several = len({item.n for item in results}) > 1
    figure, panels = _panels([members[0] for members in shown[:MOST_PANELS]], several, with_s=False)
    for (axes, _), members in zip(panels, shown, strict=False):
        for label, (colour, marker) in styles.items():
            rows = [(item.s, item.method(label).error) for item in members if item.has(label)]
            _curve(axes, rows, colour, marker, level)
        _curve(axes, [(item.s, item.scratch) for item in members if item.scratch.draws], "0.4", "", level, "--")
        axes.set_xscale("log")
        axes.set_yscale("log")
        plain_ticks(axes)
        sizes = sorted({item.s for item in members})
        axes.set_xticks(sizes, [short(size) for size in sizes])
        axes.minorticks_off()
        axes.set_xlabel("fine-tuning size s (images)")
        axes.set_ylabel(ERROR_LABEL)
    scratch = any(item.scratch.draws for item in results)
    return finished(figure, styles, "Error by fine-tuning size and method", len(shown), scratch)


def inherited_figure(results: Sequence[SettingResult], level: float = 0.95) -> Figure | None:
    """Draw test error against what is inherited of the backbone: the share of filters, or the first stages.

    The share 1 is full fine-tuning of the whole backbone, dashed the error without pre-training. Bars are intervals of
    the ratio to that error, paired by draw, so that a bar above the line means a higher error. Squares: negative
    transfer.

    Returns:
        The figure; None where no two partial inheritances were run.
    """
    shown = []
    for kind in ("share", "stages"):
        for item in results:
            rows = _inherited(item, kind)
            if len([value for value, _ in rows if value is not None]) > 1:
                shown.append((kind, item, rows))
    if not shown:
        return None
    several = len({item.n for item in results}) > 1
    figure, panels = _panels([item for _, item, _ in shown[:MOST_PANELS]], several)
    for (axes, item), (kind, _, rows) in zip(panels, shown, strict=False):
        for value, one in rows:
            harm = one.p_negative <= 1 - level
            colour, marker = (COLOURS[1], "s") if harm else (COLOURS[0], "o")
            low, high = one.to_scratch.interval(level)
            if np.isfinite(low):
                ends = one.error.mean * np.exp(np.array([low, high]) - one.to_scratch.mean)
                _bars(axes, value, one.error.mean, (float(ends[0]), float(ends[1])), colour, marker)
            else:
                _bar(axes, value, one.error, colour, marker, level)
        axes.plot([value for value, _ in rows], [one.error.mean for _, one in rows], color=COLOURS[0], linewidth=0.8)
        if item.scratch.draws:
            axes.axhline(item.scratch.mean, color="0.4", linestyle="--", linewidth=1, label=WITHOUT)
            axes.legend(fontsize=6.5)
        axes.set_xlabel("share of filters inherited" if kind == "share" else "stages inherited")
        axes.set_ylabel(ERROR_LABEL)
    return finished(figure, {}, "Error by what is inherited of the backbone", len(shown))


def _inherited(item: SettingResult, kind: str) -> list[tuple[float, Compared]]:
    rows = []
    for one in item.methods:
        parts = parse_label(one.label)
        if parts is not None and parts.name == "partial" and parts.setting == kind and parts.value is not None:
            rows.append((parts.value, one))
    if kind == "share" and rows and item.has(FULL):
        rows.append((1.0, item.method(FULL)))
    return sorted(rows, key=lambda row: row[0])


def _styles(results: Sequence[SettingResult]) -> dict[str, Style]:
    """Return a colour and a marker for each method; an interpolation has those of its fine-tuned network."""
    return styles_of({without_alpha(one.label) for item in results for one in item.methods})


def _panels(
    items: Sequence[SettingResult], several_n: bool, with_s: bool = True
) -> tuple[Figure, list[tuple[Axes, SettingResult]]]:
    figure, axes = panel_grid(len(items))
    for each, item in zip(axes, items, strict=False):
        parts = [name_of(item.keys), f"n = {item.n:,.0f}" * several_n, f"s = {item.s:,.0f}" * with_s]
        each.set_title(fitting(", ".join(filter(None, parts)), 44, 44), fontsize=8)
    return figure, list(zip(axes, items, strict=False))


def _point(axes: Axes, one: Compared, style: tuple[str, str], level: float) -> None:
    if not (np.isfinite(one.forgetting.mean) and np.isfinite(one.error.mean)):
        return
    colour, marker = style
    off = one.place.standing == "off"
    axes.errorbar(
        one.forgetting.mean,
        one.error.mean,
        _half(one.error_to_full, level),
        _half(one.forgetting_to_full, level),
        fmt=marker,
        color="0.65" if off else colour,
        markerfacecolor=colour if one.place.standing == "on" else "white",
        markersize=3 if is_interpolation(one.label) else 5.5,
        linewidth=0.8,
        capsize=0,
        zorder=2,
    )


def _half(item: Estimate, level: float) -> float | None:
    low, high = item.interval(level)
    return (high - low) / 2 if np.isfinite(low) and high > low else None


def _curve(
    axes: Axes, rows: Sequence[tuple[float, Estimate]], colour: str, marker: str, level: float, line: str = "-"
) -> None:
    if rows:
        axes.plot(*zip(*((size, item.mean) for size, item in rows), strict=True), line, color=colour, linewidth=1)
    for size, item in rows if marker else ():
        _bar(axes, size, item, colour, marker, level)


def _bar(axes: Axes, at: float, item: Estimate, colour: str, marker: str, level: float) -> None:
    _bars(axes, at, item.mean, item.interval(level), colour, marker)


def _bars(axes: Axes, at: float, mean: float, ends: tuple[float, float], colour: str, marker: str) -> None:
    bars = None
    if np.isfinite(ends[0]):
        bars = [[mean - max(ends[0], 0.02 * mean)], [ends[1] - mean]]  # the axis may be logarithmic
    axes.errorbar(at, mean, bars, fmt=marker, color=colour, markersize=4, linewidth=0.8, capsize=2)
