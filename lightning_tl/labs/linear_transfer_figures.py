"""Figures of the linear-transfer lab."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lightning_tl.figure_style import headed, new_figure, noted, plain_ticks
from lightning_tl.labs.feature_draws import OUTSIDE, UNIVERSAL, noise_factor
from lightning_tl.labs.lab_figures import cases, draw_line, draw_points, titled
from lightning_tl.labs.linear_transfer_surface import isotropic_surface
from lightning_tl.labs.linear_transfer_theory import class_error, isotropic_class_error, isotropic_risk
from lightning_tl.labs.ridge_equivalent import equivalent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lightning_tl.labs.linear_transfer_parameters import LinearTransferParameters
    from lightning_tl.labs.outcome import Outcome

_NOTE = "Lines: theory. Points: simulation, with one standard error."


CAPTIONS = {
    "risk": "Excess risk and classification error against κ = s/d.",
    "universality": "One curve for all features with the same two moments, and where that ends.",
    "surface": "Risk against the number of source samples n, with the full law fitted to it.",
}


def figures(lab: LinearTransferParameters, outcome: Outcome) -> dict[str, Figure]:
    """Return the figures by name."""
    return {
        "risk": _risk(lab, outcome),
        "universality": _universality(lab, outcome),
        "surface": _surface(lab, outcome),
    }


def _grid(lab: LinearTransferParameters) -> list[float]:
    return [float(x) for x in np.linspace(min(lab.ratios), max(lab.ratios), 40)]


def _risk(lab: LinearTransferParameters, outcome: Outcome) -> Figure:
    figure, axes = new_figure(10, 3.6, 1, 3)
    grid = _grid(lab)
    left, middle, right = axes[0]
    for index, (case, points) in enumerate(cases(outcome.part("risk")).items()):
        distance = float(case.split()[1])
        draw_points(left, points, index, f"‖w* − w₀‖² = {distance:g}")
        draw_line(left, grid, [isotropic_risk(x, distance, lab.noise) for x in grid], index)
        left.axhline(distance, color="0.6", linewidth=0.6, linestyle=":")
    titled(left, "isotropic features (dotted: w₀ itself)", "κ = s/d", "excess risk")
    values, squares = lab.spectrum(), np.full(lab.d, 1 / lab.d)
    solved = [equivalent(values, x * lab.d) for x in grid]
    for index, (case, points) in enumerate(cases(outcome.part("covariance")).items()):
        draw_points(middle, points, index, case)
        noise = lab.noise if case == "noise" else 0.0
        draw_line(middle, grid, [one.risk(squares * (case != "noise"), noise) for one in solved], index)
    titled(middle, "covariance of spectrum 1/i", "κ = s/d", "excess risk")
    for index, (case, points) in enumerate(cases(outcome.part("classes")).items()):
        draw_points(right, points, index, case)
        spectrum, mean, start = lab.class_start(case != "isotropic")
        line = [
            isotropic_class_error(x, lab.mean, lab.along, lab.across)
            if case == "isotropic"
            else class_error(spectrum, round(x * lab.d), mean, start)
            for x in grid
        ]
        draw_line(right, grid, line, index)
    titled(right, "two classes, labels ±1", "κ = s/d", "classification error")
    headed(figure, "Fine-tuning a linear model to interpolation")
    noted(figure, _NOTE)
    return figure


def _universality(lab: LinearTransferParameters, outcome: Outcome) -> Figure:
    figure, axes = new_figure(6, 3.8)
    grid = _grid(lab)
    for index, (case, points) in enumerate(cases(outcome.part("universality")).items()):
        draw_points(axes[0, 0], points, index, case + (" (no fourth moment)" if case in OUTSIDE else ""))
    draw_line(axes[0, 0], grid, [isotropic_risk(x, 1.0, lab.noise) for x in grid], 0)
    last = len(UNIVERSAL) + len(OUTSIDE) - 1
    factor = noise_factor(list(OUTSIDE)[-1])
    draw_line(axes[0, 0], grid, [isotropic_risk(x, 1.0, factor * lab.noise) for x in grid], last)
    axes[0, 0].set_yscale("log")
    axes[0, 0].set_yticks([1, 2, 3, 5, 8], ["1", "2", "3", "5", "8"])
    axes[0, 0].minorticks_off()
    titled(axes[0, 0], "", "κ = s/d", "excess risk")
    headed(figure, "Features of the same two moments give one curve")
    noted(figure, _NOTE)
    return figure


def _surface(lab: LinearTransferParameters, outcome: Outcome) -> Figure:
    from lightning_tl.laws import FullLaw

    figure, axes = new_figure(9, 3.8, 1, 2)
    left, right = axes[0]
    for index, (case, points) in enumerate(cases(outcome.part("surface")).items()):
        draw_points(left, points, index, case)
        n, s = np.geomspace(points[0].at, points[-1].at, 40), int(case[4:])
        draw_line(left, n, [isotropic_surface(lab.surface_d, float(x), s) for x in n], index)
        draw_line(left, n, FullLaw().predict(outcome.facts["law"], n, np.full_like(n, s)), index, dashed=True)
    titled(left, f"isotropic, d = {lab.surface_d}: source and gap factorise", "source samples n", "excess risk")
    surface, law = outcome.facts["spectrum_surface"], outcome.facts["spectrum_law"]
    for index, s in enumerate(sorted({row[1] for row in surface})):
        rows = [row for row in surface if row[1] == s]
        n = np.array([row[0] for row in rows])
        draw_line(right, n, [row[2] for row in rows], index)
        right.lines[-1].set_label(f"s = {s:g}")
        draw_line(right, n, FullLaw().predict(law, n, np.full_like(n, s)), index, dashed=True)
        draw_points(right, outcome.part("spectrum", f"s = {s:g}"), index, "")
    titled(right, f"spectrum, d = {lab.d}: they do not", "source samples n", "excess risk")
    for each in (left, right):
        each.set_xscale("log")
        each.set_yscale("log")
        plain_ticks(each)
    headed(figure, "Pre-training on n samples, fine-tuning on s: theory and the full law")
    noted(figure, _NOTE + " Dashed: the law δ(γ + n^-α)s^-β as fitted.")
    return figure
