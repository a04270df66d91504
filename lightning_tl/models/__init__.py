"""Backbones, heads, and loading of weights."""

from lightning_tl.models.backbones import (
    BACKBONES,
    build_backbone,
    feature_maps,
    feature_width,
    map_channels,
    map_strides,
    pooled_features,
)
from lightning_tl.models.weights import KeyReport, load_backbone

__all__ = [
    "BACKBONES",
    "KeyReport",
    "build_backbone",
    "feature_maps",
    "feature_width",
    "load_backbone",
    "map_channels",
    "map_strides",
    "pooled_features",
]
