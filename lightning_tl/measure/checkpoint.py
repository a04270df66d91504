"""Weights read from a checkpoint file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_tl.errors import UserError
from lightning_tl.measure.params import clean_name


class Checkpoint(NamedTuple):
    """What a checkpoint file holds.

    Attributes:
        weights: Name → tensor, on the CPU.
        step: Optimiser steps done when it was written; None if the file does not say.
    """

    weights: dict[str, Tensor]
    step: int | None


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint: its ``state_dict`` and ``global_step``, or the file itself if it is a state dict.

    Raises:
        UserError: The file is missing, is no torch checkpoint of plain types, or holds no weights.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"{path}: not a checkpoint that torch.load(weights_only=True) reads ({_first_line(error)})"
        ) from error
    content = content if isinstance(content, Mapping) else {}
    state = content.get("state_dict", content)
    weights = (
        {clean_name(k): v for k, v in state.items() if isinstance(v, Tensor)} if isinstance(state, Mapping) else {}
    )
    if not weights:
        raise UserError(f"{path}: holds no weights, neither under 'state_dict' nor at the top")
    step = content.get("global_step")
    return Checkpoint(weights, None if step is None else int(step))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
