"""What a score needs of each test image, and how uncertain the score is because the test images are a sample."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_leaves

REPLICATES = 200  # the standard error is then known to 5 %

Array = NDArray[Any]


class ImageResults:
    """Collects what a score needs of each test image. A task returns one by ``build_image_results``.

    A subclass says what it keeps of a batch, and computes the score when each image counts a given number of times.
    """

    def __init__(self) -> None:
        self._parts: list[dict[str, Array]] = []
        self._digest = hashlib.sha256()

    def of_batch(self, outputs: Any, targets: Any) -> Mapping[str, Any]:
        """Return what is kept of a batch: name → array or tensor whose first dimension counts images."""
        raise TypeError(f"{type(self).__name__} must define of_batch(outputs, targets)")

    def scores(self, results: Mapping[str, Array], weights: Array) -> Array:
        """Return one score per row of ``weights``.

        Args:
            results: What ``of_batch`` kept, all batches after each other.
            weights: ``[R, N]``: how often each of the N images counts.
        """
        raise TypeError(f"{type(self).__name__} must define scores(results, weights)")

    def update(self, outputs: Any, targets: Any) -> None:
        """Keep the results of a batch."""
        batch = self.of_batch(outputs, targets)
        self._parts.append({name: _array(value) for name, value in batch.items()})
        for leaf in tree_leaves(targets):
            self._digest.update(_array(leaf).tobytes())

    @property
    def targets_hash(self) -> str:
        """A hash of all targets: networks with the same one were tested on the same images."""
        return self._digest.hexdigest()[:12]

    @property
    def results(self) -> dict[str, Array]:
        """What was kept, name → array; the images are in the order of the test set."""
        if not self._parts:
            return {}
        return {name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]}

    @property
    def count(self) -> int:
        """Number of images."""
        return sum(len(next(iter(part.values()))) for part in self._parts)

    def score(self) -> float:
        """Return the score of the images themselves."""
        return float(self.scores(self.results, np.ones((1, self.count)))[0])

    @cached_property
    def replicates(self) -> Array:
        """Bootstrap replicates of the score, once all images are kept: ``[REPLICATES]``.

        Replicate *r* draws the same images, by their place in the test set, for each network that is tested on as many
        images. So the difference of two networks' replicates is a paired bootstrap (Efron and Tibshirani, *An
        Introduction to the Bootstrap*, 1993).
        """
        return self.scores(self.results, bootstrap_weights(self.count, REPLICATES))


class SumScores(ImageResults):
    """For scores that are a function of sums over images. Define ``sums`` and ``from_sums``."""

    def sums(self, outputs: Any, targets: Any) -> Tensor:
        """Return the terms of each image: ``[B, …]``."""
        raise TypeError(f"{type(self).__name__} must define sums(outputs, targets)")

    def from_sums(self, sums: Array) -> Array:
        """Return scores ``[R]`` for the sums over images ``[R, …]``."""
        raise TypeError(f"{type(self).__name__} must define from_sums(sums)")

    def of_batch(self, outputs: Any, targets: Any) -> Mapping[str, Any]:
        """Keep each image's terms."""
        return {"sums": self.sums(outputs, targets)}

    def scores(self, results: Mapping[str, Array], weights: Array) -> Array:
        """Return the scores of weighted sums."""
        terms = results["sums"].astype(np.float64)
        return self.from_sums(np.tensordot(weights, terms, axes=1))


class MeanScores(SumScores):
    """For scores that are a mean of one number per image, such as correct or not: ``sums`` returns ``[B]``."""

    def of_batch(self, outputs: Any, targets: Any) -> Mapping[str, Any]:
        """Keep each image's number, and a one to count images."""
        values = self.sums(outputs, targets)
        return {"sums": torch.stack([values.double(), torch.ones_like(values, dtype=torch.float64)], 1)}

    def from_sums(self, sums: Array) -> Array:
        """Return the means."""
        return np.asarray(sums[:, 0] / sums[:, 1])


def bootstrap_weights(images: int, replicates: int) -> Array:
    """Return how often each image occurs in each bootstrap sample: ``[replicates, images]``, always the same."""
    generator = np.random.Generator(np.random.PCG64([images, 20_240_601]))
    rows = [np.bincount(generator.integers(0, images, images), minlength=images) for _ in range(replicates)]
    return np.stack(rows).astype(np.float64)


def mean_of_real(values: Array) -> Array:
    """Return the mean over columns of the numbers that are not NaN; NaN where there is none."""
    real = ~np.isnan(values)
    count = real.sum(1)
    total = np.where(real, values, 0).sum(1)
    return np.asarray(np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0))


def _array(value: Any) -> Array:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
