"""What the weights at the start of a run tell about their initialisation.

Their spread is that of the initialisation, if they are freshly drawn and not those of a checkpoint. Numbers that are
drawn independently from one normal or uniform distribution (cut off or not) have the same variance in every row and no
heavy tails; trained weights have rows of very different norms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

# of fewer numbers than these, in so many rows, training leaves no trace that could be distinguished from chance
_FEWEST, _FEWEST_ROWS = 256, 8
_SIGMAS = 5.0
_SAMPLED = 1 << 20  # of more numbers, whole rows are left out


@dataclass(frozen=True)
class StartSpread:
    """One tensor at the start of a run.

    Attributes:
        spread: The standard deviation of its elements; 0 where all are equal.
        count: The number of elements.
        drawn: Whether they look drawn independently from one distribution, or are constant; None for too few elements.
    """

    spread: float
    count: int
    drawn: bool | None

    def agrees(self, spread: float) -> bool:
        """Return whether the elements may have been drawn with this standard deviation, to five standard errors."""
        if spread == 0 or self.spread == 0:
            return spread == self.spread
        return abs(self.spread / spread - 1) < _SIGMAS / math.sqrt(2 * max(self.count - 1, 1)) + 0.02

    def plain(self) -> tuple[float, int, bool | None]:
        """Return the attributes as a tuple, for a checkpoint."""
        return self.spread, self.count, self.drawn


def start_spreads(params: Mapping[str, Tensor]) -> dict[str, StartSpread]:
    """Return what the present weights tell, by parameter name; to be called before the first step of training.

    Args:
        params: Name → parameter; lazy ones are left out.
    """
    with torch.no_grad():
        return {
            name: _start_spread(p.detach())
            for name, p in params.items()
            if not isinstance(p, torch.nn.parameter.UninitializedParameter) and p.numel() and p.is_floating_point()
        }


def _start_spread(tensor: Tensor) -> StartSpread:
    rows = tensor.reshape(tensor.shape[0], -1) if tensor.dim() > 1 else tensor.reshape(1, -1)
    rows = rows[:: math.ceil(rows.numel() / _SAMPLED)]
    if bool((tensor == tensor.flatten()[0]).all()):
        return StartSpread(0.0, tensor.numel(), True)
    rows = rows.double()
    centred = rows - rows.mean()
    variance = float(centred.square().mean())
    return StartSpread(math.sqrt(variance), rows.numel(), _looks_drawn(centred, variance))


def _looks_drawn(rows: Tensor, variance: float) -> bool | None:
    """Return whether centred rows [R, C] look drawn from one normal or uniform distribution; None for too few."""
    count = rows.numel()
    if count < _FEWEST or rows.shape[0] < _FEWEST_ROWS or rows.shape[1] < _FEWEST_ROWS:
        return None
    kurtosis = float(rows.pow(4).mean()) / variance**2
    # a normal distribution's is 3 ± √(24/n), a uniform one's 1.8
    if not kurtosis < 3 + _SIGMAS * math.sqrt(24 / count) + 0.05:
        return False
    for part in (rows, rows.T):
        # the mean squares of rows of n independent numbers scatter by √((kurtosis − 1)/n) of the variance
        ratio = part.square().mean(1) / variance
        allowed = (kurtosis - 1) / part.shape[1]
        scatter = float((ratio - 1).square().mean()) / allowed
        if scatter > 1 + _SIGMAS * math.sqrt(3 / len(part)) + 0.1:
            return False
    return True
