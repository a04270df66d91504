"""The stages of a backbone, from the input to the output."""

from __future__ import annotations

import re

from torch import nn

_LAYER = re.compile(r"layer([1-4])\.")


def stage_of(backbone: nn.Module) -> dict[str, int]:
    """Return the stage that each parameter belongs to, counted from the input.

    In a ResNet, stage 0 is the stem (``conv1``, ``bn1``), and stages 1 to 4 are ``layer1`` to ``layer4``. In any other
    network each child with parameters is a stage, in the order of its definition, and of a list of modules, such as a
    decoder's ``layers``, each entry is one.

    Args:
        backbone: The network.

    Returns:
        Name of each parameter, without ``backbone.`` → number of its stage.
    """
    names = [name for name, _ in backbone.named_parameters()]
    if all(hasattr(backbone, f"layer{number}") for number in range(1, 5)):
        found = {name: _LAYER.match(name) for name in names}
        return {name: int(match[1]) if match else 0 for name, match in found.items()}
    lists = {name for name, child in backbone.named_children() if isinstance(child, nn.ModuleList)}
    children = {name: ".".join(name.split(".")[: 2 if name.split(".")[0] in lists else 1]) for name in names}
    order: dict[str, int] = {}
    for child in children.values():
        order.setdefault(child, len(order))
    return {name: order[child] for name, child in children.items()}


def stage_count(backbone: nn.Module) -> int:
    """Return the number of stages: 5 for a ResNet."""
    return max(stage_of(backbone).values(), default=-1) + 1
