"""Backbones, heads, and loading of weights."""

from lightning_tl.models.backbones import BACKBONES, build_backbone, feature_maps, map_channels
from lightning_tl.models.weights import KeyReport, load_backbone

__all__ = ["BACKBONES", "KeyReport", "build_backbone", "feature_maps", "load_backbone", "map_channels"]
