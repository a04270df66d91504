"""A simple feature pyramid: maps of several strides from one map, as a ViT gives it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from lightning_tl.errors import UserError


class SimpleFeaturePyramid(nn.Module):
    """Maps of several strides, each from the same map by transposed convolutions or by pooling.

    Li et al., *Exploring Plain Vision Transformer Backbones for Object Detection*, ECCV 2022 (arXiv 2203.16527), §3:
    a finer map by one or two transposed convolutions of 2 x 2 with stride 2, each of which halves the channels, with
    layer norm and GELU between two; a coarser one by max pooling. With ``out_channels`` a convolution of 1 x 1 and one
    of 3 x 3 follow, each with layer norm and without bias.

    Args:
        channels: Channels of the map.
        stride: Side of the image over that of the map.
        strides: Of the maps to make.
        out_channels: Channels of each of these; default: those that the transposed convolutions leave.

    Attributes:
        channels: Channels of the maps.

    Raises:
        UserError: A stride is not the map's times a power of two, or the map has too few channels to be halved.
    """

    def __init__(
        self, channels: int, stride: int, strides: Sequence[int] = (4, 8, 16, 32), out_channels: int | None = None
    ) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        self.channels: list[int] = []
        for wanted in strides:
            layers, width = _scaled(channels, stride, wanted)
            if out_channels is not None:
                layers += [
                    nn.Conv2d(width, out_channels, 1, bias=False),
                    _norm(out_channels),
                    nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
                    _norm(out_channels),
                ]
                width = out_channels
            self.levels.append(nn.Sequential(*layers))
            self.channels.append(width)

    def forward(self, features: Tensor) -> list[Tensor]:
        """Return the maps for a map ``[B, channels, H, W]``, from the first stride to the last."""
        return [level(features) for level in self.levels]


def _scaled(channels: int, stride: int, wanted: int) -> tuple[list[nn.Module], int]:
    """Return the layers from a map of one stride to another, and their channels."""
    layers: list[nn.Module] = []
    width, given = channels, stride
    while stride > wanted:
        if layers:
            layers += [_norm(width), nn.GELU()]
        if width % 2:
            raise UserError(f"a map of {channels} channels and stride {given} gives none of stride {wanted}")
        layers.append(nn.ConvTranspose2d(width, width // 2, 2, 2))
        stride, width = stride // 2, width // 2
    while stride < wanted:
        layers.append(nn.MaxPool2d(2, 2))
        stride *= 2
    if stride != wanted:
        raise UserError(f"a map of stride {given} gives none of stride {wanted}")
    return layers, width


def _norm(channels: int) -> Any:
    from timm.layers import LayerNorm2d  # takes half a second to import

    return LayerNorm2d(channels)
