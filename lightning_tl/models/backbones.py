"""Backbones by name: ResNets with torchvision's parameter names, and any other network of timm with timm's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_tl.errors import UserError
from lightning_tl.models import timm_networks

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


def build_backbone(
    name: str,
    in_chans: int = 3,
    output_stride: int = 32,
    maps: bool = False,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Return a randomly initialised backbone: images ``[B, in_chans, H, W]`` → pooled features ``[B, F]``.

    ``F`` is ``feature_width``; ``feature_maps`` gives the maps before pooling. Parameters of ``BACKBONES`` have
    torchvision's names (``conv1.weight``, ``layer1.0.conv1.weight``, …), for any output stride, so that dilated and
    plain networks share weights; those of other networks have timm's names.

    Args:
        name: One of ``BACKBONES``: torchvision's ResNet-18 to -152, or ``resnet10_w8``, ``_w16``, ``_w32`` (0.08,
            0.31, 1.2 M parameters) for images of about 32 px; ``resnet10_w16_silu`` has the smooth SiLU instead of the
            ReLU, whose kinks the Hessian does not contain. Or any network of timm, as ``convnext_tiny``.
        in_chans: Channels of the input: 1 for greyscale, 3 for colour.
        output_stride: Side of the image over that of the last map: 32; 16 or 8 with the last one or two stages dilated
            instead of strided (8 is torchvision's ``replace_stride_with_dilation=[False, True, True]``, that of its
            DeepLabV3). The ResNet-10s have half this stride. A network with one map, as a ViT, keeps that one.
        maps: Whether only ``feature_maps`` is used: then the other networks of timm lack the layers after the last map.
        options: For the other networks of timm: further arguments of ``timm.create_model``.

    Raises:
        UserError: The name, the output stride or an option is unknown; the network cannot be dilated, or has no maps of
            the strides that are needed.
    """
    if output_stride not in OUTPUT_STRIDES:
        raise UserError(f"model.output_stride is {output_stride}; it must be one of {OUTPUT_STRIDES}")
    if name in BACKBONES:
        if options:
            raise UserError(
                f"model.backbone_options is for networks of timm; {name} has no options: leave out {', '.join(options)}"
            )
        return BACKBONES[name](in_chans, output_stride)
    if not timm_networks.is_known(name):
        raise timm_networks.unknown_network(name, list(BACKBONES))

    def plain() -> Any:
        with torch.device("meta"):
            return timm_networks.create(name, in_chans, 32, options)

    if maps and output_stride != 32 and timm_networks.has_one_map(plain()):
        output_stride = 32
    net: nn.Module = timm_networks.create(name, in_chans, output_stride, options)
    return timm_networks.with_maps(net, name, output_stride, plain) if maps else net


def feature_width(backbone: Any) -> int:
    """Return the number F of a backbone's pooled features."""
    return int(getattr(backbone, "head_hidden_size", None) or backbone.num_features)


def pooled_features(backbone: Any, images: Tensor, name: str = "") -> Tensor:
    """Return pooled features ``[B, F]`` for images ``[B, in_chans, H, W]``.

    Args:
        backbone: Of ``build_backbone``.
        images: The images.
        name: Of the backbone, for messages.

    Raises:
        UserError: The backbone cannot take images of this size, or with these channels.
    """
    try:
        features: Tensor = backbone(images)
    except (AssertionError, ValueError, RuntimeError, TypeError) as error:
        raise _explained(error, backbone, backbone, images, name) from error
    return features


def feature_maps(backbone: Any, images: Tensor, name: str = "") -> list[Tensor]:
    """Return the maps of a backbone for images ``[B, in_chans, H, W]``.

    Of a ResNet those after ``layer1`` … ``layer4``, of strides 4, 8, 16, 32; of half these strides for the ResNet-10s,
    and of a lower one in dilated stages. Of other networks of timm, built with ``maps``, four of these strides too, or
    one, as of a ViT.

    Args:
        backbone: Of ``build_backbone``.
        images: The images.
        name: Of the backbone, for messages.

    Raises:
        UserError: The backbone cannot take images of this size, or with these channels.
    """
    run = timm_networks.maps if hasattr(backbone, "map_plan") else _resnet_maps
    try:
        return run(backbone, images)
    except (AssertionError, ValueError, RuntimeError, TypeError) as error:
        raise _explained(error, backbone, lambda one: run(backbone, one), images, name) from error


def _resnet_maps(backbone: Any, images: Tensor) -> list[Tensor]:
    x = backbone.maxpool(backbone.act1(backbone.bn1(backbone.conv1(images))))
    maps = []
    for stage in (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4):
        x = stage(x)
        maps.append(x)
    return maps


def _explained(
    error: Exception, backbone: nn.Module, run: Callable[[Tensor], object], images: Tensor, name: str
) -> Exception:
    """Return a ``UserError`` where the backbone fails on a single image too; else the error itself."""
    if isinstance(error, UserError | torch.OutOfMemoryError) or not isinstance(images, Tensor):
        return error
    problem = timm_networks.size_problem(backbone, run, images)
    if not problem:
        return error
    hint = "give images of other sizes (data.transform)"
    if getattr(backbone, "pretrained_cfg", {}).get("fixed_input_size"):
        hint += ", or tell the network their size: model.backbone_options={img_size: SIZE}"
    named = f"model.backbone {name}" if name else f"the backbone ({type(backbone).__name__})"
    return UserError(f"{named} cannot take images of {list(images.shape[1:])} ({problem}): {hint}")


def map_channels(backbone: Any) -> list[int]:
    """Return the channels of the ``feature_maps``."""
    if hasattr(backbone, "map_plan"):
        return list(backbone.map_plan.channels)
    return [int(stage["num_chs"]) for stage in backbone.feature_info[1:]]  # the first is the stem


def map_strides(backbone: Any) -> list[int]:
    """Return the strides of the ``feature_maps``."""
    if hasattr(backbone, "map_plan"):
        return list(backbone.map_plan.strides)
    return [int(stage["reduction"]) for stage in backbone.feature_info[1:]]
