"""Critical sharpness: the curvature that a step along an update direction meets, from forward passes only."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from lightning_tl.errors import UserError
from lightning_tl.measure.arguments import number, whole
from lightning_tl.measure.modifications import Direction
from lightning_tl.measure.modify import applying, with_fallback
from lightning_tl.measure.objective import Objective


@dataclass(frozen=True)
class CriticalSharpness:
    """The step along a direction at which a loss starts to be higher than at its start.

    Attributes:
        sharpness: λ_c = 2/η_c; 0 where no step raises the loss within the evaluations.
        step: η_c, the estimated step; infinite if none was found.
        interval: The last step tried that did not raise the loss, and the first that did.
        loss: The loss at step 0.
        evaluations: Number of evaluations of the loss, the one at step 0 included.
    """

    sharpness: float
    step: float
    interval: tuple[float, float]
    loss: float
    evaluations: int


def critical_sharpness(
    objective: Objective,
    along: Mapping[str, Tensor] | Objective | None = None,
    *,
    start: float | None = None,
    tolerance: float = 0.06,
    most: int = 30,
) -> CriticalSharpness:
    """Measure λ_c = 2/η_c, η_c the smallest step with L(θ − η_c d) > L(θ) (Kalra et al. 2026, arXiv 2601.16979).

    The paper's d is the update that the optimiser is about to make, without the learning rate; for plain gradient
    descent the gradient. η_c is then the learning rate above which the next step raises the loss, and on a quadratic
    loss λ_c = dᵀHd / gᵀd. With the gradient of *another* loss (the paper's relative critical sharpness) it tells how
    far fine-tuning may step before the pre-training loss rises: ``critical_sharpness(pretraining, along=finetuning)``.

    The step is doubled or halved until it is enclosed, then bisected in its logarithm. A loss that falls, rises, and
    falls again can be enclosed at a later crossing; one that rises at once has no positive η_c, and the interval's
    lower end is then 0.

    Args:
        objective: The loss L and the weights θ.
        along: d by parameter; or an objective of the same module, whose gradient is d; None: L's own gradient.
        start: First step to try, for example the last measurement's; default: 2 L(θ)/‖d‖² for a gradient,
            ‖θ‖/100‖d‖ for a given d.
        tolerance: Stop when the interval's ends differ by less than this share.
        most: Number of evaluations at which to give up.

    Raises:
        UserError: An argument is out of range; d is zero; the module is sharded and ``along`` is no mapping.
    """
    number("tolerance", tolerance, 0, 1, open_ends=True)
    whole("most", most, 3)
    if start is not None:
        number("start", start, 0, math.inf, open_ends=True)
    direction, own = _direction(objective, along)
    length = math.sqrt(sum(float(d.double().square().sum()) for d in direction.values()))
    if length == 0 or not math.isfinite(length):
        raise UserError(f"critical_sharpness: the direction's norm is {length:g}; there is no step along it")
    size = math.sqrt(sum(float(p.detach().double().square().sum()) for p in objective.tensors))

    def run() -> CriticalSharpness:
        with objective.measuring(), applying(objective, Direction(direction)) as apply:
            base = objective.loss()

            def rises(step: float) -> bool:
                apply(-step, 0)
                return not objective.loss() <= base  # also where it is NaN

            guess = 2 * abs(base) / length**2 if own else 0.01 * size / length
            low, high, count = _enclosed(rises, start or guess or 1.0, tolerance, most)
        step = math.sqrt(low * high) if low > 0 and math.isfinite(high) else high
        return CriticalSharpness(2 / step if step else math.inf, step, (low, high), base, count + 1)

    return with_fallback(objective, run)


def _direction(objective: Objective, along: Mapping[str, Tensor] | Objective | None) -> tuple[dict[str, Tensor], bool]:
    """Return d by parameter, and whether it is the gradient of the loss itself."""
    if isinstance(along, Mapping):
        known = {name: tensor for name, tensor in along.items() if name in objective.params}
        if not known:
            raise UserError("the direction moves none of the measured parameters; its keys must be their names")
        return known, False
    source = objective if along is None else along
    if source.module is not objective.module:
        raise UserError("along= must be an objective of the same module, or a direction by parameter name")
    names = list(source.params)

    def gradient() -> list[Tensor]:
        with source.measuring():
            return source.gradient()

    return dict(zip(names, with_fallback(source, gradient), strict=True)), along is None


def _enclosed(rises: Callable[[float], bool], start: float, tolerance: float, most: int) -> tuple[float, float, int]:
    """Return the ends of an interval in which the loss starts to rise, and the number of evaluations."""
    low, high, step, count = 0.0, math.inf, start, 0
    while count < most and (low == 0 or not math.isfinite(high)):
        count += 1
        if rises(step):
            high, step = step, step / 2
        else:
            low, step = step, step * 2
    while count < most and low > 0 and math.isfinite(high) and high / low > 1 + tolerance:
        count += 1
        step = math.sqrt(low * high)
        low, high = (low, step) if rises(step) else (step, high)
    return low, high, count
