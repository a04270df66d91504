"""The stages of a backbone, from the input to the output."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

_LAYER = re.compile(r"layer([1-4])\.")


def stage_of(backbone: Any) -> dict[str, int]:
    """Return the stage that each parameter belongs to, counted from the input.

    In a ResNet, stage 0 is the stem (``conv1``, ``bn1``), and stages 1 to 4 are ``layer1`` to ``layer4``. In another
    network of timm stage 0 is the stem, and the others are timm's own (``group_matcher``): the four stages of a
    convolutional or hierarchical network, each block of a ViT; a norm after a stage belongs to it. In any other network
    each child with parameters is a stage, in the order of its definition, and of a list of modules, such as a decoder's
    ``layers``, each entry is one.

    Args:
        backbone: The network.

    Returns:
        Name of each parameter, without ``backbone.`` → number of its stage.
    """
    names = [name for name, _ in backbone.named_parameters()]
    if all(hasattr(backbone, f"layer{number}") for number in range(1, 5)):
        found = {name: _LAYER.match(name) for name in names}
        return {name: int(match[1]) if match else 0 for name, match in found.items()}
    if hasattr(backbone, "group_matcher"):
        return _timms_stages(backbone, names)
    lists = {name for name, child in backbone.named_children() if isinstance(child, nn.ModuleList)}
    children = {name: ".".join(name.split(".")[: 2 if name.split(".")[0] in lists else 1]) for name in names}
    order: dict[str, int] = {}
    for child in children.values():
        order.setdefault(child, len(order))
    return {name: order[child] for name, child in children.items()}


def _timms_stages(backbone: Any, names: list[str]) -> dict[str, int]:
    from timm.models import group_parameters

    groups: dict[str, int] = group_parameters(backbone, backbone.group_matcher(coarse=True), reverse=True)
    order = sorted(set(groups.values()))
    numbers = {group: place for place, group in enumerate(order)}
    last = [each for name, each in backbone.named_parameters() if groups[name] == order[-1]]
    if len(order) > 1 and all(each.ndim < 2 for each in last):  # a norm before the head, in no group of timm's
        numbers[order[-1]] = numbers[order[-2]]
    return {name: numbers[groups[name]] for name in names}


def stage_count(backbone: nn.Module) -> int:
    """Return the number of stages: 5 for a ResNet."""
    return max(stage_of(backbone).values(), default=-1) + 1
