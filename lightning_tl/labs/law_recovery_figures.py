"""Figures of the law-recovery lab."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_tl.figure_style import COLOURS, headed, is_narrow, new_figure, noted
from lightning_tl.labs.error_curves import LEVEL, LawCurve
from lightning_tl.labs.lab_figures import cases, draw_line, draw_points, titled
from lightning_tl.labs.law_answers import AT_BEYOND, AT_LARGEST, NEEDED, NEW_RUN
from lightning_tl.labs.law_calibration import ALPHA, BEYOND
from lightning_tl.labs.law_recovery_theory import alarm_rate, coverage, coverage_without_names
from lightning_tl.labs.law_tables import pretraining_sizes
from lightning_tl.labs.shares import binomial_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lightning_tl.labs.law_recovery_parameters import LawRecoveryParameters
    from lightning_tl.labs.outcome import Outcome

#: Panels of intervals: title → names of the interval, of which a kind has at most one.
_PANELS = {
    "rate α": ("alpha",),
    "C (law (2): γ)": ("C", "gamma"),
    AT_LARGEST: (AT_LARGEST,),
    AT_BEYOND: (AT_BEYOND,),
    f"a new run there ({BEYOND:g} times)": (NEW_RUN,),
    "images for the target": (NEEDED,),
}
_CALLS = {"right": COLOURS[2], "open": "0.8", "wrong": COLOURS[1]}


CAPTIONS = {
    "intervals": "How often intervals of 95 % hold the truth, by kind of world.",
    "answers": "How often the answers are right, and which warnings are given.",
    "theory": "Shares that theory gives, and those counted.",
}


def figures(lab: LawRecoveryParameters, outcome: Outcome) -> dict[str, Figure]:
    """Return the figures by name."""
    facts = outcome.facts["kinds"]
    return {"intervals": _intervals(facts), "answers": _answers(facts), "theory": _theory(lab, outcome)}


def _intervals(facts: dict[str, Any]) -> Figure:
    figure, axes = new_figure(10, 5.2, 2, 3, sharey=True, sharex=True)
    for panel, (title, names) in zip(axes.ravel(), _PANELS.items(), strict=True):
        for place, found in enumerate(facts.values()):
            for name in names:
                if name in found["inside"]:
                    _share(panel, place, found["inside"][name], found["inside"]["of"])
        panel.axvline(0.95, color="0.4", linewidth=0.8, linestyle=":")
        panel.set_yticks(range(len(facts)), list(facts))
        panel.set_xlim(-0.03, 1.03)
        titled(panel, title, "", "")
    axes[0, 0].invert_yaxis()  # shared by all
    for panel in axes[1]:
        panel.set_xlabel("share of studies")
    headed(figure, "How often intervals hold the truth")
    noted(figure, "Bars: 95 % binomial intervals. Dotted: what the intervals claim. No point: there is no such truth.")
    return figure


def _share(axes: Axes, place: int, count: int, of: int) -> None:
    low, high = binomial_interval(count, of)
    share = count / of
    axes.errorbar(
        [share], [place], xerr=[[share - low], [high - share]], fmt="o", color=COLOURS[0], markersize=4, linewidth=1
    )


def _answers(facts: dict[str, Any]) -> Figure:
    figure, axes = new_figure(11, 3.9, 1, 3, sharey=True)
    left, middle, right = axes[0]
    for panel, key, title in (
        (left, "verdict", "would ten times the images help?"),
        (middle, "reached", "is the target ever reached?"),
    ):
        for place, found in enumerate(facts.values()):
            start = 0.0
            for call, colour in _CALLS.items():
                width = found[key].get(call, 0) / found[key]["of"]
                panel.barh(
                    place,
                    width,
                    left=start,
                    color=colour,
                    height=0.7,
                    hatch="//" if call == "wrong" else None,  # for grey print
                    edgecolor="white",
                    linewidth=0,
                    label=call if place == 0 else None,
                )
                start += width
        panel.set_yticks(range(len(facts)), list(facts))
        panel.set_xlim(0, 1)
        panel.grid(visible=False)
        titled(panel, title, "share of studies", "")
        panel.get_legend().remove()
    if is_narrow():
        left.legend(fontsize=7, loc="lower right")
    else:
        figure.legend(*left.get_legend_handles_labels(), fontsize=8, loc="upper right", ncols=3)
    warnings = [name for name in next(iter(facts.values()))["warnings"] if name != "of"]
    shares = np.array(
        [[found["warnings"][name] / found["warnings"]["of"] for name in warnings] for found in facts.values()]
    )
    right.imshow(shares, cmap="Blues", vmin=0, vmax=1.3, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        right.text(column, row, f"{100 * share:.0f} %", ha="center", va="center", fontsize=8)
    right.set_xticks(range(len(warnings)), [name.replace(" is ", "\nis ") for name in warnings])
    right.tick_params(axis="x", labelsize=7)
    right.grid(visible=False)
    titled(right, "warnings", "", "")
    headed(figure, "How often the answers are right, and what is warned of")
    noted(figure, "Open: the confidence is between 20 and 80 %, and nothing is claimed.")
    return figure


def _theory(lab: LawRecoveryParameters, outcome: Outcome) -> Figure:
    figure, axes = new_figure(11, 3.8, 1, 3)
    left, middle, right = axes[0]
    sizes = pretraining_sizes(lab.sizes)
    log_sizes, at = np.log(sizes), float(np.log(BEYOND * sizes[-1]))
    grid = np.linspace(0, 4, 30)
    points = cases(outcome.part("draws"))
    for index, (case, found) in enumerate(points.items()):
        draw_points(left, found, index, case)
        rate = coverage_without_names if "not named" in case else coverage
        each = [rate(log_sizes, lab.draws, float(x), at, 0.95)[case.startswith("error")] for x in grid]
        draw_line(left, grid, each, index)
    titled(
        left, "intervals of a power law that hold the truth", "luck of a draw over noise of a run", "share of tables"
    )
    draw_points(middle, outcome.part("alarms"), 0, "")
    grid = np.linspace(0, 0.95, 60)
    truths = [np.log(LawCurve(LEVEL, ALPHA, float(x))(sizes)) for x in grid]
    draw_line(middle, grid, [alarm_rate(log_sizes, truth, lab.noise, 0.95) for truth in truths], 0)
    middle.set_ylim(0, None)
    titled(middle, "a power law misses the largest size", "share of C in the error at 1000 images", "share of tables")
    edge = outcome.part("boundary")
    for place, item in enumerate(edge):
        draw_points(right, [item], 0, "")
        right.plot([place - 0.3, place + 0.3], [item.theory] * 2, color=COLOURS[0], linewidth=1.2)
    right.set_xticks(range(len(edge)), [item.case.replace(" ", "\n") for item in edge])
    right.set_ylim(0, None)
    titled(right, "claims where the truth is on the boundary", "", "share of tables")
    headed(figure, "Shares that theory gives")
    noted(figure, "Lines: theory. Points: counted, with the standard error.")
    return figure
