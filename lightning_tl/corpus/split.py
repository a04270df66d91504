"""Which split a document belongs to: a function of its text, whatever else is in the corpus."""

from __future__ import annotations

import numpy as np


def split_of(digest: bytes, val_share: float, test_share: float) -> str:
    """Return ``train``, ``val`` or ``test`` for a document's SHA-256."""
    number = int(split_numbers(np.frombuffer(digest, ">u8").reshape(1, 4), val_share, test_share)[0])
    return ("train", "val", "test")[number]


def split_numbers(hashes: np.ndarray, val_share: float, test_share: float) -> np.ndarray:
    """Return 0 (train), 1 (val) or 2 (test) for each document.

    The last eight bytes of the hash decide: the first ones give the order within a split.

    Args:
        hashes: uint64 ``[N, 4]``.
        val_share: Share of validation.
        test_share: Share of test.
    """
    place = hashes[:, 3].astype(np.float64) / 2.0**64
    return np.where(place < val_share, 1, np.where(place < val_share + test_share, 2, 0))
