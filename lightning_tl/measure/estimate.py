"""Estimates with their uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

Estimator = Literal["exact", "gauss-newton", "hutchinson", "deflated", "xtrace"]


@dataclass(frozen=True)
class TraceEstimate:
    """An estimate of Tr H.

    Attributes:
        value: The estimate, in units of loss per squared weight.
        stderr: Its standard error; 0 where it is exact.
        method: The estimator, one of :data:`Estimator`; ``gauss-newton`` includes the remainder.
        products: The work done, in Hessian-vector products; a cheaper backward pass counts as a part of one.
        degrees: Degrees of freedom of the standard error, for :meth:`interval`.
        groups: The trace by parameter group; the groups add up to the value.
        group_stderr: Standard errors by group.
        seconds: Wall time.
        weighted: The estimate of Tr ΣH, if scales were given; its ``products`` are those spent only on it.
        memory: What the next measurement of the same run may start from: tensors and plain types.
    """

    value: float
    stderr: float
    method: Estimator
    products: float
    degrees: float = float("inf")
    groups: dict[str, float] = field(default_factory=dict)
    group_stderr: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    weighted: TraceEstimate | None = None
    memory: dict[str, Any] = field(default_factory=dict, repr=False)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the two ends of a confidence interval from Student's t."""
        from scipy.special import stdtrit  # here, so that measuring does not import scipy

        half = float(stdtrit(self.degrees, 0.5 + level / 2)) * self.stderr
        return self.value - half, self.value + half


@dataclass
class Samples:
    """Independent unbiased estimates of one quantity, by group.

    Attributes:
        values: Tensors [groups], float64.
    """

    values: list[Tensor] = field(default_factory=list)

    def add(self, value: Tensor) -> None:
        """Append an estimate [groups]."""
        self.values.append(value.double().cpu())

    def __len__(self) -> int:
        return len(self.values)

    def mean(self) -> Tensor:
        """Return the mean, [groups]."""
        return torch.stack(self.values).mean(0)

    def total_variance(self) -> float:
        """Return the variance of one estimate of the sum over groups; 0 for fewer than two."""
        return 0.0 if len(self) < 2 else float(torch.stack(self.values).sum(1).var())

    def group_variance(self) -> Tensor:
        """Return the variance of one estimate by group, [groups]; zeros for fewer than two."""
        stacked = torch.stack(self.values)
        return stacked.var(0) if len(self) > 1 else torch.zeros_like(stacked[0])


def combine(parts: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """Return standard error and degrees of freedom (Welch-Satterthwaite) of a sum of independent means.

    Args:
        parts: For each mean, the variance of one estimate and the number of estimates.
    """
    shares = [(variance / count, count - 1) for variance, count in parts if count > 1 and variance > 0]
    total = sum(share for share, _ in shares)
    if total == 0:
        return 0.0, float("inf")
    return total**0.5, total**2 / sum(share**2 / degrees for share, degrees in shares)
