"""Splits into training, validation and test images, and nested subsets of the training images.

Everything here is a function of the number of images, their classes and a seed, so that it is the same in every run.
"""

from __future__ import annotations

import numpy as np

from lightning_tl.errors import UserError

_PARTS_SEED = 0  # of validation and test parts that are split off: the same for every fraction, draw and seed


def balanced_subset(labels: np.ndarray, per_class: int, seed: int, start: int = 0) -> np.ndarray:
    """Return the indices of ``per_class`` samples of each class.

    The samples of each class are put in an order that depends on the seed only. So the subset of a smaller
    ``per_class`` is inside that of a larger one, and subsets of another ``start`` do not overlap with it.

    Args:
        labels: Class of each sample, ``[N]``.
        per_class: Samples of each class.
        seed: Seed of the order.
        start: Number of samples of each class to skip first.

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


def fraction_subset(
    length: int, labels: np.ndarray | None, fraction: float, seed: int, equal_classes: bool = False
) -> np.ndarray:
    """Return the indices of a fraction of the samples, in rising order.

    With labels, the same fraction of every class is taken, and at least one sample of each. With ``equal_classes``
    every class gives the same number instead, as in the fine-tuning sets of several sizes of Mikami et al. (arXiv
    2108.11018); a class that has fewer gives all of its samples. Without labels, the samples are drawn from all. The
    subset of a smaller fraction is inside that of a larger one of the same seed.

    Args:
        length: Number of samples.
        labels: Class of each sample, ``[length]``, or ``None``.
        fraction: Above 0, at most 1.
        seed: Seed of the subset.
        equal_classes: The same number from every class, instead of the same share.
    """
    rng = np.random.default_rng(seed)
    members = [rng.permutation(each) for each in _by_class(length, labels)]
    sizes = np.array([len(each) for each in members])
    if equal_classes:
        counts = np.minimum(sizes, _equal_number(sizes, fraction * length))
    else:
        counts = np.maximum(1, [round(fraction * size) for size in sizes.tolist()])
    chosen = [each[:count] for each, count in zip(members, counts, strict=True)]
    return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, np.int64)


def _by_class(length: int, labels: np.ndarray | None) -> list[np.ndarray]:
    """Return the indices of each class's samples; of all samples if there are no classes."""
    if labels is None:
        return [np.arange(length)] if length else []
    return [np.flatnonzero(labels == name) for name in np.unique(labels)]


def _equal_number(sizes: np.ndarray, total: float) -> int:
    """Return the number of samples per class whose sum is nearest to ``total``; at least one."""
    numbers = np.arange(1, int(sizes.max(initial=1)) + 1)
    # the sum over the classes of min(number, size), by counting how many classes have at least that many samples
    reach = len(sizes) - np.searchsorted(np.sort(sizes), numbers)
    return int(numbers[np.abs(np.cumsum(reach) - total).argmin()])


def split_off(length: int, labels: np.ndarray | None, shares: dict[str, float]) -> dict[str, np.ndarray]:
    """Split samples into parts of the given shares, and the rest, which is for training.

    The parts do not depend on anything but the data and the shares, so all runs have the same. With labels, each part
    has its share of every class. Every part gets at least one sample of each class, but a class always keeps one for
    training, so that a class of a single sample is in no other part.

    Args:
        length: Number of samples.
        labels: Class of each sample, ``[length]``, or ``None``.
        shares: By part, its share of all samples; the first are drawn first, so a later share does not change them.

    Returns:
        Indices of each part and of ``train``, in rising order.

    Raises:
        UserError: A share out of range, or too few samples.
    """
    for name, share in shares.items():
        if not 0 < share < 1:
            raise UserError(f"data.{name}_share is {share}; it must be between 0 and 1")
    if sum(shares.values()) >= 1:
        listed = " and ".join(f"data.{name}_share ({share:g})" for name, share in shares.items())
        raise UserError(f"{listed} leave nothing to train on: their sum must be below 1")
    rng = np.random.default_rng(_PARTS_SEED)
    indices: dict[str, list[np.ndarray]] = {name: [] for name in (*shares, "train")}
    for members in _by_class(length, labels):
        rest = rng.permutation(members)
        for name, share in shares.items():
            count = min(max(1, round(share * len(members))), len(rest) - 1)
            indices[name].append(rest[:count])
            rest = rest[count:]
        indices["train"].append(rest)
    parts = {name: np.sort(np.concatenate(each)) if each else np.empty(0, np.int64) for name, each in indices.items()}
    for name in shares:
        if not len(parts[name]):
            raise UserError(
                f"{length} images are too few to split off a {_NAMES.get(name, name)} part: add images, or give a "
                f"{name} split of its own"
            )
    return parts


_NAMES = {"val": "validation"}
