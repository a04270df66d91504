"""The figures of a series of checkpoints: losses under modifications, traces and distances over the training seen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_tl.budget_figures import budget_scales, draw_curves, label_budgets
from lightning_tl.figure_style import COLOURS, MARKERS, STYLE, headed, new_figure, plain_ticks, save
from lightning_tl.offline.series import Result
from lightning_tl.offline.series_analysis import SeriesAnalysis

#: Figure → title and panels: (quantity, label, curve of the unchanged network that is drawn too, or none).
_LOSSES = {
    "series_noise": (
        "The loss under noise in the weights",
        (("perturbed_loss", "loss under noise", "plain"), ("sensitivity", "rise under noise", "")),
    ),
    "series_finetuning": (
        "The loss after fine-tuning",
        (
            ("finetune_loss", "loss on the fine-tuning text", "target"),
            ("pretrain_loss_after", "loss on the pre-training text", "plain"),
            ("pretrain_rise", "its rise by fine-tuning", ""),
        ),
    ),
    "series_compression": (
        "The loss of the quantised and of the pruned network",
        (
            ("quantised_loss", "loss when quantised", "plain"),
            ("quantisation_rise", "rise when quantised", ""),
            ("pruned_loss", "loss when pruned", "plain"),
            ("pruning_rise", "rise when pruned", ""),
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
    "series_finetuning": "Loss after fine-tuning at each learning rate, on held-out windows of the text that was "
    "fine-tuned on and of the pre-training text (dashed: before fine-tuning), and the rise of the latter, by training "
    "seen. Bars: intervals for comparing these checkpoints. Filled markers: the curve falls, then rises; dotted line "
    "and band: the vertex of a parabola with its interval; triangle: the checkpoint before the first significant "
    "increase (Def. 4.2).",
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


def _losses(analysis: SeriesAnalysis, title: str, panels: Sequence[tuple[str, str, str]]) -> Any:
    kept = [(family, label, curve) for name, label, curve in panels if (family := analysis.family(name)) is not None]
    if not kept:
        return None
    rows = -(-len(kept) // 2)
    figure, grid = new_figure(3.6 * min(2, len(kept)), 2.9 * rows + 0.3, rows, min(2, len(kept)))
    for axes in list(grid.flat)[len(kept) :]:
        axes.set_visible(False)
    for axes, (family, label, unchanged) in zip(grid.flat, kept, strict=False):
        before = getattr(analysis, unchanged) if unchanged else None
        draw_curves(axes, family.curves, [] if before is None else [before])
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
    rows = -(-len(panels) // 2)
    figure, grid = new_figure(3.6 * min(2, len(panels)), 2.9 * rows + 0.3, rows, min(2, len(panels)))
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    unit = "steps" if known[0].revision.tokens is None else "tokens"
    for i, (axes, (label, points)) in enumerate(zip(grid.flat, panels, strict=False)):
        budgets, values, errors = (list(column) for column in zip(*points, strict=True))
        bars = [2 * error for error in errors] if any(errors) else None
        axes.errorbar(budgets, values, bars, fmt=f"{MARKERS[i]}-", color=COLOURS[i], markersize=4, capsize=2)
        budget_scales(axes, ())
        label_budgets(axes, budgets)
        if min(values) > 0:
            axes.set_yscale("log")
            plain_ticks(axes)
        axes.set_ylabel(label)
        axes.set_xlabel(f"training seen ({unit})")
    headed(figure, "Curvature, and how far the weights move")
    return figure
