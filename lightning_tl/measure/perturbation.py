"""How much a loss rises under noise in the weights, and along a direction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_tl.errors import UserError
from lightning_tl.measure.hvp import Hessian
from lightning_tl.measure.modifications import Direction, Noise, check_gammas
from lightning_tl.measure.modify import applying, modified_loss, with_fallback
from lightning_tl.measure.objective import Objective

__all__ = ["Curve", "Sensitivity", "check_gammas", "loss_along", "perturbation_sensitivity"]

# λ of the differences along a line; their error is of the fourth order in it
_DIFFERENCE = 1 / 16


@dataclass(frozen=True)
class Sensitivity:
    """The loss under noise of one scale.

    Attributes:
        gamma: The scale.
        loss: L(θ), without noise.
        perturbed_loss: E[L(θ + ε)], the mean over draws.
        sensitivity: Δ = E[L(θ + ε) − L(θ)].
        stderr: The standard error of both over draws (L(θ) is exact).
        draws: The perturbed loss of each draw, the mean of its antithetic pair. Measurements with the same seed have
            the same noise, so that differences between them can be taken draw by draw.
        seconds: Wall time of the whole measurement, all scales.
    """

    gamma: float
    loss: float
    perturbed_loss: float
    sensitivity: float
    stderr: float
    draws: tuple[float, ...]
    seconds: float = 0.0


@dataclass(frozen=True)
class Curve:
    """The loss along a direction d.

    Attributes:
        steps: The λ.
        loss: L(θ + λd).
        quadratic: L(θ) + λgᵀd + ½λ²dᵀHd.
        slope: gᵀd.
        curvature: dᵀHd.
    """

    steps: tuple[float, ...]
    loss: tuple[float, ...]
    quadratic: tuple[float, ...]
    slope: float
    curvature: float


def perturbation_sensitivity(
    objective: Objective, scales: Mapping[str, Tensor], gammas: Sequence[float], draws: int = 8, seed: int = 0
) -> list[Sensitivity]:
    """Measure the loss under noise ε ~ N(0, γ²Σ) in the weights (Springer et al. 2025, §3.3).

    Each draw is an antithetic pair, θ ± γε, which cancels the gradient's part: to second order
    Δ = ½γ²Tr(ΣH) (their Prop. D.1). All scales and all measurements of one seed use the same draws. Costs
    1 + 2 · draws · len(gammas) forward passes and two copies of the parameters (with ``substitute``: none).

    Args:
        objective: Loss, batches and parameters.
        scales: √Σ by parameter, from :func:`~lightning_tl.measure.noise_scales.noise_scales`.
        gammas: The scales γ > 0.
        draws: Number of pairs; at least 2, for a standard error.
        seed: Seed of the noise.

    Raises:
        UserError: A γ or the number of draws is out of range, or all scales are zero.
    """
    levels = modified_loss(objective, Noise(scales, seed), gammas, draws)
    return [
        Sensitivity(
            level.strength, level.loss, level.modified_loss, level.change, level.stderr, level.draws, level.seconds
        )
        for level in levels
    ]


def loss_along(
    objective: Objective,
    direction: Mapping[str, Tensor],
    steps: Sequence[float],
    quadratic: bool = True,
    buffers: Mapping[str, Tensor] | None = None,
) -> Curve:
    """Measure L(θ + λd) and its quadratic approximation (Springer et al. 2025, App. D, Figs. 9 and 10).

    Where BatchNorm's statistics do not change along the line, slope and curvature are exact: one gradient and one
    Hessian-vector product. Where they change with λ (an objective that re-estimates them, or ``buffers``), both are
    differences of L at λ = ±1/16 and ±1/8, which include that change. So they are where weights are substituted.

    Args:
        objective: Loss, batches and parameters θ.
        direction: d by parameter name, for example fine-tuned minus pre-trained weights; other parameters do not move.
        steps: The λ.
        quadratic: Also compute slope and curvature; else they are NaN.
        buffers: By name the change of floating-point buffers, added λ times (interpolated statistics).

    Raises:
        UserError: The direction shares no parameter with the objective, or a shape differs.
    """
    if not any(name in direction for name in objective.params):
        raise UserError("the direction moves none of the measured parameters; its keys must be their names")
    for name, p in objective.params.items():
        if name in direction and direction[name].shape != p.shape:
            raise UserError(f"direction[{name!r}] has shape {tuple(direction[name].shape)}, not {tuple(p.shape)}")
    steps = tuple(float(step) for step in steps)
    own = dict(objective.module.named_buffers())
    moving = [(own[name], own[name].clone(), d) for name, d in (buffers or {}).items() if d.is_floating_point()]

    def run() -> tuple[float, float, float, list[float]]:
        slope = curvature = float("nan")
        with objective.measuring():
            base = objective.loss()
            exact = objective.bn == "kept" and not moving and not objective.substitute
            if quadratic and exact:
                d = [
                    direction[name].detach().to(p.device, p.dtype) if name in direction else torch.zeros_like(p)
                    for name, p in objective.params.items()
                ]
                slope = _dot(objective.gradient(), d)
                with Hessian(objective) as hessian:
                    curvature = _dot(hessian(d), d)
            with applying(objective, Direction(direction)) as apply:

                def loss(step: float) -> float:
                    apply(step, 0)
                    for buffer, start, change in moving:
                        buffer.copy_(torch.add(start, change.to(start.device, start.dtype), alpha=step))
                    return objective.loss()

                if quadratic and not exact:
                    h = _DIFFERENCE
                    near, far = [loss(h), loss(-h)], [loss(2 * h), loss(-2 * h)]
                    slope = (8 * (near[0] - near[1]) - (far[0] - far[1])) / (12 * h)
                    curvature = (16 * sum(near) - sum(far) - 30 * base) / (12 * h**2)
                return base, slope, curvature, [loss(step) for step in steps]

    base, slope, curvature, losses = with_fallback(objective, run)
    parabola = tuple(base + step * slope + 0.5 * step**2 * curvature for step in steps)
    return Curve(steps, tuple(losses), parabola, slope, curvature)


def _dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    return float(sum((a * b).sum(dtype=torch.float64) for a, b in zip(left, right, strict=True)))
