"""The filters of a ResNet: which layers write and read each channel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def chosen_filters(backbone: nn.Module, share: float, seed: int) -> dict[str, Tensor]:
    """Choose a share of the filters of each layer, and return which entries belong to them.

    A filter is chosen with its channel. An entry of a convolution's weight is chosen if the channel that it reads and
    the channel that it writes both are; the image's channels always are. Of a BatchNorm layer, the entries of chosen
    channels are. Layers whose outputs are added write the same channels: those of a residual stage share one choice.

    Of c channels, round(share · c) are chosen: the first of a random order. So with the same seed, those of a smaller
    share are among those of a larger one.

    Args:
        backbone: A ResNet of timm's, of basic or bottleneck blocks.
        share: Of the filters.
        seed: Of the choice.

    Returns:
        By name of a parameter or buffer a mask of its shape; without those from the first layer of another kind on.
    """
    generator = torch.Generator().manual_seed(seed)
    channels: dict[str, Tensor] = {}
    masks: dict[str, Tensor] = {}
    for name, layer, reads, writes in _layers(backbone):
        if not isinstance(layer, nn.Conv2d | _BatchNorm):
            break
        if writes not in channels:
            size = layer.out_channels if isinstance(layer, nn.Conv2d) else layer.num_features
            chosen = torch.zeros(size, dtype=torch.bool)
            chosen[torch.randperm(size, generator=generator)[: round(share * size)]] = True
            channels[writes] = chosen
        own = channels[writes]
        for key, tensor in layer.state_dict().items():
            mask = own
            if isinstance(layer, nn.Conv2d) and key == "weight":
                read = channels[reads] if reads else torch.ones(layer.in_channels, dtype=torch.bool)
                # the channels that each filter reads, [out, in / groups]
                read = read.view(layer.groups, -1).repeat_interleave(layer.out_channels // layer.groups, 0)
                mask = (own[:, None] & read)[:, :, None, None].expand_as(tensor)
            elif not tensor.dim():  # BatchNorm's counter
                mask = torch.ones((), dtype=torch.bool)
            masks[f"{name}.{key}"] = mask
    return masks


def _layers(net: Any) -> Iterator[tuple[str, Any, str, str]]:
    """Yield each convolution and BatchNorm with its name and the names of the channels that it reads and writes."""
    yield "conv1", getattr(net, "conv1", None), "", "stem"
    yield "bn1", getattr(net, "bn1", None), "stem", "stem"
    flows = "stem"
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        for place, block in getattr(net, stage, nn.Identity()).named_children():
            name = f"{stage}.{place}"
            after = flows
            downsample = getattr(block, "downsample", None)
            if downsample is not None:  # a sum begins with other channels
                after = name
                for key, layer in downsample.named_children():
                    if isinstance(layer, nn.Conv2d | _BatchNorm):
                        yield f"{name}.downsample.{key}", layer, flows, after
            count = 3 if hasattr(block, "conv3") else 2
            for number in range(1, count + 1):
                writes = after if number == count else f"{name}.{number}"
                yield f"{name}.conv{number}", getattr(block, f"conv{number}", None), flows, writes
                yield f"{name}.bn{number}", getattr(block, f"bn{number}", None), writes, writes
                flows = writes
