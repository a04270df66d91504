"""The trace of the Hessian from differences of gradients, where weights cannot be written: FSDP2, half precision."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_tl.measure.estimate import Samples, TraceEstimate, combine
from lightning_tl.measure.modifications import normal
from lightning_tl.measure.objective import Objective
from lightning_tl.measure.params import Layout
from lightning_tl.measure.sharded import norm

_log = logging.getLogger(__name__)

# The step, as a share of ‖θ‖/‖z‖: in fp32 the errors of truncation and of rounding are about equal here
_STEP = {torch.float32: 2e-3, torch.float64: 1e-4}
# Halving the step may change the first estimate by this share before a warning
_KINKS = 0.1


def trace_by_differences(
    objective: Objective,
    layout: Layout,
    products: int,
    enough: Callable[[float, float], bool],
    seed: int,
    scales: Sequence[Tensor] | None,
) -> dict[str, Any]:
    """Estimate Tr H by Hutchinson's estimator, zᵀHz = ⟨∇L(θ + hz) − ∇L(θ − hz), z⟩ / 2h with random signs z.

    Weights are substituted, gradients are freed tensor by tensor, and z is made anew where it is needed: no vector over
    the parameters is ever held. One draw costs two forward and backward passes, less than an exact product of H. With
    two steps, h and h/2, the first draw tells whether the gradient is smooth at that scale; if not (the kinks of ReLU),
    the log warns.

    Args:
        objective: An objective with ``substitute``.
        layout: Groups of its parameters.
        products: Number of draws, the one with the second step included.
        enough: Value and standard error → whether to stop.
        seed: Seed of z.
        scales: √Σ by parameter: estimate Tr ΣH too, by as many draws.

    Returns:
        The arguments of :class:`~lightning_tl.measure.estimate.TraceEstimate`.
    """
    sigmas = [None] if scales is None else [None, dict(zip(objective.params, scales, strict=True))]
    forms = [_QuadraticForm(objective, layout, seed, sigma) for sigma in sigmas]
    with objective.measuring():
        found, *weighted = [_estimate(form, products, enough) for form in forms]
    return {**found, "weighted": TraceEstimate(**weighted[0])} if weighted else found


def _estimate(form: _QuadraticForm, products: int, enough: Callable[[float, float], bool]) -> dict[str, Any]:
    objective, layout = form.objective, form.layout
    samples = Samples()
    spent = 0
    for draw in range(products):
        sample = form(draw, 1.0)
        samples.add(sample)
        spent += 1
        if draw == 0 and form.scales is None and products > 2:
            _check_smooth(objective, float(sample.sum()), float(form(0, 0.5).sum()))
            spent += 1
        stderr, _ = combine([(samples.total_variance(), len(samples))])
        stop = spent >= products or (len(samples) > 1 and enough(float(samples.mean().sum()), stderr))
        if float(objective.reduce(torch.tensor(float(stop), device=layout.device))) > 0 and len(samples) > 1:
            break  # one process's clock decides for all
    stderr, degrees = combine([(samples.total_variance(), len(samples))])
    names = list(layout.groups)
    return {
        "value": float(samples.mean().sum()),
        "stderr": stderr,
        "method": "hutchinson",
        "products": float(spent),
        "degrees": degrees,
        "groups": dict(zip(names, samples.mean().tolist(), strict=True)),
        "group_stderr": dict(zip(names, (samples.group_variance() / len(samples)).sqrt().tolist(), strict=True)),
    }


class _QuadraticForm:
    """``form(draw, share)``: zᵀHz by group for the z of a draw, by a share of the usual step."""

    def __init__(self, objective: Objective, layout: Layout, seed: int, scales: dict[str, Tensor] | None) -> None:
        self.objective, self.layout, self.seed, self.scales = objective, layout, seed, scales
        if scales is None:
            squares = float(layout.size)
        else:
            sizes = {name: p.numel() for name, p in objective.params.items()}
            squares = sum(float(s.double().square().mean()) * sizes[name] for name, s in scales.items())
        dtypes = {p.dtype for p in objective.tensors}
        share = _STEP[torch.float64] if dtypes == {torch.float64} else _STEP[torch.float32]
        self.step = share * max(norm(objective.params), 1e-12) / squares**0.5

    def __call__(self, draw: int, share: float) -> Tensor:
        objective, step = self.objective, self.step * share
        index = {name: i for i, name in enumerate(objective.params)}
        dots = torch.zeros(len(index), dtype=torch.float64, device=self.layout.device)
        for sign in (1, -1):

            def moved(name: str, weight: Tensor, sign: int = sign) -> Tensor:
                return self.probe(name, weight, draw).mul_(sign * step).add_(weight)

            def take(name: str, gradient: Tensor, sign: int = sign) -> None:
                product = gradient.mul_(self.probe(name, gradient, draw)).sum(dtype=torch.float64)
                dots[index[name]] += sign * product.to(dots.device)

            objective.make = moved
            try:
                objective.each_gradient(take)
            finally:
                objective.make = None
        per_parameter = objective.reduce(dots).cpu() / (2 * step)
        return torch.tensor(list(self.layout.by_group(per_parameter).values()), dtype=torch.float64)

    def probe(self, name: str, like: Tensor, draw: int) -> Tensor:
        """Return √Σ z for one parameter: signs that depend on seed, draw, name and position."""
        drawn = normal(torch.empty(like.shape, dtype=like.dtype, device=like.device), f"{self.seed}/{draw}/{name}")
        signs = drawn.ge_(0).mul_(2).sub_(1)
        return signs if self.scales is None else signs.mul_(self.scales[name].to(like.device, like.dtype))


def _check_smooth(objective: Objective, whole: float, half: float) -> None:
    if abs(whole - half) > _KINKS * max(abs(whole), abs(half)):
        _log.warning(
            "%s: the curvature along a random direction is %.4g from differences of gradients at one step and %.4g at "
            "half of it. The trace is only as good as that; the kinks of ReLU do this, and very flat losses",
            type(objective.module).__name__,
            whole,
            half,
        )
