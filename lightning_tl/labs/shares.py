"""Shares of simulated cases, with binomial uncertainty."""

from __future__ import annotations

import math

from lightning_tl.labs.outcome import Comparison


def binomial_interval(count: int, of: int, level: float = 0.95) -> tuple[float, float]:
    """Return the interval of a share (Clopper and Pearson): 0 to 1 where nothing was counted.

    Args:
        count: Cases in which it is so.
        of: All cases.
        level: Confidence level.
    """
    from scipy.special import betaincinv

    tail = (1 - level) / 2
    low = float(betaincinv(count, of - count + 1, tail)) if count else 0.0
    high = float(betaincinv(count + 1, of - count, 1 - tail)) if count < of else 1.0
    return low, high


def compared_share(
    part: str, case: str, at: float, theory: float, count: int, of: int, allowed: float | None = None
) -> Comparison:
    """Compare the share that theory gives with a count.

    The standard error is that of the theory's share, or of the share that is allowed and farthest from it in the
    direction of the count, if that is larger. So a count of all, or of none, of a few cases does not count as exact.

    Args:
        part: Which part of the lab.
        case: Which of its cases.
        at: Where on the part's horizontal axis.
        theory: The share.
        count: Cases in which it is so.
        of: All cases.
        allowed: Largest difference that counts as agreement; ``None``: it is only shown.
    """
    share, margin = count / of, allowed or 0.0
    edge = min(theory + margin, 1.0) if share > theory else max(theory - margin, 0.0)
    variance = max(one * (1 - one) for one in (theory, edge))
    return Comparison(part, case, at, theory, share, math.sqrt(variance / of), allowed)
