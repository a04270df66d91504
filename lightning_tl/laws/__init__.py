"""Scaling laws of transfer: forms, fits, uncertainty, advice, plots. No torch; pandas and matplotlib only when used."""

from lightning_tl.laws.additive_law import AdditiveLaw, ChinchillaLaw
from lightning_tl.laws.fitted_law import FittedLaw
from lightning_tl.laws.fitting import fit
from lightning_tl.laws.forms import Form, FullLaw, PowerLaw, TransferLaw
from lightning_tl.laws.images_needed import ImagesNeeded

__all__ = [
    "AdditiveLaw",
    "ChinchillaLaw",
    "FittedLaw",
    "Form",
    "FullLaw",
    "ImagesNeeded",
    "PowerLaw",
    "TransferLaw",
    "fit",
]
