"""Figures of the lab of transfer in the kernel limit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_tl.figure_style import COLOURS, MARKERS, headed, new_figure, noted, plain_ticks
from lightning_tl.labs.lab_figures import cases, draw_line, draw_points, titled
from lightning_tl.laws import AdditiveLaw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lightning_tl.labs.ntk_transfer_parameters import NtkTransferParameters
    from lightning_tl.labs.outcome import Outcome


CAPTIONS = {
    "curves": "Learning curves in the kernel limit.",
    "kernel": "Kernel limit: the exact error over n and s, with both laws fitted to all but the largest sizes.",
    "network": "Networks: the mean error over n and s, with both laws fitted to all but the largest sizes.",
}


def figures(lab: NtkTransferParameters, outcome: Outcome) -> dict[str, Figure]:
    """Return the figures by name."""
    return {
        "curves": _curves(lab, outcome),
        "kernel": _surfaces(outcome, "kernel", "Both laws on the kernel limit"),
        "network": _surfaces(outcome, "network", "Both laws on two-layer networks"),
    }


def _curves(lab: NtkTransferParameters, outcome: Outcome) -> Figure:
    figure, axes = new_figure(10, 3.8, 1, 3)
    left, middle, right = axes[0]
    grid = np.geomspace(min(lab.n) / 2, 2 * max(lab.n), 20)
    for each, name, order in ((left, "pre-training", lab.source), (middle, "fine-tuning", lab.gap)):
        for index, (case, points) in enumerate(cases(outcome.part(name)).items()):
            draw_points(each, points, index, case)
            kernel = lab.kernel(noisy=case == "noisy labels")
            draw_line(each, grid, [kernel.error(order, m) for m in grid], index)
        titled(each, f"{name} by itself", "samples", "error")
    kernel = lab.kernel()
    for index, (case, points) in enumerate(cases(outcome.part("transfer")).items()):
        draw_points(right, points, index, case)
        s, frozen = int(case.split("= ")[1]), case.startswith("backbone")
        draw_line(right, grid, [kernel.transferred(n, s, frozen) for n in grid], index)
    titled(right, "both phases, clean labels", "source samples n", "error")
    for each in axes[0]:
        each.set_xscale("log")
        each.set_yscale("log")
        plain_ticks(each)
    headed(figure, "Learning in the kernel limit: theory and simulation")
    noted(figure, "Lines: theory. Points: simulation, with one standard error.")
    return figure


def _surfaces(outcome: Outcome, prefix: str, title: str) -> Figure:
    facts = {case: fact for case, fact in outcome.facts.items() if case.startswith(prefix)}
    columns = 3 if len(facts) == 3 else 2
    rows = len(facts) // columns
    figure, axes = new_figure(4.5 * columns, 0.6 + 3.2 * rows, rows, columns)
    for each, (case, fact) in zip(axes.flat, facts.items(), strict=True):
        _surface(each, fact)
        titled(each, case.removeprefix(f"{prefix}, ") + f" ({fact['winner']} law closer)", "source samples n", "error")
        each.legend(fontsize=7, ncols=2, loc="upper right")
    headed(figure, title)
    noted(
        figure,
        "Points: errors; hollow ones (largest n, largest s) are held out. "
        "Lines: δ(γ + n^-α)s^-β; dashed: An^-a + Bs^-b.",
    )
    return figure


def _surface(axes: Axes, fact: dict[str, Any]) -> None:
    from lightning_tl.laws import FullLaw

    points = np.array(fact["points"])
    sizes = sorted(set(points[:, 1]))
    for index, s in enumerate(sizes):
        n, error = points[points[:, 1] == s][:, [0, 2]].T
        colour = COLOURS[index % len(COLOURS)]
        held = (n == points[:, 0].max()) | (s == sizes[-1])
        marker = MARKERS[index % len(MARKERS)]
        axes.plot(n[~held], error[~held], marker, color=colour, markersize=3.5, label=f"s = {s:g}")
        axes.plot(n[held], error[held], marker, color=colour, markersize=3.5, fillstyle="none")
        grid = np.geomspace(n[0], n[-1], 40)
        draw_line(axes, grid, FullLaw().predict(fact["multiplicative"], grid, np.full_like(grid, s)), index)
        draw_line(axes, grid, AdditiveLaw().predict(fact["additive"], grid, np.full_like(grid, s)), index, dashed=True)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(top=2.5 * points[:, 2].max())  # room for the legend
    plain_ticks(axes)
