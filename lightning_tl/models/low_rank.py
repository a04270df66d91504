"""What transfer methods add to a backbone, as it stands in checkpoints: low-rank updates and bottleneck adapters."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightning_tl.errors import UserError

#: Names, after that of the layer, of a low-rank update s·BA of its weight: B [out, r], A [r, in], s a number. For a
#: convolution A is [r, in / groups, k, k] and B [out, r, 1, 1].
FACTORS = ("lora_A", "lora_B", "lora_scaling")
_FACTOR = re.compile(rf"^(.*\.)?({'|'.join(FACTORS)})$")
_ADAPTER = re.compile(r"(^|\.)adapter\.(down|up)\.(weight|bias)$")


def is_factor(name: str) -> bool:
    """Return whether an entry of a state dict belongs to a low-rank update."""
    return bool(_FACTOR.match(name))


def is_adapter(name: str) -> bool:
    """Return whether an entry of a state dict belongs to a bottleneck adapter."""
    return bool(_ADAPTER.search(name))


def own_size(backbone: nn.Module) -> int:
    """Return the number of a backbone's own parameters, without low-rank updates and adapters."""
    return sum(p.numel() for name, p in backbone.named_parameters() if not is_factor(name) and not is_adapter(name))


def merge_updates(state: Mapping[str, Tensor], source: str = "state dict") -> tuple[dict[str, Tensor], list[str]]:
    """Add the low-rank updates of a state dict to its weights.

    The sum W + s·BA is computed in float64, and stored as W is.

    Args:
        state: Of a network; it is not changed.
        source: Where it came from, for errors.

    Returns:
        A state dict without the updates' entries, and the names of the layers that had one.

    Raises:
        UserError: An update is incomplete, or does not fit its weight.
    """
    merged = {name: tensor for name, tensor in state.items() if not is_factor(name)}
    layers = dict.fromkeys(match[1] or "" for name in state if (match := _FACTOR.match(name)))
    for layer in layers:
        weight, *factors = (state.get(f"{layer}{name}") for name in ("weight", *FACTORS))
        if problem := _problem(weight, factors):
            raise UserError(
                f"{source}: the low-rank update of {layer.rstrip('.') or 'the layer'} {problem}; use another"
            )
        a, b, scaling = (factor.double() for factor in factors if factor is not None)
        if weight is not None:
            update = scaling * (b.flatten(1) @ a.flatten(1)).view(weight.shape)
            merged[f"{layer}weight"] = (weight.double() + update).to(weight.dtype)
    return merged, [layer.rstrip(".") for layer in layers]


def _problem(weight: Tensor | None, factors: list[Tensor | None]) -> str:
    """Return why an update cannot be added; empty if it can."""
    known = {"weight": weight, **dict(zip(FACTORS, factors, strict=True))}
    if lacking := [name for name, tensor in known.items() if tensor is None]:
        return f"is incomplete: {' and '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} missing"
    there = {name: tensor for name, tensor in known.items() if tensor is not None}
    for name, tensor in there.items():
        if tensor.layout != torch.strided or not tensor.is_floating_point() or tensor.device.type != "cpu":
            return f"is damaged: {name} is no plain tensor of numbers"
    full, a, b, scaling = there.values()
    fits = full.dim() >= 2 and a.dim() == b.dim() == full.dim() and scaling.numel() == 1
    if not fits or a.shape[1:] != full.shape[1:] or b.flatten(1).shape != (full.shape[0], a.shape[0]):
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in there.items())
        return f"does not fit its weight ({shapes})"
    return ""
