"""Scaling laws of transfer: forms, fits, uncertainty, advice, plots. No torch; pandas and matplotlib only when used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_tl.laws.additive_law import AdditiveLaw, ChinchillaLaw
from lightning_tl.laws.fitted_law import FittedLaw
from lightning_tl.laws.fitting import fit
from lightning_tl.laws.forms import Form, FullLaw, PowerLaw, TransferLaw
from lightning_tl.laws.images_needed import ImagesNeeded

if TYPE_CHECKING:
    from lightning_tl.laws.advice import Advice, advise
    from lightning_tl.laws.columns import Columns
    from lightning_tl.laws.curve_figures import law_figure
    from lightning_tl.laws.group_fits import Method, analyse
    from lightning_tl.laws.results_table import groups, read_table

__all__ = [
    "AdditiveLaw",
    "Advice",
    "ChinchillaLaw",
    "Columns",
    "FittedLaw",
    "Form",
    "FullLaw",
    "ImagesNeeded",
    "Method",
    "PowerLaw",
    "TransferLaw",
    "advise",
    "analyse",
    "fit",
    "groups",
    "law_figure",
    "read_table",
]

_HOMES = {
    "Advice": "advice",
    "advise": "advice",
    "Columns": "columns",
    "law_figure": "curve_figures",
    "Method": "group_fits",
    "analyse": "group_fits",
    "groups": "results_table",
    "read_table": "results_table",
}


def __getattr__(name: str) -> Any:
    # imported on first use: a fit needs less
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
