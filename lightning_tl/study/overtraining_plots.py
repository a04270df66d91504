"""Figures of the overtraining analysis, each for all series: a row a series."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_tl.laws.plots import COLOURS, MARKERS, STYLE, headed, new_figure, plain_ticks, save
from lightning_tl.study.curves import Curve
from lightning_tl.study.overtraining import QUADRATIC, Overtraining, Series

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BUDGET = "pre-training budget (steps)"
_SYMBOL = {"gamma": "γ", "lr": "lr"}
#: Figure → title and panels: (quantity, by, label of the axis).
_PANELS: dict[str, tuple[str, tuple[tuple[str, str, str], ...]]] = {
    "overtraining_sensitivity": (
        "How much the pre-training loss rises, by what is done to the network",
        (("sensitivity", "gamma", "rise under noise"), ("increase", "lr", "rise by fine-tuning")),
    ),
    "overtraining_loss": (
        "The pre-training loss after noise and after fine-tuning: is there a turn upward?",
        (
            ("perturbed_loss", "gamma", "loss under noise"),
            ("forgotten", "lr", "loss after fine-tuning"),
            ("error", "lr", "fine-tuning error"),
        ),
    ),
    "overtraining_relative": (
        "The same under noise by each filter's norm, in which growing weights do not count",
        (
            ("relative/sensitivity", "gamma", "rise under relative noise"),
            ("relative/perturbed_loss", "gamma", "loss under relative noise"),
        ),
    ),
}
_CAPTIONS = {
    "overtraining_sensitivity": "Rise of the held-out pre-training loss under noise of scale γ (left) and by "
    "fine-tuning at each learning rate (right), by budget.",
    "overtraining_loss": "Held-out pre-training loss under noise and after fine-tuning (backbone under the saved "
    "pre-training head), and the error on the fine-tuning task. Filled marks: falls, then rises; the dotted line is "
    "where it turns, with its interval.",
    "overtraining_tuned": "The learning rate with the lowest fine-tuning error at each budget, and pre-training loss "
    "and fine-tuning error at it.",
    "overtraining_distance": "Distance of the backbone from the pre-trained one by learning rate, a curve a budget.",
    "overtraining_quadratic": "Rise under noise over its quadratic approximation from the smallest γ: 1 where the loss "
    "is quadratic.",
    "overtraining_relative": "Rise and loss under noise relative to each filter's norm.",
}


def figures(found: Overtraining) -> dict[str, Figure]:
    """Return the figures that an analysis gives, by name."""
    drawn: dict[str, Figure | None] = {name: _budgets(found, *_PANELS[name]) for name in list(_PANELS)[:2]}
    drawn["overtraining_tuned"] = _tuned(found)
    drawn["overtraining_distance"] = _distance(found)
    drawn["overtraining_quadratic"] = _quadratic(found)
    drawn["overtraining_relative"] = _budgets(found, *_PANELS["overtraining_relative"])
    return {name: figure for name, figure in drawn.items() if figure is not None}


def write(found: Overtraining, folder: Path) -> list[dict[str, str]]:
    """Write the figures as PNG; return file and caption of each."""
    written = []
    for name, figure in figures(found).items():
        save(figure, folder / f"{name}.png")
        note = f" Bars: {100 * found.level:g} % intervals for comparing budgets." if "quadratic" not in name else ""
        written.append({"file": f"{name}.png", "caption": _CAPTIONS[name] + note})
    return written


def _budgets(found: Overtraining, title: str, panels: Sequence[tuple[str, str, str]]) -> Figure | None:
    import matplotlib as mpl

    kept = [panel for panel in panels if any(one.family(*panel[:2]) for one in found.series)]
    if not kept:
        return None
    with mpl.rc_context(STYLE):
        figure, grid = _grid(found.series, len(kept))
        for row, one in zip(grid, found.series, strict=True):
            for axes, (quantity, by, label) in zip(row, kept, strict=True):
                _curves(axes, one.family(quantity, by), one.family("before"), quantity.endswith("loss") or by == "lr")
                axes.set_ylabel(label)
                axes.set_title(one.name, fontsize=8)
        headed(figure, title)
        return figure


def _grid(series: Sequence[Series], columns: int) -> tuple[Figure, Any]:
    return new_figure(max(3.3 * columns, 4.2), 2.7 * len(series) + 0.4, len(series), columns)


def _curves(axes: Any, family: Sequence[Curve], before: Sequence[Curve], loss: bool) -> None:
    for i, item in enumerate(family):
        colour = COLOURS[i % len(COLOURS)]
        _bars(axes, item, colour, MARKERS[i % len(MARKERS)], f"{_SYMBOL[item.by]} {item.value:g}")
        if item.verdict == "u":
            axes.axvline(item.inflection, color=colour, linestyle=":", linewidth=1)
            axes.axvspan(*item.inflection_interval, color=colour, alpha=0.08, linewidth=0)
    if loss and family and family[0].quantity.endswith(("perturbed_loss", "forgotten")):
        for item in before:
            axes.plot(item.budgets, item.mean, color="0.4", linestyle="--", linewidth=1, label="as pre-trained")
    axes.set_xlabel(_BUDGET)
    _scales(axes, family)
    if family:
        axes.legend(fontsize=6.5, loc="best", handlelength=1.4)


def _bars(axes: Any, item: Curve, colour: str, marker: str, label: str) -> None:
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


def _scales(axes: Any, family: Sequence[Curve]) -> None:
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log")
    if family and all(item.log for item in family):
        axes.set_yscale("log")
        plain_ticks(axes)
    if family:
        axes.set_xticks(family[0].budgets, [f"{budget:,}" for budget in family[0].budgets])
        axes.xaxis.set_minor_locator(NullLocator())


def _tuned(found: Overtraining) -> Figure | None:
    import matplotlib as mpl

    series = [one for one in found.series if one.tuned is not None]
    if not series:
        return None
    with mpl.rc_context(STYLE):
        figure, grid = _grid(series, 3)
        for row, one in zip(grid, series, strict=True):
            tuned = one.tuned
            assert tuned is not None
            lr, ends = np.array(tuned.lr), np.array(tuned.interval).T
            bars = None if np.isnan(ends).any() else np.maximum([lr - ends[0], ends[1] - lr], 0)
            row[0].errorbar(tuned.budgets, lr, bars, fmt="o-", color=COLOURS[0], markersize=4, capsize=2)
            row[0].set_yscale("log")
            plain_ticks(row[0])
            row[0].set_ylabel("best learning rate")
            row[0].set_title(", ".join(filter(None, [one.name, tuned.scenario])), fontsize=8)
            _scales(row[0], ())
            row[0].set_xticks(tuned.budgets, [f"{budget:,}" for budget in tuned.budgets])
            row[0].minorticks_off()
            for axes, item, label in zip(
                row[1:], tuned.curves, ("pre-training loss", "fine-tuning error"), strict=True
            ):
                _bars(axes, item, COLOURS[1], "s", "")
                axes.set_ylabel(f"{label} at the best lr")
                _scales(axes, [item])
            for axes in row:
                axes.set_xlabel(_BUDGET)
        headed(figure, "With the learning rate tuned at each budget")
        return figure


def _distance(found: Overtraining) -> Figure | None:
    import matplotlib as mpl

    series = [one for one in found.series if len(one.family("distance", "lr")) > 1]
    if not series:
        return None
    with mpl.rc_context(STYLE):
        figure, grid = _grid(series, 1)
        for axes, one in zip(grid[:, 0], series, strict=True):
            family = one.family("distance", "lr")
            rates = [item.value or 0.0 for item in family]
            for i, budget in enumerate(one.budgets):
                colour, mean = COLOURS[i % len(COLOURS)], np.array([item.mean[i] for item in family])
                low, high = ([getattr(item, end)[i] for item in family] for end in ("low", "high"))
                axes.plot(rates, mean, f"{MARKERS[i % len(MARKERS)]}-", color=colour, markersize=4, label=f"{budget:,}")
                if not np.isnan(low).any():
                    axes.fill_between(rates, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.set_xscale("log")
            axes.set_yscale("log")
            plain_ticks(axes)
            axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
            axes.minorticks_off()
            axes.set_xlabel("learning rate of fine-tuning")
            axes.set_ylabel("‖θ_pre − θ_ft‖₂ of the backbone")
            axes.set_title(one.name, fontsize=8)
            axes.legend(title="steps", title_fontsize=7, fontsize=6.5)
        headed(figure, "How far fine-tuning moves the backbone")
        return figure


def _quadratic(found: Overtraining) -> Figure | None:
    import matplotlib as mpl

    series = [one for one in found.series if one.quadratic]
    if not series:
        return None
    kinds = list(dict.fromkeys(item.noise for one in series for item in one.quadratic))
    with mpl.rc_context(STYLE):
        figure, grid = _grid(series, len(kinds))
        for row, one in zip(grid, series, strict=True):
            for axes, kind in zip(row, kinds, strict=True):
                for item in one.quadratic:
                    if item.noise != kind:
                        continue
                    for i, (budget, ratio) in enumerate(zip(item.budgets, item.ratio, strict=True)):
                        marker, colour = MARKERS[i % len(MARKERS)], COLOURS[i % len(COLOURS)]
                        axes.plot(item.gammas, ratio, f"{marker}-", color=colour, markersize=4, label=f"{budget:,}")
                axes.axhspan(1 - QUADRATIC, 1 + QUADRATIC, color="0.5", alpha=0.12, linewidth=0)
                axes.set_xscale("log")
                plain_ticks(axes)
                gammas = sorted({gamma for item in one.quadratic for gamma in item.gammas})
                axes.set_xticks(gammas, [f"{gamma:g}" for gamma in gammas])
                axes.minorticks_off()
                axes.set_xlabel(f"scale γ of the noise ({kind.strip('/') or 'by initialisation'})")
                axes.set_ylabel("rise / its quadratic approximation")
                axes.set_title(one.name, fontsize=8)
                axes.legend(title="steps", title_fontsize=7, fontsize=6.5)
        headed(figure, "How far the loss is quadratic under noise")
        return figure
