"""Weights as a safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from lightning_tl._io.atomic import replacing


def write_safetensors(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write a state dict; tensors that share memory are written each.

    Args:
        path: New file, in an existing folder.
        state: Name → tensor.
    """
    plain = {key: value.detach().clone(memory_format=torch.contiguous_format) for key, value in state.items()}
    with replacing(path) as beside:
        save_file(plain, beside, metadata={"format": "pt"})
