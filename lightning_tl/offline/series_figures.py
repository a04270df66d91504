"""The figures of a series of checkpoints: losses under modifications, traces and distances over the training seen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_tl.budget_figures import budget_scales, draw_curves
from lightning_tl.figure_style import COLOURS, MARKERS, STYLE, headed, new_figure, plain_ticks, save, short
from lightning_tl.offline.series import Result
from lightning_tl.offline.series_analysis import SeriesAnalysis

#: Figure → title and panels: (quantity, label, whether the unchanged network's loss is drawn too).
_LOSSES = {
    "series_noise": (
        "The loss under noise in the weights",
        (("perturbed_loss", "loss under noise", True), ("sensitivity", "rise under noise", False)),
    ),
    "series_compression": (
        "The loss of the quantised and of the pruned network",
        (
            ("quantised_loss", "loss when quantised", True),
            ("quantisation_rise", "rise when quantised", False),
            ("pruned_loss", "loss when pruned", True),
            ("pruning_rise", "rise when pruned", False),
        ),
    ),
}
#: quantity, group, label, colour
_SINGLE = (
    ("hessian", "trace", "trace of the Hessian"),
    ("hessian", "weighted_trace", "Tr(ΣH)"),
    ("param_distance", "total", "distance from the first checkpoint"),
    ("param_distance", "previous", "distance from the one before"),
)
CAPTIONS = {
    "series_noise": "Loss under noise of scale γ (left; dashed: without noise) and its rise (right), by training seen. "
    "Bars: intervals for comparing these checkpoints. Filled markers: the curve falls, then rises; dotted line and "
    "band: the vertex of a parabola with its interval; triangle: the checkpoint before the first significant increase "
    "(Def. 4.2).",
    "series_compression": "Loss and its rise where the weights are rounded to a number of bits, by output channel, and "
    "where the smallest weights of each tensor are set to 0; nothing is trained afterwards. Markers and bars as above.",
    "series_geometry": "Trace of the Hessian and its average over the noise's variances (bars: two standard errors), "
    "and the distance of the weights from the first checkpoint and from the one before.",
}


def write_figures(results: Sequence[Result], analysis: SeriesAnalysis | None, out: Path) -> list[str]:
    """Write the figures that the results give as PNG files; return their names without the ending."""
    import matplotlib as mpl

    written = []
    with mpl.rc_context(STYLE):
        if analysis is not None:
            for name, (title, panels) in _LOSSES.items():
                if figure := _losses(analysis, title, panels):
                    save(figure, out / f"{name}.png")
                    written.append(name)
        if figure := _geometry(results):
            save(figure, out / "series_geometry.png")
            written.append("series_geometry")
    return written


def _losses(analysis: SeriesAnalysis, title: str, panels: Sequence[tuple[str, str, bool]]) -> Any:
    kept = [(family, label, plain) for name, label, plain in panels if (family := analysis.family(name)) is not None]
    if not kept:
        return None
    figure, grid = new_figure(3.6 * len(kept), 3.2, 1, len(kept))
    for axes, (family, label, plain) in zip(grid[0], kept, strict=True):
        draw_curves(axes, family.curves, [analysis.plain] if plain else [])
        axes.set_ylabel(label)
        axes.set_xlabel(f"training seen ({analysis.unit})")
    headed(figure, title)
    return figure


def _geometry(results: Sequence[Result]) -> Any:
    known = [result for result in results if result.revision.budget]
    panels = []
    for quantity, group, label in _SINGLE:
        points = [
            (int(result.revision.budget or 0), record.value, record.stderr or 0.0)
            for result in known
            for record in result.records
            if (record.quantity, record.group) == (quantity, group)
        ]
        if len(points) > 1:
            panels.append((label, points))
    if not panels:
        return None
    figure, grid = new_figure(3.2 * len(panels), 3.0, 1, len(panels))
    unit = "steps" if known[0].revision.tokens is None else "tokens"
    for i, (axes, (label, points)) in enumerate(zip(grid[0], panels, strict=True)):
        budgets, values, errors = (list(column) for column in zip(*points, strict=True))
        bars = [2 * error for error in errors] if any(errors) else None
        axes.errorbar(budgets, values, bars, fmt=f"{MARKERS[i]}-", color=COLOURS[i], markersize=4, capsize=2)
        budget_scales(axes, ())
        shown = budgets[:: -(-len(budgets) // 6)]
        axes.set_xticks(shown, [short(budget) for budget in shown])
        axes.minorticks_off()
        if min(values) > 0:
            axes.set_yscale("log")
            plain_ticks(axes)
        axes.set_ylabel(label)
        axes.set_xlabel(f"training seen ({unit})")
    headed(figure, "Curvature, and how far the weights move")
    return figure
