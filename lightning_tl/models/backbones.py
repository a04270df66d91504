"""ResNet backbones, from timm, with torchvision's parameter names."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from lightning_tl.errors import UserError, nearest


def _timm(name: str) -> Callable[[int], nn.Module]:
    def build(in_chans: int) -> nn.Module:
        import timm  # half a second of imports: not before a network is wanted

        return timm.create_model(name, pretrained=False, in_chans=in_chans, num_classes=0)

    return build


def _resnet10_w16(in_chans: int) -> nn.Module:
    from timm.models.resnet import BasicBlock, ResNet

    # A ResNet-10 a quarter as wide, for images of about 32 px: a 3x3 stride-2 stem of 16 channels and no max-pool.
    # timm fixes the stem at 64 channels, at which the first block alone would take two thirds of the arithmetic.
    net = ResNet(BasicBlock, (1, 1, 1, 1), num_classes=0, in_chans=in_chans, channels=(16, 32, 64, 128))
    net.conv1 = nn.Conv2d(in_chans, 16, kernel_size=3, stride=2, padding=1, bias=False)
    net.bn1 = nn.BatchNorm2d(16)
    net.maxpool = nn.Identity()
    net.layer1 = nn.Sequential(BasicBlock(16, 16))
    net.init_weights()
    return net


BACKBONES: dict[str, Callable[[int], nn.Module]] = {
    **{name: _timm(name) for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")},
    "resnet10_w16": _resnet10_w16,
}


def build_backbone(name: str, in_chans: int = 3) -> nn.Module:
    """Return a randomly initialised backbone: images ``[B, in_chans, H, W]`` → pooled features ``[B, F]``.

    ``F`` is the module's ``num_features``; ``forward_features`` gives the last map ``[B, F, H/32, W/32]``
    (``[B, F, H/16, W/16]`` for ``resnet10_w16``). Parameters have torchvision's names (``conv1.weight``,
    ``layer1.0.conv1.weight``, …).

    Args:
        name: One of ``BACKBONES``: torchvision's ResNet-18 to -152, or ``resnet10_w16`` (0.31 M parameters) for
            images of about 32 px.
        in_chans: Channels of the input: 1 for greyscale, 3 for colour.

    Raises:
        UserError: Unknown name.
    """
    if name not in BACKBONES:
        raise UserError(f"no backbone '{name}'{nearest(name, BACKBONES)}")
    return BACKBONES[name](in_chans)
