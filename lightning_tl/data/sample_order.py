"""The samples of a step: a function of (seed, step) only, so that a resumed run sees the same samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DistributedSampler


class Pick(NamedTuple):
    """A sample of a training batch.

    Attributes:
        sample: Its number in the data set.
        step: The step whose batch it belongs to.
        place: Its index in that step's batch; the batches of all processes count as one.
        total: The size of that whole batch.
    """

    sample: int
    step: int
    place: int = 0
    total: int = 1


@dataclass(frozen=True)
class StepPicks:
    """The samples of a training batch of one process.

    Args:
        samples: Their numbers in the data set ``[B]``.
        step: The step whose batch they belong to.
        first: Index of the first of them in that step's batch; the batches of all processes count as one.
        total: The size of that whole batch.
    """

    samples: np.ndarray
    step: int
    first: int
    total: int

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Pick]:
        for place, sample in enumerate(self.samples.tolist(), self.first):
            yield Pick(sample, self.step, place, self.total)


def step_generator(seed: int, step: int) -> torch.Generator:
    """Return the generator of a training step's augmentation."""
    words = np.random.SeedSequence([seed, 1, step]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0] >> 1))


def sample_seed(seed: int, step: int, place: int) -> int:
    """Return the seed of the augmentation of the sample at a place of a step's batch."""
    return int(np.random.SeedSequence([seed, 2, step, place]).generate_state(1, np.uint64)[0] >> 1)


# DistributedSampler is what Lightning leaves as it is: both samplers know of the other processes themselves.
class StepBatches(DistributedSampler[Any]):
    """Batches of shuffled samples by step.

    The stream of samples is one random permutation of all of them after another; step ``t`` takes the samples
    ``[t·B, (t + 1)·B)`` of it, ``B`` being the batch size times the number of processes, and each process the next
    ``batch_size`` of these. So a batch may span two passes, every batch is full, each sample is seen equally often
    (± 1), and what a step sees depends only on ``B``, not on how many processes share it.

    Args:
        length: Number of samples.
        batch_size: Samples in a batch of one process.
        seed: Seed of the permutations.
        steps: Batches in an epoch (``None``: one pass over the samples, rounded up).
        done: Returns the number of batches before the next one: (in all, in this epoch).
        rank: Number of this process.
        processes: Number of processes.
        augmented: Give the samples as ``StepPicks``, for an augmentation that depends on the step; else as numbers.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        steps: int | None = None,
        done: Callable[[], tuple[int, int]] = lambda: (0, 0),
        rank: int = 0,
        processes: int = 1,
        augmented: bool = True,
    ) -> None:
        self.length, self.batch_size, self.seed, self.done = length, batch_size, seed, done
        self.augmented = augmented
        self.rank, self.num_replicas = rank, processes
        self.steps = -(-length // (batch_size * processes)) if steps is None else steps
        self._pass = (-1, np.empty(0, np.int64))

    def __len__(self) -> int:
        return self.steps

    def _permutation(self, number: int) -> np.ndarray:
        if self._pass[0] != number:
            rng = np.random.default_rng(np.random.SeedSequence([self.seed, 0, number]))
            self._pass = (number, rng.permutation(self.length))
        return self._pass[1]

    def batch(self, step: int) -> StepPicks | list[int]:
        """Return this process's samples of a step."""
        total, first = self.batch_size * self.num_replicas, self.rank * self.batch_size
        parts: list[np.ndarray] = []
        found = 0
        while found < self.batch_size:  # once, unless the batch spans two passes or more
            number, at = divmod(step * total + first + found, self.length)
            parts.append(self._permutation(number)[at : at + self.batch_size - found])
            found += len(parts[-1])
        samples = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return StepPicks(samples, step, first, total) if self.augmented else samples.tolist()

    def __iter__(self) -> Iterator[StepPicks | list[int]]:
        total, in_epoch = self.done()
        # an interrupted epoch continues at its next batch; after its last batch a new epoch begins
        for step in range(total, total + self.steps - in_epoch % self.steps):
            yield self.batch(step)

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: the order follows from the steps."""


class EvalBatches(DistributedSampler[Any]):
    """Batches of all samples in order, each sample once, as many batches on every process.

    With batches of one image, and a number of images that the processes cannot share evenly, the last processes see
    one of the first images again (``repeated`` says how many): their batch count must be that of the others, since
    they wait for each other at every batch.

    Args:
        length: Number of samples.
        batch_size: Largest number of samples in a batch.
        rank: Number of this process.
        processes: Number of processes.
    """

    def __init__(self, length: int, batch_size: int, rank: int = 0, processes: int = 1) -> None:
        self.rank, self.num_replicas, self.shuffle = rank, processes, False
        if processes == 1:
            self.repeated = 0
            self.batches = [list(range(i, min(i + batch_size, length))) for i in range(0, length, batch_size)]
            return
        count = -(-length // (batch_size * processes)) * processes
        self.repeated = max(0, count - length)
        order = np.arange(length + self.repeated) % length
        parts = np.array_split(order, count) if count else []
        self.batches = [part.tolist() for part in parts[rank::processes]]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: the order is always the same."""
