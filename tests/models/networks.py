"""What the tests of networks share."""

from __future__ import annotations

import torch
from torch import nn


def randomised(net: nn.Module, seed: int = 0, scale: float = 0.2) -> nn.Module:
    """Give weights and buffers other values: BatchNorm in eval mode would hide a wrong copy of fresh ones."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in net.state_dict().items():
        if value.dtype.is_floating_point:
            noise = (torch.rand(value.shape, generator=generator) - 0.5) * scale
            value.copy_((value * (1 + noise)) if "var" not in name else value + noise + scale / 2)
            if "bias" in name or "mean" in name:
                value.add_(noise)
    return net.eval()


def backbone_and_head(state: dict[str, torch.Tensor], moves: dict[str, str]) -> dict[str, torch.Tensor]:
    """Return a state dict with each prefix replaced; names without a known prefix are left out."""
    return {
        new + name.removeprefix(old): value
        for name, value in state.items()
        for old, new in moves.items()
        if name.startswith(old)
    }
