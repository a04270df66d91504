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


def fraction_subset(length: int, labels: np.ndarray | None, fraction: float, seed: int) -> np.ndarray:
    """Return the indices of a fraction of the samples, in rising order.

    With labels it is the same fraction of every class, and at least one sample of each (Mikami et al., arXiv
    2108.11018, §4.1). The subset of a smaller fraction is inside that of a larger one.

    Args:
        length: Number of samples.
        labels: Class of each sample, ``[length]``, or ``None``.
        fraction: Above 0, at most 1.
        seed: Which subset.
    """
    rng = np.random.default_rng(seed)
    classes = np.zeros(length, np.int64) if labels is None else labels
    chosen = []
    for name in np.unique(classes):
        members = rng.permutation(np.flatnonzero(classes == name))
        chosen.append(members[: max(1, round(fraction * len(members)))])
    return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, np.int64)


def hold_out(length: int, labels: np.ndarray | None, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Split samples into those for training and those for validation, the same for everybody.

    Args:
        length: Number of samples.
        labels: Class of each sample, ``[length]``, of which the same share is held out; or ``None``.
        share: Of the samples that is held out for validation.

    Returns:
        Indices of both, in rising order.

    Raises:
        UserError: ``share`` is no share, or nothing is left for training.
    """
    if not 0 < share < 1:
        raise UserError(f"data.val_share is {share}; it must be between 0 and 1")
    held = fraction_subset(length, labels, share, seed=0)
    kept = np.setdiff1d(np.arange(length), held)
    if not len(kept):
        raise UserError(
            f"{length} images are too few to hold out a share of {share:g} for validation: give a validation split"
        )
    return kept, held
