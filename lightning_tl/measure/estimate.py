"""Estimates with their uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class TraceEstimate:
    """An estimate of Tr H.

    Attributes:
        value: The estimate, in units of loss per squared weight.
        stderr: Its standard error; 0 where it is exact.
        method: ``exact``, ``split`` (Gauss-Newton and remainder apart), ``hutchinson``, ``deflated`` or ``xtrace``.
        products: The work done, in Hessian-vector products; a cheaper pass of the split counts by its share.
        degrees: Degrees of freedom of the standard error, for :meth:`interval`.
        groups: The trace by parameter group; the groups add up to the value.
        group_stderr: Standard errors by group.
        seconds: Wall time.
        weighted: The estimate of Tr ΣH, where scales were given; its products are those spent only on it.
        memory: What the next measurement of the same run may start from; plain tensors and numbers.
    """

    value: float
    stderr: float
    method: str
    products: float
    degrees: float = float("inf")
    groups: dict[str, float] = field(default_factory=dict)
    group_stderr: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    weighted: TraceEstimate | None = None
    memory: dict[str, Any] = field(default_factory=dict, repr=False)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the two ends of a confidence interval from Student's t."""
        half = t_quantile(0.5 + level / 2, self.degrees) * self.stderr
        return self.value - half, self.value + half


@dataclass
class Samples:
    """Independent unbiased estimates of one quantity, by group.

    Attributes:
        values: Each a tensor [groups], float64.
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
        parts: Variance of one estimate and number of estimates, by mean.
    """
    shares = [(variance / count, count - 1) for variance, count in parts if count > 1 and variance > 0]
    total = sum(share for share, _ in shares)
    if total == 0:
        return 0.0, float("inf")
    return total**0.5, total**2 / sum(share**2 / degrees for share, degrees in shares)


def t_quantile(probability: float, degrees: float) -> float:
    """Return a quantile of Student's t, by the expansion around the normal's (Abramowitz and Stegun 26.7.5).

    Good to 1 % from three degrees of freedom on; below, exact for one and two.
    """
    if degrees < 1.5:
        return float(torch.tan(torch.tensor(torch.pi * (probability - 0.5), dtype=torch.float64)))
    if degrees < 2.5:
        return (2 * probability - 1) / (2 * probability * (1 - probability)) ** 0.5
    z = float(torch.special.ndtri(torch.tensor(probability, dtype=torch.float64)))
    if degrees == float("inf"):
        return z
    return (
        z
        + (z**3 + z) / (4 * degrees)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * degrees**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * degrees**4)
    )
