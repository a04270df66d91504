"""Where the uncertainty of an error comes from: pre-training runs, draws of fine-tuning images, test images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from lightning_tl.laws.group_fits import GroupFit
from lightning_tl.laws.terms import Terms
from lightning_tl.laws.wording import counted


def _advice(samples: str) -> dict[str, str]:
    """Return what narrows the uncertainty of each source: runs, draws of fine-tuning samples, test samples."""
    return {
        "the scatter of runs about the curve": "more pre-training seeds or sizes narrow it most",
        f"draws of fine-tuning {samples}": "more draws narrow it most",
        f"test {samples}": f"more test {samples} narrow it most",
    }


@dataclass(frozen=True)
class ErrorSources:
    """Variances of the law's log error at a size, by source.

    Attributes:
        n: The size in images, the largest measured.
        variances: Source → variance. Draws are among them where the table has several, test images where it has
            ``error_stderr``.
    """

    n: float
    variances: dict[str, float]

    @property
    def stderr(self) -> float:
        """Standard error of the log error, of all sources together."""
        return float(np.sqrt(sum(self.variances.values())))

    @property
    def shares(self) -> dict[str, float]:
        """Source → its share of the variance."""
        total = sum(self.variances.values())
        return {name: variance / total for name, variance in self.variances.items()}


def error_sources(item: GroupFit) -> ErrorSources | None:
    """Split the uncertainty of a group's error at its largest size; ``None`` where only one source is known."""
    law, cells = item.law, item.law.cells
    _, (low, high) = law.log_level(item.largest, item.s)
    if law.dof < 1 or not np.isfinite(high - low) or high <= low:
        return None
    of_runs, of_draws, of_images = _advice(item.group.terms.samples)
    variances = {of_runs: float(((high - low) / 2 / stdtrit(law.dof, (1 + law.level) / 2)) ** 2)}
    if len(cells.offsets):
        variances[of_draws] = cells.draw_variance
    if cells.image_variance > 0:
        variances[of_images] = cells.image_variance
        if cells.own_image_variance is not None and law.log_noise > 0:  # a part of the scatter is theirs too
            own = min(float(cells.own_image_variance.mean()) / law.log_noise**2, 1.0) * variances[of_runs]
            variances[of_runs] -= own
            variances[of_images] += own
    return ErrorSources(item.largest, variances) if len(variances) > 1 else None


def sources_sentence(sources: ErrorSources, terms: Terms) -> str:
    """Say how uncertain the error is, by source, and what narrows it."""
    shares = sources.shares
    parts = [
        f"{100 * share:.0f} % {'' if i else 'comes '}from {name}" for i, (name, share) in enumerate(shares.items())
    ]
    most = max(shares, key=lambda name: shares[name])
    return (
        f"The {terms.measured} at n = {counted(sources.n, terms)} has a relative standard error of "
        f"{100 * sources.stderr:.1f} %. "
        f"Of its variance, {', '.join(parts[:-1])} and {parts[-1]}; {_advice(terms.samples)[most]}."
    )
