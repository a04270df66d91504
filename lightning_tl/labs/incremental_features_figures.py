"""Figures of the incremental-features lab."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lightning_tl.figure_style import COLOURS, headed, new_figure, noted, plain_ticks
from lightning_tl.labs.incremental_features_theory import noisy_losses, strength, tuned_losses, turn, vertex
from lightning_tl.labs.lab_figures import cases, draw_line, draw_points, titled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lightning_tl.labs.incremental_features_parameters import IncrementalFeaturesParameters
    from lightning_tl.labs.outcome import Outcome

_NOTE = "Lines: theory. Points: simulation, with one standard error."
_FEATURES = "features learnt in pre-training"


CAPTIONS = {
    "learning": "Features are learnt one after another; under noise, those below 2dγ² cost more than they gain.",
    "fine_tuning": "Fine-tuning from longer pre-training: what it does to the pre-training loss, and its own loss.",
    "library": "What the library's analysis and its callbacks find, against the theory.",
}


def figures(lab: IncrementalFeaturesParameters, outcome: Outcome) -> dict[str, Figure]:
    """Return the figures by name."""
    return {
        "learning": _learning(lab, outcome),
        "fine_tuning": _fine_tuning(lab, outcome),
        "library": _library(lab, outcome),
    }


def _learning(lab: IncrementalFeaturesParameters, outcome: Outcome) -> Figure:
    figure, axes = new_figure(9, 3.6, 1, 2)
    left, right = axes[0]
    facts, spectrum = outcome.facts, np.array(lab.spectrum)
    times, paths = np.array(facts["times"]), np.array(facts["strengths"])
    grid = np.geomspace(times[0], times[-1], 400)
    for n, (sigma, start) in enumerate(zip(spectrum, facts["starts"], strict=True)):
        draw_line(left, grid, strength(sigma, start, grid), n)
        own = slice(n % 7, None, 7)
        left.plot(times[own], paths[own, n], "o", color=COLOURS[n % len(COLOURS)], markersize=2)
    for budget in facts["budgets"]:
        left.axvline(budget, color="0.7", linewidth=0.6, linestyle=":")
    left.set_xscale("log")
    left.set_xlim(0.5 * float(facts["budgets"][0]), None)
    plain_ticks(left)
    titled(
        left,
        "strength of each feature (dotted: the budgets)",
        "time of gradient flow",
        "strength s",
    )
    losses = noisy_losses(spectrum, lab.gamma)
    draw_line(right, range(1, len(spectrum) + 1), losses, 0)
    draw_points(right, outcome.part("noise"), 0, "simulated studies")
    draw_points(right, outcome.part("callback study", "loss under noise"), 1, "PerturbationSensitivity, one study")
    _mark(right, turn(losses), 0)
    titled(right, f"pre-training loss under noise of γ = {lab.gamma:g}", _FEATURES, "loss")
    headed(figure, "Longer pre-training learns weaker features")
    noted(figure, _NOTE + " Vertical line: the turn by theory, σ < 2dγ² beyond it.")
    return figure


def _fine_tuning(lab: IncrementalFeaturesParameters, outcome: Outcome) -> Figure:
    figure, axes = new_figure(9, 3.6, 1, 2)
    count = range(1, len(lab.spectrum) + 1)
    for which, (each, part) in enumerate(zip(axes[0], ("forgotten", "fine-tuning loss"), strict=True)):
        for index, (case, points) in enumerate(cases(outcome.part(part)).items()):
            losses = tuned_losses(np.array(lab.spectrum), lab.target(lab.spectrum), lab.pulls[index], lab.tuning_time)
            draw_line(each, count, losses[which], index)
            draw_points(each, points, index, case)
            if which == 0:
                _mark(each, turn(losses[0]), index)
        each.set_yscale("log")
        plain_ticks(each)
        each.set_xticks(list(count), [str(n) for n in count])
    titled(axes[0, 0], "pre-training loss after fine-tuning", _FEATURES, "loss")
    titled(axes[0, 1], "fine-tuning loss", _FEATURES, "loss")
    headed(figure, "A pull to the pre-trained weights delays the turn, at the price of the fine-tuning loss")
    noted(figure, _NOTE + " Vertical lines: the turn by theory.")
    return figure


def _mark(axes: Axes, at: int | None, index: int) -> None:
    """Draw the turn; lines of several cases at one place stand beside each other."""
    if at is not None:
        colour = COLOURS[index % len(COLOURS)]
        axes.axvline(at + 0.06 * index, color=colour, linewidth=0.9, linestyle="--")


def _library(lab: IncrementalFeaturesParameters, outcome: Outcome) -> Figure:
    figure, axes = new_figure(9, 3.8, 1, 2)
    left, right = axes[0]
    budgets = np.array(outcome.facts["steps"], float)
    intervals = np.array(outcome.facts["intervals"], float)
    order = np.argsort(intervals[:, :2].mean(axis=1))
    rows = np.arange(len(intervals))
    left.hlines(rows, intervals[order, 0], intervals[order, 1], color=COLOURS[0], linewidth=1, label="95 % interval")
    left.plot(intervals[order, 2], rows, "s", color=COLOURS[1], markersize=2.5, label="inflection point (Def. 4.2)")
    losses = noisy_losses(np.array(lab.spectrum), lab.gamma)
    at = turn(losses)
    if at is not None:
        left.axvline(budgets[at - 1], color=COLOURS[1], linewidth=0.8, linestyle="--")
        left.axvline(vertex(budgets, losses), color="0.2", linewidth=0.8, linestyle="--")
    left.set_xscale("log")
    left.set_ylim(-0.02 * len(rows), 1.25 * len(rows))
    plain_ticks(left)
    titled(left, "where the loss under noise is lowest, by study", "pre-training steps", "study")
    points = outcome.part("callback Δ", "isotropic noise")
    draw_points(right, points, 0, "Δ, PerturbationSensitivity")
    draw_line(right, [item.at for item in points], [item.theory for item in points], 0)
    second = outcome.facts["second_order"]
    draw_line(right, range(1, len(second) + 1), second, 2, dashed=True)
    right.lines[-1].set_label("½γ²Tr H, HessianTrace")
    titled(right, "network trained by Lightning: rise under noise", _FEATURES, "Δ")
    headed(figure, "The library's analysis and callbacks")
    noted(
        figure,
        "Left, dashed: theory; the inflection point is a budget, the lowest place may be between two. "
        "Right, line: the closed form with d³γ⁴.",
    )
    return figure
