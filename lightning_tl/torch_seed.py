"""Seeding torch's global generators, also many times a second."""

from __future__ import annotations

import torch


def seed_torch(seed: int) -> None:
    """Seed torch's global generators of the CPU and of the GPUs that are in use.

    ``torch.manual_seed`` also notes each call, with its traceback, for GPUs that may be used later. That takes up to a
    millisecond, and the notes are never freed. Here a GPU that is not in use yet keeps its seed.

    Args:
        seed: At least 0, below 2⁶³.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)
