"""Backbones, and the weights that go into them."""

from lightning_tl.models.backbones import BACKBONES, build_backbone
from lightning_tl.models.weights import KeyReport, load_backbone

__all__ = ["BACKBONES", "KeyReport", "build_backbone", "load_backbone"]
