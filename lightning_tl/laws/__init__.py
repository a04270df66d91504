"""Scaling laws of transfer: forms, fits, uncertainty, advice, plots. No torch; pandas and matplotlib only when used."""

from lightning_tl.laws.fitted_law import FittedLaw, ImagesNeeded
from lightning_tl.laws.fitting import fit
from lightning_tl.laws.forms import Form, FullLaw, PowerLaw, TransferLaw

__all__ = ["FittedLaw", "Form", "FullLaw", "ImagesNeeded", "PowerLaw", "TransferLaw", "fit"]
