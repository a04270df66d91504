"""A two-layer ReLU network on a patch of signal and a patch of noise, trained by gradient descent, many at a time.

``f(x) = F₊(x) − F₋(x)``, where ``F_j(x) = (1/m) Σ_r [σ(⟨w_jr, yμ⟩) + σ(⟨w_jr, ξ⟩)]`` (Cao et al., arXiv 2202.06526;
Kou et al., arXiv 2303.04145). Gradients lie in the span of μ and of the training noises, so that the training needs
only the inner products of filters with these: its cost does not depend on the dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

#: What the training adds to the mean margin in a step at a margin of 0.
_STEP = 0.05
_MOST_STEPS = 3000


@dataclass(frozen=True)
class Patches:
    """Training sets, one per network.

    Attributes:
        signal: μ, shape (networks, d).
        noise: ξ of each sample, orthogonal to μ, shape (networks, n, d).
        labels: ±1, shape (n,), as many of one as of the other.
    """

    signal: Tensor
    noise: Tensor
    labels: Tensor


def draw_patches(signal: Tensor, samples: int, generator: torch.Generator) -> Patches:
    """Draw training sets: noise of variance 1 in each direction but that of the signal.

    Args:
        signal: μ of each network, shape (networks, d).
        samples: n, even.
        generator: Source of randomness.
    """
    noise = torch.randn(len(signal), samples, signal.shape[1], generator=generator)
    return Patches(signal, without(noise, signal), torch.tensor([1.0, -1.0]).repeat(samples // 2))


def without(noise: Tensor, signal: Tensor) -> Tensor:
    """Return vectors (networks, k, d) less their components along each network's signal (networks, d)."""
    along = torch.einsum("bkd,bd->bk", noise, signal) / signal.square().sum(1, keepdim=True)
    return noise - along[..., None] * signal[:, None]


def signs(filters: int) -> Tensor:
    """Return the sign of each filter's output, shape (2·filters,): first those of F₊, then those of F₋."""
    return torch.tensor([1.0, -1.0]).repeat_interleave(filters)


def train(weights: Tensor, data: Patches, loss: float) -> Tensor:
    """Train by gradient descent on the logistic loss, each network until its mean loss is no larger than ``loss``.

    Args:
        weights: At the start, shape (networks, 2m, d).
        data: One training set per network.
        loss: At which a network's training ends.

    Returns:
        Weights at the end, of the same shape.
    """
    sign, labels = signs(weights.shape[1] // 2), data.labels
    filters, samples = weights.shape[1] // 2, len(labels)
    square = data.signal.square().sum(1)
    gram = data.noise @ data.noise.mT
    along = torch.einsum("bfd,bd->bf", weights, data.signal)
    response = weights @ data.noise.mT
    # what a step adds to the margin is the same for any number of samples
    own = gram.diagonal(dim1=1, dim2=2).mean(1)
    rate = 4 * _STEP * filters / (square + own / samples)
    of_signal, of_noise = torch.zeros_like(along), torch.zeros_like(response)
    direction = sign[:, None] * labels / (samples * filters)  # of the increase of a sample's margin
    for _ in range(_MOST_STEPS):
        seen = along[..., None] * labels
        margin = labels * ((seen.relu() + response.relu()) * sign[:, None]).sum(1) / filters
        running = -logsigmoid(margin).mean(1) > loss
        if not running.any():
            break
        push = direction * (rate * running)[:, None, None] * torch.sigmoid(-margin)[:, None]
        more = (push * labels * (seen > 0)).sum(2)
        of_signal += more
        along += more * square[:, None]
        moved = push * (response > 0)
        of_noise += moved
        response += moved @ gram
    return weights + of_signal[..., None] * data.signal[:, None] + of_noise @ data.noise


def accuracy(weights: Tensor, signal: Tensor, noise: Tensor) -> Tensor:
    """Return each network's share of test samples that are classified rightly, both labels with each noise.

    Args:
        weights: Shape (networks, 2m, d).
        signal: μ of each, shape (networks, d).
        noise: Test noises, shape (networks, k, d).
    """
    sign, filters = signs(weights.shape[1] // 2), weights.shape[1] // 2
    along = torch.einsum("bfd,bd->bf", weights, signal)
    clean = torch.stack([(along.relu() * sign).sum(1), -((-along).relu() * sign).sum(1)], 1) / filters
    luck = ((weights @ noise.mT).relu() * sign[:, None]).sum(1) / filters
    right = torch.stack([clean[:, :1] + luck, clean[:, 1:] - luck], 1) > 0
    return right.float().mean((1, 2))
