"""Figures of the partial-transfer lab."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lightning_tl.figure_style import headed, new_figure, noted
from lightning_tl.labs.lab_figures import draw_line, draw_points, titled
from lightning_tl.labs.partial_transfer_theory import accuracy, harmful_share

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lightning_tl.labs.outcome import Outcome
    from lightning_tl.labs.partial_transfer_parameters import PartialTransferParameters


CAPTIONS = {
    "accuracy": "Test accuracy against the share of filters inherited.",
    "region": "Where inheriting helps and where it harms.",
}


def figures(lab: PartialTransferParameters, outcome: Outcome) -> dict[str, Figure]:
    """Return the figures by name."""
    return {"accuracy": _accuracy(lab, outcome), "region": _region(lab, outcome)}


def _accuracy(lab: PartialTransferParameters, outcome: Outcome) -> Figure:
    figure, axes = new_figure(10.5, 3.7, 1, len(lab.upstream), sharey=True)
    grid = np.array([0, 0.1, 0.25, 0.5, 0.75, 0.9, 1])
    for panel, upstream in zip(axes[0], lab.upstream, strict=True):
        for index, shared in enumerate(lab.shared):
            points = outcome.part("scratch", f"τ = {shared:g}")
            start = [type(point)(**{**vars(point), "at": 0.0}) for point in points]
            points = start + outcome.part("accuracy", f"n₁ = {upstream}, τ = {shared:g}")
            draw_points(panel, points, index, f"τ = {shared:g}")
            setting = lab.setting(upstream, shared)
            draw_line(panel, grid, [accuracy(setting, float(x)) for x in grid], index)
        titled(panel, f"{upstream} upstream samples", "share of filters inherited", "")
    axes[0, 0].set_ylabel("test accuracy")
    for panel in axes[0, 1:]:
        panel.get_legend().remove()
    headed(figure, "Accuracy after inheriting a share of the filters; τ: share of the signal that is universal")
    noted(figure, "Lines: signal-to-noise argument. Points: simulation, with one standard error over networks.")
    return figure


def _region(lab: PartialTransferParameters, outcome: Outcome) -> Figure:
    figure, axes = new_figure(10.5, 3.7, 1, len(lab.upstream), sharey=True)
    shares, shared = np.linspace(0.1, 1, 10), np.linspace(0, 0.6, 7)
    for panel, upstream in zip(axes[0], lab.upstream, strict=True):
        start = accuracy(lab.setting(upstream, 0.0), 0.0)
        gains = np.array(
            [[accuracy(lab.setting(upstream, float(t)), float(a)) - start for a in shares] for t in shared]
        )
        panel.contourf(shares, shared, gains, levels=[-1, 0], colors=["#D55E00"], alpha=0.25)
        threshold = [harmful_share(lab.setting(upstream, float(t))) for t in np.linspace(0, 1, 200)]
        panel.plot(np.minimum(threshold, 2), np.linspace(0, 1, 200), "--", color="0.3", linewidth=1)
        for cell in outcome.facts["cells"]:
            if cell["upstream"] != upstream:
                continue
            marker, colour = ("v", "#D55E00") if cell["gain"] < 0 else ("^", "#0072B2")
            face = colour if cell["decided"] else "none"
            panel.plot(cell["share"], cell["shared"], marker, color=colour, markerfacecolor=face, markersize=8)
            text = f"{100 * cell['gain']:+.1f}"
            panel.annotate(
                text, (cell["share"], cell["shared"]), (0, 7), textcoords="offset points", ha="center", size=7
            )
        panel.set_xlim(0, 1.08)
        panel.set_ylim(-0.06, 1.06)
        titled(panel, f"{upstream} upstream samples", "share of filters inherited", "")
    axes[0, 0].set_ylabel("universal share τ of the signal")
    headed(figure, "Where inheriting filters helps, and where it harms (negative transfer)")
    noted(
        figure,
        "Markers: simulated gain over training from scratch, in percentage points (filled: beyond chance). "
        "Shaded: harm by the signal-to-noise argument. Dashed: its lowest order, harm below.",
    )
    return figure
