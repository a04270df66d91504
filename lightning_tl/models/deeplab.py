"""DeepLabV3 on a dilated network: torchvision's heads on our backbones."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead

from lightning_tl.models.feature_pyramid import SimpleFeaturePyramid
from lightning_tl.models.timm_networks import STRIDES


class DeepLabV3Head(nn.Module):
    """Atrous spatial pyramid pooling on ``layer4``, and an auxiliary FCN head on ``layer3`` ("conv4").

    Chen et al., *Rethinking Atrous Convolution for Semantic Image Segmentation*, 2017. Outputs equal those of
    torchvision's ``deeplabv3_resnet50`` with the same weights.

    Args:
        channels: Channels of the backbone's four maps. Of one map, as of a ViT, a simple feature pyramid is made.
        out_channels: Number of outputs per pixel.
        strides: Of the maps; needed where there is one.
        output_stride: Of the last map of the pyramid.
    """

    def __init__(
        self, channels: list[int], out_channels: int, strides: Sequence[int] = STRIDES, output_stride: int = 32
    ) -> None:
        super().__init__()
        self.pyramid: SimpleFeaturePyramid | None = None
        if len(channels) == 1:
            # the two maps that are used have the strides of a dilated network's
            self.pyramid = SimpleFeaturePyramid(channels[0], strides[0], (min(16, output_stride), output_stride))
            channels = [0, 0, *self.pyramid.channels]
        self.classifier = DeepLabHead(channels[3], out_channels)
        self.aux_classifier = FCNHead(channels[2], out_channels)

    def forward(self, maps: list[Tensor], size: tuple[int, int], aux: bool = True) -> tuple[Tensor, Tensor | None]:
        """Return main and auxiliary outputs, both ``[B, out_channels, H, W]``, H and W being those of ``size``.

        Args:
            maps: The backbone's maps.
            size: Height and width of the outputs.
            aux: Whether to compute the auxiliary outputs (else None).
        """

        def full(outputs: Tensor) -> Tensor:
            return F.interpolate(outputs, size=size, mode="bilinear", align_corners=False)

        if self.pyramid is not None:
            maps = [*maps, *maps, *self.pyramid(maps[0])]
        return full(self.classifier(maps[3])), full(self.aux_classifier(maps[2])) if aux else None
