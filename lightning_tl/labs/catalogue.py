"""Which labs there are, and how one is found by its name; nothing heavy is imported until a lab is."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from lightning_tl.errors import UserError, nearest

if TYPE_CHECKING:
    from lightning_tl.labs.lab import Lab

#: name → (module in lightning_tl.labs, its class, one line)
LABS: dict[str, tuple[str, str, str]] = {
    "caulking": ("caulking", "Caulking", "a pre-trained part of size m: samples that its residual needs"),
    "incremental-features": (
        "incremental_features",
        "IncrementalFeatures",
        "a two-layer linear network: noise, fine-tuning and the turn that longer pre-training brings",
    ),
    "linear-transfer": ("linear_transfer", "LinearTransfer", "fine-tuning a linear model: risk against samples"),
    "partial-transfer": ("partial_transfer", "PartialTransfer", "inheriting a share of the filters: gain or harm"),
    "law-recovery": ("law_recovery", "LawRecovery", "worlds with a known law: what the law command says of them"),
    "ntk-transfer": ("ntk_transfer", "NtkTransfer", "kernel limit and two-layer networks: which law over n and s"),
}


def lab_class(name: str) -> type[Lab]:
    """Return a lab's dataclass of parameters.

    Args:
        name: As ``lightning-tl lab`` lists it.

    Raises:
        UserError: There is no such lab.
    """
    if name not in LABS:
        raise UserError(f"no lab '{name}'{nearest(name, LABS)}")
    module, attribute, _ = LABS[name]
    found: type[Lab] = getattr(import_module(f"lightning_tl.labs.{module}"), attribute)
    return found


def listing() -> str:
    """Return the labs, one per line."""
    width = max(map(len, LABS))
    return "\n".join(f"  {name:<{width}}  {line}" for name, (_, _, line) in LABS.items())
