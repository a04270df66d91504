"""Figures of the caulking lab."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lightning_tl.figure_style import COLOURS, headed, new_figure, noted, number, plain_ticks
from lightning_tl.labs.lab_figures import cases, draw_line, draw_points, titled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lightning_tl.labs.caulking_parameters import CaulkingParameters
    from lightning_tl.labs.outcome import Outcome

_NOTE = "Lines: theory. Points: simulation, with one standard error."


CAPTIONS = {
    "kernel": "Kernel ridge regression of the residual: samples needed for one error, and learning curves.",
    "lora": "A residual of known rank learnt by LoRA of that rank.",
}


def figures(lab: CaulkingParameters, outcome: Outcome) -> dict[str, Figure]:
    """Return the figures by name."""
    return {"kernel": _kernel(lab, outcome), "lora": _lora(lab, outcome)}


def _logarithmic(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    plain_ticks(axes)


def _kernel(lab: CaulkingParameters, outcome: Outcome) -> Figure:
    figure, axes = new_figure(10, 3.8, 1, 3)
    left, middle, right = axes[0]
    for index, (case, points) in enumerate(cases(outcome.part("samples")).items()):
        draw_points(left, points, index, case)
        draw_line(left, [point.at for point in points], [point.theory for point in points], index)
    _logarithmic(left)
    left.set_xticks(lab.sizes, [f"{m:g}" for m in lab.sizes])
    titled(left, "samples for the same error", "size m of the pre-trained part", "samples s")
    kernel, fainter = lab.kernel(), lab.residuals()[0]
    grid = np.geomspace(lab.samples / 6, 1.3 * lab.samples, 24)
    target = outcome.facts["target_errors"][fainter.name]
    needed = outcome.part("samples", fainter.name)
    for index, (m, point) in enumerate(zip(lab.sizes, outcome.part("error", fainter.name), strict=True)):
        draw_line(middle, grid, [kernel.error(fainter.squares(m), s, 0.0) for s in grid], index)
        middle.lines[-1].set_label(f"m = {m:g}")
        middle.errorbar(
            round(needed[index].theory), point.simulation, point.stderr, fmt="o", markersize=4, color=COLOURS[index]
        )
    middle.axhline(target, color="0.6", linewidth=0.6, linestyle=":")
    _logarithmic(middle)
    titled(middle, "a fainter residual (dotted: the error to reach)", "samples s", "excess error")
    circle = outcome.part("circle")
    draw_points(right, circle, 1, "kernel on the circle")
    grid = np.geomspace(circle[0].at, circle[-1].at, 20)
    eigenfunctions = np.repeat(np.arange(1, lab.d // 2 + 1), 2)
    same, squares = type(kernel)(eigenfunctions**-lab.decay), eigenfunctions**-lab.target_decay
    draw_line(right, grid, [same.error(squares, s, 0.0) for s in grid], 0)
    right.lines[-1].set_label("theory for independent features")
    _logarithmic(right)
    titled(right, "eigenfunctions that are not independent", "samples s", "excess error")
    headed(figure, "Kernel ridge regression of what a pre-trained part leaves")
    noted(figure, f"{_NOTE} Eigenvalues i^-{number(lab.decay)}, target i^-{number(lab.target_decay)}.")
    return figure


def _lora(lab: CaulkingParameters, outcome: Outcome) -> Figure:
    figure, axes = new_figure(9, 3.8, 1, 2)
    for each, (name, network) in zip(axes[0], lab.layers().items(), strict=True):
        for index, (case, points) in enumerate(cases(outcome.part(name)).items()):
            draw_points(each, points, index, f"LoRA, {case}")
            rank = int(case.split()[1])
            grid = np.geomspace(0.8 * points[0].at, 1.25 * points[-1].at, 30)
            draw_line(each, grid, [network.theory(rank, s) for s in grid], index)
        full = outcome.part(f"{name}: all weights")
        grid = np.geomspace(0.8 * network.samples, 1.25 * network.samples, 30)
        each.plot(grid, [network.full_theory(s) for s in grid], color="black", linewidth=1.2)
        each.plot(
            [p.at for p in full], [p.simulation for p in full], "X", color="black", markersize=5, label="all weights"
        )
        each.axhline(network.theory(lab.rank, network.samples), color="0.6", linewidth=0.6, linestyle=":")
        _logarithmic(each)
        titled(each, f"{name} (dotted: the error to reach)", "samples s", "excess error")
    headed(figure, "A residual of rank r, learnt by LoRA of rank r")
    rest = f"All weights: at residuals of rank {lab.rank_at(lab.sizes[0])} and {lab.rank_at(lab.sizes[-1])}."
    noted(figure, f"{_NOTE} {rest}")
    return figure
