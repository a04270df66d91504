"""Scaling laws of transfer: forms, fits, uncertainty, advice, plots. No torch; pandas and matplotlib only when used."""

from lightning_tl.laws.additive_law import AdditiveLaw, ChinchillaLaw
from lightning_tl.laws.advice import Advice, advise
from lightning_tl.laws.columns import Columns
from lightning_tl.laws.curve_figures import law_figure
from lightning_tl.laws.fitted_law import FittedLaw
from lightning_tl.laws.fitting import fit
from lightning_tl.laws.forms import Form, FullLaw, PowerLaw, TransferLaw
from lightning_tl.laws.group_fits import Method, analyse
from lightning_tl.laws.images_needed import ImagesNeeded
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
