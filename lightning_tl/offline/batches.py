"""The batches on which saved checkpoints are measured: given ones, or the first of a DataLoader."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device

from lightning_tl.errors import UserError
from lightning_tl.measure.guard import random_state, seed_everything


def first_batches(batches: Iterable[Any], count: int, device: torch.device, seed: int = 0) -> list[Any]:
    """Return all batches of a list, or the first ones of a DataLoader, on a device.

    A loader that shuffles gives the same batches each time: the global generators are seeded before, and restored.

    Args:
        batches: A list or tuple, or anything that gives batches one after the other.
        count: How many to take; of a list all are taken.
        device: Where to put their tensors.
        seed: For a loader that shuffles or augments.

    Raises:
        UserError: ``batches`` gives none.
    """
    if isinstance(batches, Sequence):
        return list(batches)
    if not isinstance(batches, Iterable):
        raise UserError(
            f"batches is a {type(batches).__name__}; pass a DataLoader, or a list of batches as the loss function "
            "takes them"
        )
    restore = random_state()
    try:
        seed_everything(seed)
        taken = list(islice(iter(batches), count))
    finally:
        restore()
    if not taken:
        raise UserError(f"the {type(batches).__name__} gives no batch: is its data set smaller than one batch?")
    return [move_data_to_device(batch, device) for batch in taken]
