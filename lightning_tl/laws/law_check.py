"""Do the runs contradict the law? Each run is predicted from the others; a decision rests on the law being right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtr

from lightning_tl.laws.posterior import Points, Prior, combined, level_centre, particles

#: Probability under which the farthest run contradicts the law.
_DOUBTFUL = 0.05
#: With fewer runs nothing is said.
_LEAST_RUNS = 4


@dataclass(frozen=True)
class LawCheck:
    """How far the run that fits the others least lies from what they predict.

    Attributes:
        group: The group.
        n: Size of that run in images; nan with fewer than four runs.
        probability: Probability that the farthest of so many runs lies as far off or farther, if the law holds.
        flagged: Whether that is under 5 %: the law does not hold, or that run went wrong.
    """

    group: str
    n: float
    probability: float
    flagged: bool

    @property
    def sentence(self) -> str:
        """What is to be known of it; empty where nothing is."""
        if not self.flagged:
            return ""
        return (
            f"{self.group}: the run at n = {self.n:,.0f} does not fit the law through the others (probability "
            f"{max(self.probability, 1e-4):.2g}): look at that run, and do not rely on the answer before."
        )


def check_law(points: Points, groups: Sequence[Points], prior: Prior, n_ref: float) -> LawCheck:
    """Predict each run of a group from its others, and say how far the farthest lies off.

    Args:
        points: The group.
        groups: All groups, for what they say of the noise.
        prior: What is taken for likely before any run.
        n_ref: Smallest size of the study.
    """
    count = len(points.n)
    if count < _LEAST_RUNS:
        return LawCheck(points.label, np.nan, 1.0, False)
    centre = level_centre(groups, prior)
    others = [particles(item, prior, n_ref, centre) for item in groups if item.label != points.label and len(item.n)]
    tails = []
    for i in range(count):
        keep = np.arange(count) != i
        rest = replace(
            points,
            n=points.n[keep],
            log_error=points.log_error[keep],
            runs=points.runs[keep],
            seeds=tuple(seed for seed, kept in zip(points.seeds, keep, strict=True) if kept) if points.seeds else (),
        )
        known = combined([particles(rest, prior, n_ref, centre), *others], prior)
        spread = np.sqrt(known.noise**2 + points.extra[i])[:, None]
        below = ndtr((points.log_error[i] - known.groups[0].log_error(float(points.n[i]))) / spread)
        share = float(known.weight @ below.mean(axis=1))
        tails.append(2 * min(share, 1 - share))
    worst = int(np.argmin(tails))
    probability = min(1.0, count * tails[worst])
    return LawCheck(points.label, float(points.n[worst]), probability, probability < _DOUBTFUL)
