"""Which samples a step sees: a function of (seed, step) alone, so that a resumed run is the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Sampler


class Pick(NamedTuple):
    """A sample of a training batch: its number, and the step whose batch it belongs to."""

    sample: int
    step: int


def step_generator(seed: int, step: int) -> torch.Generator:
    """Return the generator of a training step's augmentation."""
    words = np.random.SeedSequence([seed, 1, step]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0] >> 1))


class StepBatches(Sampler[list[Pick]]):
    """Batches of shuffled samples by step.

    The stream of samples is one random permutation of all of them after another; step ``t`` takes the samples
    ``[t·batch_size, (t + 1)·batch_size)`` of it. So a batch may span two passes, every batch is full, and each sample
    is seen equally often (± 1).

    Args:
        length: Number of samples.
        batch_size: Samples in a batch.
        seed: Of the permutations.
        steps: Batches in an epoch (``None``: one pass over the samples, rounded up).
        done: Returns how many batches the run has seen before the coming one: (in all, in this epoch).
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        steps: int | None = None,
        done: Callable[[], tuple[int, int]] = lambda: (0, 0),
    ) -> None:
        self.length, self.batch_size, self.seed, self.done = length, batch_size, seed, done
        self.steps = -(-length // batch_size) if steps is None else steps
        self._pass = (-1, np.empty(0, np.int64))

    def __len__(self) -> int:
        return self.steps

    def _permutation(self, number: int) -> np.ndarray:
        if self._pass[0] != number:
            rng = np.random.default_rng(np.random.SeedSequence([self.seed, 0, number]))
            self._pass = (number, rng.permutation(self.length))
        return self._pass[1]

    def batch(self, step: int) -> list[Pick]:
        """Return the samples of a step."""
        places = range(step * self.batch_size, (step + 1) * self.batch_size)
        return [Pick(int(self._permutation(place // self.length)[place % self.length]), step) for place in places]

    def __iter__(self) -> Iterator[list[Pick]]:
        total, in_epoch = self.done()
        # an epoch that was interrupted in its middle goes on there; after its last batch a new one begins
        for step in range(total, total + self.steps - in_epoch % self.steps):
            yield self.batch(step)
