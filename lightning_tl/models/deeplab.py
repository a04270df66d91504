"""DeepLabV3 on a dilated ResNet: torchvision's heads on our backbones."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead


class DeepLabV3Head(nn.Module):
    """Atrous spatial pyramid pooling on ``layer4``, and an auxiliary FCN head on ``layer3`` ("conv4").

    Chen et al., *Rethinking Atrous Convolution for Semantic Image Segmentation*, 2017. Outputs equal those of
    torchvision's ``deeplabv3_resnet50`` with the same weights.

    Args:
        channels: Channels of the backbone's four maps.
        out_channels: Number of outputs per pixel.
    """

    def __init__(self, channels: list[int], out_channels: int) -> None:
        super().__init__()
        self.classifier = DeepLabHead(channels[3], out_channels)
        self.aux_classifier = FCNHead(channels[2], out_channels)

    def forward(self, maps: list[Tensor], size: tuple[int, int], aux: bool = True) -> tuple[Tensor, Tensor | None]:
        """Return main and auxiliary outputs, both ``[B, out_channels, H, W]``, H and W being those of ``size``.

        Args:
            maps: The backbone's four maps.
            size: Height and width of the outputs.
            aux: Whether to compute the auxiliary outputs (else None).
        """

        def full(outputs: Tensor) -> Tensor:
            return F.interpolate(outputs, size=size, mode="bilinear", align_corners=False)

        return full(self.classifier(maps[3])), full(self.aux_classifier(maps[2])) if aux else None
