"""A residual of known rank learnt by the library's own LoRA, on a linear layer and on a two-layer network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lightning_tl.labs.caulking_theory import low_rank_error, samples_needed
from lightning_tl.labs.outcome import Array

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Adapted:
    """A network, one layer of which is off by a matrix of known rank.

    Attributes:
        inputs: d_in of that layer.
        outputs: d_out of that layer.
        heads: Outputs of a fixed layer behind it, with tanh between; 0: the layer's own outputs count.
        noise: Variance of each label's noise.
        samples: That the largest rank needs in theory, which sets the error to reach.
    """

    inputs: int
    outputs: int
    heads: int
    noise: float
    samples: int

    def theory(self, rank: int, samples: float) -> float:
        """Return the excess error: for a linear layer also at few samples, for a network for many (p σ²/s)."""
        if self.heads == 0:
            return low_rank_error(rank, self.inputs, self.outputs, samples, self.noise)
        return self.noise * rank * (self.inputs + self.outputs - rank) / samples

    def full_theory(self, samples: float) -> float:
        """Return the same where every weight of the layer is trained: its rank then does not count."""
        freedom = samples - self.inputs - 1 if self.heads == 0 else samples
        return self.noise * self.inputs * self.outputs / freedom

    def needed(self, rank: int, target: float) -> float:
        """Return the samples that an error takes in theory."""
        most = 100.0 * self.samples
        return samples_needed(lambda s: self.theory(rank, s), target, self.inputs + 2.0, most)

    def errors(
        self, rng: np.random.Generator, rank: int, sizes: Sequence[int], draws: int, low_rank: bool = True
    ) -> Array:
        """Train from the pre-trained weights on samples of the target, to the end.

        Args:
            rng: Of weights, residuals, samples and noise.
            rank: Of the residual, and of LoRA.
            sizes: Numbers of samples; the smaller ones are the first of the larger.
            draws: Independent repetitions.
            low_rank: Train LoRA; else every weight of the layer.

        Returns:
            Excess errors, summed over outputs, shape (draws, sizes).
        """
        return np.array([self._one(rng, rank, sizes, low_rank) for _ in range(draws)])

    def _one(self, rng: np.random.Generator, rank: int, sizes: Sequence[int], low_rank: bool) -> list[float]:
        import torch

        def normal(*shape: int) -> Tensor:
            return torch.from_numpy(rng.standard_normal(shape))

        before = normal(self.outputs, self.inputs) / self.inputs**0.5
        left, right = (torch.linalg.qr(normal(size, rank))[0] for size in (self.outputs, self.inputs))
        truth = before + left @ right.T
        behind = 1.5 * normal(self.heads, self.outputs) / self.outputs**0.5

        def output(hidden: Tensor) -> Tensor:
            return hidden if self.heads == 0 else torch.tanh(hidden) @ behind.T

        features = normal(max(sizes), self.inputs)
        clean = output(features @ truth.T)
        labels = clean + self.noise**0.5 * normal(*clean.shape)
        test = normal(4000, self.inputs)
        found = []
        for size in sizes:
            seed = int(rng.integers(2**31))
            layer = _trained(before, features[:size], labels[:size], output, rank if low_rank else 0, seed)
            with torch.no_grad():
                if self.heads == 0:  # isotropic inputs: the error is the squared distance of the weights
                    change = layer(torch.eye(self.inputs, dtype=before.dtype)) - truth.T
                    found.append(float(change.square().sum()))
                else:
                    change = output(layer(test)) - output(test @ truth.T)
                    found.append(float(change.square().sum(1).mean()))
        return found


def _trained(
    before: Tensor, features: Tensor, labels: Tensor, output: Callable[[Tensor], Tensor], rank: int, seed: int
) -> Callable[[Tensor], Tensor]:
    """Return the layer once trained to the end by L-BFGS on the mean squared error; rank 0 trains every weight."""
    import torch
    from torch import nn

    from lightning_tl.transfer.lora import add_update

    with torch.random.fork_rng(devices=[]):  # a layer and LoRA's factor A are drawn from torch's global generator
        torch.manual_seed(seed)
        layer = nn.Linear(before.shape[1], before.shape[0], bias=False, dtype=before.dtype)
        layer.weight = nn.Parameter(before.clone(), requires_grad=rank == 0)
        if rank:
            add_update(layer, rank, rank)
    trained = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    optimiser = torch.optim.LBFGS(
        trained,
        max_iter=1000,
        history_size=30,
        tolerance_grad=1e-7,
        tolerance_change=1e-13,
        line_search_fn="strong_wolfe",
    )

    def loss() -> float:
        optimiser.zero_grad()
        value = (output(layer(features)) - labels).square().sum(1).mean()
        value.backward()
        return float(value.detach())

    optimiser.step(loss)
    return layer
