"""Every figure that a table's fits give. Each function takes fits and returns a matplotlib figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_tl.laws.curve_figures import extrapolation_figure, has_slope, law_figure, linearised_figure
from lightning_tl.laws.fine_tuning_figure import fine_tuning_figure
from lightning_tl.laws.group_fits import GroupResult, fitted
from lightning_tl.laws.parameter_figures import complexity_figure, landscape_figure, model_size_figure, parameter_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


#: All names of figures.
NAMES = (
    "law",
    "law_linearised",
    "law_parameters",
    "law_extrapolation",
    "law_fine_tuning",
    "law_landscape",
    "law_model_size",
    "law_complexity",
)


def figures(fits: Sequence[GroupResult]) -> dict[str, Figure]:
    """Return every figure that a table's fits give, by name.

    ``law`` always; with a fitted group also ``law_parameters``, ``law_landscape``, ``law_extrapolation`` and, where a
    curve has a slope, ``law_linearised``; ``law_fine_tuning`` where there are several fine-tuning sizes,
    ``law_model_size`` and ``law_complexity`` where the table has such a column.
    """
    drawn = {"law": law_figure(fits)}
    laws = fitted(fits)
    # of a flat curve, or one of any that go through the points, there is no straight line to show
    if any({"C", "gamma"} & set(item.law.params) and has_slope(item) for item in laws):
        drawn["law_linearised"] = linearised_figure(laws)
    if laws:
        drawn["law_parameters"] = parameter_figure(laws)
    if any(item.hold_out is not None for item in laws):
        drawn["law_extrapolation"] = extrapolation_figure(laws)
    for name, figure in (
        ("law_fine_tuning", fine_tuning_figure(laws)),
        ("law_landscape", landscape_figure(laws)),
        ("law_model_size", model_size_figure(laws)),
        ("law_complexity", complexity_figure(laws)),
    ):
        if figure is not None:
            drawn[name] = figure
    return drawn
