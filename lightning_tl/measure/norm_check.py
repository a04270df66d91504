"""Are the per-sample norms right, for every sample? A trace is called exact only where they are.

They are right if (a) the gradient at each recorded output depends, for each sample, only on that sample's direction:
samples do not mix; and (b) summed over samples, the factors give the gradient that autograd finds: the layers compute
what their class says, and the parameters have no other use. For then the factors of sample n give Jₙᵀvₙ, as both sides
of (b) are linear in v = (v₁, …, v_N), of which v is a random one.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lightning_tl.measure.loss_outputs import Outputs
from lightning_tl.measure.sample_norms import SampleNorms

# ‖difference‖²/‖gradient‖² that is still rounding; convolutions on GPUs round inputs to ten bits (TF32).
_TOTAL_TOLERANCE = 1e-5
# Differences below this share of the whole gradient's ‖·‖² are rounding (a bias before a softmax has gradient 0).
_NEGLIGIBLE = 1e-9
_EXPONENTS = range(-30, 31)
# The relative error of one sample's gradient that is still rounding: multiplied by powers of two, and by other numbers.
_ROW_TOLERANCE, _ROUGH_ROW_TOLERANCE = 1e-4, 2e-3


def wrong_norms(
    norms: SampleNorms, outputs: Outputs, tensors: list[Tensor], samples: int, generator: torch.Generator
) -> set[int]:
    """Return the indices of the parameters whose per-sample norms are not right for all samples.

    Such are weights before operations that mix samples, layers whose leading dimension is not the sample, weights with
    another use, subclasses that compute something else. It takes two backward passes.

    Args:
        norms: With a recorded forward pass.
        outputs: Of the same pass.
        tensors: The measured parameters.
        samples: The number of samples.
        generator: Draws the direction and the samples' factors.
    """
    direction = outputs.random_direction(generator)
    edges = norms.edges
    inputs: list[Any] = [*edges, *tensors]
    grads = torch.autograd.grad([outputs.edge], inputs, [direction], retain_graph=True, allow_unused=True)
    at_edges, true = grads[: len(edges)], grads[len(edges) :]
    wrong = _wrong_totals(norms.totals(at_edges, samples), true)
    if not edges:
        return wrong
    factors, tolerance = _distinct_factors(samples, generator)
    factors = factors.to(direction)
    scaled = (direction.reshape(samples, -1) * factors[:, None]).view_as(direction)
    again = torch.autograd.grad([outputs.edge], edges, [scaled], retain_graph=True, allow_unused=True)
    for call, (first, second) in enumerate(zip(at_edges, again, strict=True)):
        if not _independent(first, second, factors, tolerance):
            wrong |= norms.parameters_of(call)
    return wrong


def _wrong_totals(claimed: dict[int, Tensor], true: tuple[Tensor | None, ...]) -> set[int]:
    energies = [0.0 if grad is None else grad.square().sum(dtype=torch.float64).item() for grad in true]
    negligible = _NEGLIGIBLE * sum(energies)
    wrong = set()
    for index, grad in enumerate(true):
        claim = claimed.get(index)
        if claim is None or grad is None:
            difference = energies[index] if claim is None else claim.square().sum(dtype=torch.float64).item()
        else:
            difference = (claim - grad).square_().sum(dtype=torch.float64).item()
        if not difference <= _TOTAL_TOLERANCE * energies[index] + negligible:
            wrong.add(index)
    return wrong


def _distinct_factors(samples: int, generator: torch.Generator) -> tuple[Tensor, float]:
    """Return a factor for each sample, no two the same, and by what share gradients multiplied by them may be off.

    Powers of two, with both signs, as long as they suffice: multiplication by them does not round.
    """
    index = torch.randperm(samples, generator=generator, device=generator.device).cpu()
    kinds = 2 * len(_EXPONENTS)
    exponents = torch.tensor(_EXPONENTS)[index // 2 % len(_EXPONENTS)]
    mantissa = 1 + (index // kinds).double() / math.ceil(samples / kinds)
    factors = (1.0 - 2.0 * (index % 2)) * torch.ldexp(mantissa, exponents)
    return factors, _ROW_TOLERANCE if samples <= kinds else _ROUGH_ROW_TOLERANCE


def _independent(first: Tensor | None, second: Tensor | None, factors: Tensor, tolerance: float) -> bool:
    """Return whether each sample's gradient is multiplied by its own factor."""
    samples = len(factors)
    if first is None or second is None:
        return first is second
    if not first.dim() or first.shape[0] % samples:
        return False
    rows, again = first.reshape(samples, -1), second.reshape(samples, -1) / factors[:, None]
    lengths = rows.norm(dim=1)
    slack = tolerance * lengths + 1e-6 * float(lengths.square().mean().sqrt())
    return bool(((again - rows).norm(dim=1) <= slack).all())
