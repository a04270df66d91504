"""Figures of the overtraining analysis, each with one row of panels per series."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_tl.budget_figures import budget_scales, draw_bars, draw_curves, label_budgets, shades_of
from lightning_tl.figure_style import COLOURS, MARKERS, STYLE, headed, new_figure, plain_ticks, save_figures
from lightning_tl.study.overtraining.results import Overtraining, Series
from lightning_tl.study.overtraining.words import budget_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Figure → title and panels: (quantity, by, label of the axis).
_PANELS: dict[str, tuple[str, tuple[tuple[str, str, str], ...]]] = {
    "overtraining_sensitivity": (
        "How much the pre-training loss rises, by what is done to the network",
        (("sensitivity", "gamma", "rise under noise"), ("increase", "lr", "rise by fine-tuning")),
    ),
    "overtraining_loss": (
        "The losses after noise and after fine-tuning: do they turn upward?",
        (
            ("perturbed_loss", "gamma", "pre-training loss under noise"),
            ("forgotten", "lr", "pre-training loss after fine-tuning"),
            ("finetune_loss", "lr", "fine-tuning loss"),
            ("error", "lr", "fine-tuning error"),
        ),
    ),
    "overtraining_statistics": (
        "Rise of the pre-training loss by fine-tuning, by BatchNorm statistics",
        (
            ("increase", "lr", "re-estimated"),
            ("increase_saved_bn", "lr", "of the pre-training"),
            ("increase_target_bn", "lr", "of the target data"),
        ),
    ),
    "overtraining_reestimated": (
        "Under noise, with BatchNorm's statistics re-estimated",
        (
            ("re-estimated/sensitivity", "gamma", "rise under noise"),
            ("re-estimated/perturbed_loss", "gamma", "pre-training loss under noise"),
        ),
    ),
    "overtraining_relative": (
        "Under noise relative to the norm of each filter or row, which growing weights cannot hide",
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
    "pre-training head), and loss and error of the fine-tuning task on test data. Filled markers: the curve falls, "
    "then rises; dotted line and band: the vertex of a parabola with its interval; triangle: the inflection point of "
    "Def. 4.2, the budget before the first significant increase.",
    "overtraining_statistics": "The same fine-tuned weights under three sets of BatchNorm statistics. Only the "
    "re-estimated ones show what the change of the weights does; statistics of the target data raise the loss even "
    "where no weight has moved.",
    "overtraining_tuned": "The learning rate with the lowest fine-tuning loss on validation data at each budget, and "
    "losses and error at it.",
    "overtraining_distance": "Distance of the backbone from the pre-trained one by learning rate, for each budget.",
    "overtraining_noise_quadratic": "Rise under noise (markers) and its quadratic approximation ½γ²Tr(ΣH) from the "
    "measured trace (dashed), by budget.",
    "overtraining_line_quadratic": "Rise from pre-trained to fine-tuned weights (markers) and its quadratic "
    "approximation gᵀd + ½dᵀHd (dashed), by budget. BatchNorm, where there is any, normalises by the batch.",
    "overtraining_reestimated": "Rise and loss under noise by initialisation where BatchNorm's statistics are "
    "re-estimated for each perturbed network.",
    "overtraining_relative": "Rise and loss under noise relative to the norm of each filter (convolution) or row "
    "(matrix).",
}
_WITHOUT_BARS = ("overtraining_noise_quadratic", "overtraining_line_quadratic")


def figures(analysis: Overtraining) -> dict[str, Figure]:
    """Return the figures that an analysis gives, by name."""
    panels = {name: _budgets(analysis, *_PANELS[name]) for name in _PANELS}
    if not _has_statistics(analysis):
        panels["overtraining_statistics"] = None
    drawn: dict[str, Figure | None] = {
        "overtraining_sensitivity": panels["overtraining_sensitivity"],
        "overtraining_loss": panels["overtraining_loss"],
        "overtraining_tuned": _tuned(analysis),
        "overtraining_distance": _distance(analysis),
        "overtraining_noise_quadratic": _noise_quadratic(analysis),
        "overtraining_line_quadratic": _line_quadratic(analysis),
        **{name: panels[name] for name in list(_PANELS)[2:]},
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def write(analysis: Overtraining, folder: Path) -> list[dict[str, str]]:
    """Write the figures as PNG, also for narrow screens; return file and caption of each."""
    written = []
    for name in save_figures(lambda: figures(analysis), folder):
        bars = f" Bars: {100 * analysis.level:g} % intervals for comparing budgets."
        note = "" if name in _WITHOUT_BARS else bars
        written.append({"file": f"{name}.png", "caption": _CAPTIONS[name] + note})
    return written


def _has_statistics(analysis: Overtraining) -> bool:
    """Tell whether the networks have BatchNorm: without it the three rises of the pre-training loss are the same."""
    first, *others = (
        [curve.mean for series in analysis.series for curve in series.family(quantity, "lr")]
        for quantity, _, _ in _PANELS["overtraining_statistics"][1]
    )
    return any(len(other) != len(first) or not np.allclose(other, first, equal_nan=True) for other in others)


def _budgets(analysis: Overtraining, title: str, panels: Sequence[tuple[str, str, str]]) -> Figure | None:
    import matplotlib as mpl

    kept = [panel for panel in panels if any(series.family(*panel[:2]) for series in analysis.series)]
    if not kept:
        return None
    with mpl.rc_context(STYLE):
        figure, grid = _grid(analysis.series, len(kept))
        for row, series in zip(grid, analysis.series, strict=True):
            for axes, (quantity, by, label) in zip(row, kept, strict=True):
                draw_curves(axes, series.family(quantity, by), series.family(_unchanged(quantity)))
                axes.set_xlabel(f"pre-training budget ({series.unit})")
                axes.set_ylabel(label)
                axes.set_title(series.name, fontsize=8)
        headed(figure, title)
        return figure


def _unchanged(quantity: str) -> str:
    """Return what a changed network's loss is drawn beside: the quantity of the unchanged one; empty for none."""
    if quantity.endswith("perturbed_loss"):
        return quantity.replace("perturbed_loss", "unperturbed_loss")
    return "before" if quantity == "forgotten" else ""


def _grid(series: Sequence[Series], columns: int) -> tuple[Figure, Any]:
    return new_figure(max(3.3 * columns, 4.2), 2.7 * len(series) + 0.4, len(series), columns)


def _tuned(analysis: Overtraining) -> Figure | None:
    import matplotlib as mpl

    drawn = [(series, series.tuned) for series in analysis.series if series.tuned is not None]
    if not drawn:
        return None
    with mpl.rc_context(STYLE):
        figure, grid = _grid([series for series, _ in drawn], 4)
        for row, (series, tuned) in zip(grid, drawn, strict=True):
            lr, ends = np.array(tuned.lr), np.array(tuned.interval).T
            bars = None if np.isnan(ends).any() else np.maximum([lr - ends[0], ends[1] - lr], 0)
            row[0].errorbar(tuned.budgets, lr, bars, fmt="o-", color=COLOURS[0], markersize=4, capsize=2)
            row[0].set_yscale("log")
            plain_ticks(row[0])
            row[0].set_ylabel("best learning rate")
            row[0].set_title(", ".join(filter(None, [series.name, tuned.scenario])), fontsize=8)
            budget_scales(row[0], ())
            label_budgets(row[0], tuned.budgets)
            labels = ("pre-training loss", "fine-tuning loss", "fine-tuning error")
            for axes, item, label in zip(row[1:], tuned.curves, labels, strict=True):
                draw_bars(axes, item, COLOURS[1], "s", "")
                axes.set_ylabel(f"{label} at the best lr")
                budget_scales(axes, [item])
            for axes in row:
                axes.set_xlabel(f"pre-training budget ({series.unit})")
        headed(figure, "With the learning rate tuned at each budget")
        return figure


def _distance(analysis: Overtraining) -> Figure | None:
    import matplotlib as mpl

    drawn = [series for series in analysis.series if len(series.family("distance", "lr")) > 1]
    if not drawn:
        return None
    with mpl.rc_context(STYLE):
        figure, grid = _grid(drawn, 1)
        for axes, series in zip(grid[:, 0], drawn, strict=True):
            family = series.family("distance", "lr")
            rates = [item.value or 0.0 for item in family]
            for i, (budget, colour) in enumerate(zip(series.budgets, shades_of(len(series.budgets)), strict=True)):
                mean = np.array([item.mean[i] for item in family])
                low, high = ([getattr(item, end)[i] for item in family] for end in ("low", "high"))
                label = budget_text(budget, series.unit)
                axes.plot(rates, mean, f"{MARKERS[i % len(MARKERS)]}-", color=colour, markersize=4, label=label)
                if not np.isnan(low).any():
                    axes.fill_between(rates, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.set_xscale("log")
            axes.set_yscale("log")
            plain_ticks(axes)
            axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
            axes.minorticks_off()
            axes.set_xlabel("learning rate of fine-tuning")
            axes.set_ylabel("‖θ_pre − θ_ft‖₂ of the backbone")
            axes.set_title(series.name, fontsize=8)
            axes.legend(title=series.unit, title_fontsize=7, fontsize=6.5)
        headed(figure, "How far fine-tuning moves the backbone")
        return figure


def _noise_quadratic(analysis: Overtraining) -> Figure | None:
    import matplotlib as mpl

    drawn = [series for series in analysis.series if series.noise]
    if not drawn:
        return None
    kinds = list(dict.fromkeys(item.noise for series in drawn for item in series.noise))
    with mpl.rc_context(STYLE):
        figure, grid = _grid(drawn, len(kinds))
        for row, series in zip(grid, drawn, strict=True):
            by_kind = {item.noise: item for item in series.noise}
            for axes, kind in zip(row, kinds, strict=True):
                if kind in by_kind:
                    item = by_kind[kind]
                    _against(axes, series, item.gammas, item.measured, item.predicted)
                axes.set_xlabel(f"scale γ of the noise ({kind.strip('/') or 'by initialisation'})")
                axes.set_ylabel("rise of the loss")
                axes.set_title(series.name, fontsize=8)
        headed(figure, "The loss under noise and its quadratic approximation")
        return figure


def _line_quadratic(analysis: Overtraining) -> Figure | None:
    import matplotlib as mpl

    lines = [(series, series.line) for series in analysis.series if series.line is not None]
    if not lines:
        return None
    with mpl.rc_context(STYLE):
        figure, grid = _grid([series for series, _ in lines], 1)
        for axes, (series, item) in zip(grid[:, 0], lines, strict=True):
            _against(axes, series, item.lrs, item.measured, item.predicted)
            axes.set_xlabel("learning rate of fine-tuning")
            axes.set_ylabel("rise of the loss")
            axes.set_title(series.name, fontsize=8)
        headed(figure, "The loss along fine-tuning and its quadratic approximation")
        return figure


def _against(
    axes: Any,
    series: Series,
    scales: Sequence[float],
    measured: Sequence[Sequence[float]],
    predicted: Sequence[Sequence[float]],
) -> None:
    """Draw measured rises and their approximation over scales, one colour per budget."""
    colours = shades_of(len(series.budgets))
    for i, (budget, real, approximate) in enumerate(zip(series.budgets, measured, predicted, strict=True)):
        marker, colour = MARKERS[i % len(MARKERS)], colours[i]
        axes.plot(scales, real, f"{marker}-", color=colour, markersize=4, label=budget_text(budget, series.unit))
        axes.plot(scales, approximate, "--", color=colour, linewidth=1)
    axes.set_xscale("log")
    values = np.abs(np.concatenate([np.ravel(measured), np.ravel(predicted)]))
    if np.min(measured) > 0 and np.min(predicted) > 0:
        axes.set_yscale("log")
    else:
        axes.set_yscale("symlog", linthresh=max(float(np.quantile(values, 0.1)), 1e-6))
    axes.set_xticks(scales, [f"{scale:g}" for scale in scales])
    axes.minorticks_off()
    axes.legend(title=series.unit, title_fontsize=7, fontsize=6.5)
