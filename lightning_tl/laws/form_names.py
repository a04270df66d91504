"""The laws by the names that options use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from lightning_tl.laws.additive_law import ChinchillaLaw
from lightning_tl.laws.forms import Form, FullLaw, PowerLaw, TransferLaw

FormName = Literal["transfer", "power", "full", "full+E", "chinchilla"]
FORMS: dict[FormName, Callable[[], Form]] = {
    "transfer": TransferLaw,
    "power": PowerLaw,
    "full": FullLaw,
    "full+E": lambda: FullLaw(floor=True),
    "chinchilla": ChinchillaLaw,
}
