"""Small, class-balanced, nested subsets of a labelled set."""

from __future__ import annotations

import numpy as np

from lightning_tl.errors import UserError


def balanced_subset(labels: np.ndarray, per_class: int, seed: int, start: int = 0) -> np.ndarray:
    """Return the indices of ``per_class`` samples of each class.

    The classes' samples are put in an order that the seed alone fixes, so that the subset of a smaller ``per_class``
    is inside that of a larger one, and subsets of other ``start`` do not overlap with it.

    Args:
        labels: Class of each sample, ``[N]``.
        per_class: Samples of each class.
        seed: Of the order.
        start: How many samples of each class to pass over first.

    Returns:
        Indices ``[per_class · classes]``: the first of each class, the second of each, and so on.

    Raises:
        UserError: A class has too few samples.
    """
    rng = np.random.default_rng(seed)
    columns = []
    for name in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == name))
        if len(members) < start + per_class:
            raise UserError(
                f"{per_class} samples of each class asked for{f' after the first {start}' if start else ''}, "
                f"but class {name} has {len(members)} in all"
            )
        columns.append(members[start : start + per_class])
    return np.stack(columns, axis=1).reshape(-1)
