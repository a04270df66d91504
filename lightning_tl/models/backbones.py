"""ResNet backbones, from timm, with torchvision's parameter names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from lightning_tl.errors import UserError, nearest

OUTPUT_STRIDES = (8, 16, 32)


def _timm(name: str) -> Callable[[int, int], nn.Module]:
    def build(in_chans: int, output_stride: int) -> nn.Module:
        import timm  # takes half a second to import, so only when a network is built

        net: nn.Module = timm.create_model(
            name, pretrained=False, in_chans=in_chans, num_classes=0, output_stride=output_stride
        )
        return net

    return build


def _resnet10(width: int, activation: type[nn.Module] = nn.ReLU) -> Callable[[int, int], nn.Module]:
    """Return a builder of narrow ResNet-10s for images of about 32 px: a 3x3 stride-2 stem and no max-pool."""

    def build(in_chans: int, output_stride: int) -> nn.Module:
        from timm.models.resnet import BasicBlock, ResNet

        # timm's stem has 64 channels, with which the first block would take two thirds of the computation
        net: Any = ResNet(
            BasicBlock,
            (1, 1, 1, 1),
            num_classes=0,
            in_chans=in_chans,
            channels=(width, 2 * width, 4 * width, 8 * width),
            output_stride=output_stride,
            act_layer=activation,
        )
        net.conv1 = nn.Conv2d(in_chans, width, kernel_size=3, stride=2, padding=1, bias=False)
        net.bn1 = nn.BatchNorm2d(width)
        net.maxpool = nn.Identity()
        net.layer1 = nn.Sequential(BasicBlock(width, width, act_layer=activation))
        net.init_weights()
        built: nn.Module = net
        return built

    return build


BACKBONES: dict[str, Callable[[int, int], nn.Module]] = {
    **{name: _timm(name) for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")},
    **{f"resnet10_w{width}": _resnet10(width) for width in (8, 16, 32)},
    "resnet10_w16_silu": _resnet10(16, nn.SiLU),
}


def build_backbone(name: str, in_chans: int = 3, output_stride: int = 32) -> nn.Module:
    """Return a randomly initialised backbone: images ``[B, in_chans, H, W]`` → pooled features ``[B, F]``.

    ``F`` is the module's ``num_features``; ``feature_maps`` gives the maps before pooling. Parameters have
    torchvision's names (``conv1.weight``, ``layer1.0.conv1.weight``, …), for any output stride, so that dilated
    and plain networks share weights.

    Args:
        name: One of ``BACKBONES``: torchvision's ResNet-18 to -152, or ``resnet10_w8``, ``_w16``, ``_w32`` (0.08,
            0.31, 1.2 M parameters) for images of about 32 px; ``resnet10_w16_silu`` has the smooth SiLU instead of the
            ReLU, whose kinks the Hessian does not contain.
        in_chans: Channels of the input: 1 for greyscale, 3 for colour.
        output_stride: Side of the image over that of the last map: 32; 16 or 8 with the last one or two stages dilated
            instead of strided (8 is torchvision's ``replace_stride_with_dilation=[False, True, True]``, that of its
            DeepLabV3). The ResNet-10s have half this stride.

    Raises:
        UserError: The name or the output stride is unknown.
    """
    if name not in BACKBONES:
        raise UserError(f"no backbone '{name}'{nearest(name, BACKBONES)}")
    if output_stride not in OUTPUT_STRIDES:
        raise UserError(f"model.output_stride is {output_stride}; it must be one of {OUTPUT_STRIDES}")
    return BACKBONES[name](in_chans, output_stride)


def feature_maps(backbone: Any, images: Tensor) -> list[Tensor]:
    """Return the maps after ``layer1`` … ``layer4`` for images ``[B, in_chans, H, W]``, of strides 4, 8, 16, 32.

    Of half these strides for the ResNet-10s; of a lower one in dilated stages.
    """
    x = backbone.maxpool(backbone.act1(backbone.bn1(backbone.conv1(images))))
    maps = []
    for stage in (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4):
        x = stage(x)
        maps.append(x)
    return maps


def map_channels(backbone: Any) -> list[int]:
    """Return the channels of the four ``feature_maps``."""
    return [int(stage["num_chs"]) for stage in backbone.feature_info[1:]]  # the first is the stem
