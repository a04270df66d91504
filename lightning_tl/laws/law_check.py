"""Do the runs contradict the law, on which every decision rests?

With four runs or more each is predicted from the others. With fewer, only a scatter that is beyond the largest noise
considered contradicts it: no law comes near the runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import chdtrc, ndtr

from lightning_tl.laws.posterior import Points, Prior, combined, grid_shapes, level_centre, particles

#: Probability under which the farthest run contradicts the law.
_DOUBTFUL = 0.05
#: With fewer runs none is predicted from the others.
_LEAST_RUNS = 4


@dataclass(frozen=True)
class LawCheck:
    """How far the run that fits the others least lies from what they predict.

    Attributes:
        group: The group.
        n: Size of that run in images; nan where nothing can be said.
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
            f"{_probability(self.probability)}): look at that run, and do not rely on the answer before."
        )


def _probability(value: float) -> str:
    return "under 0.001" if value < 1e-3 else f"{value:.2g}"


def _least_misfit(points: Points, prior: Prior, n_ref: float) -> LawCheck:
    """Compare the law nearest to the runs with them, at the largest noise: a chi-square test that is on the safe side.

    The law's shape takes degrees of freedom as well; only the level's is counted.
    """
    weight = 1 / (prior.noise_values[-1] ** 2 + points.extra)
    rest = points.log_error[:, None] - grid_shapes(points.n, prior, n_ref)
    rest = rest - weight @ rest / weight.sum()
    misfit = weight @ rest**2
    best = int(np.argmin(misfit))
    probability = float(chdtrc(len(points.n) - 1, misfit[best]))
    worst = int(np.argmax(np.sqrt(weight) * np.abs(rest[:, best])))
    return LawCheck(points.label, float(points.n[worst]), probability, probability < _DOUBTFUL)


def check_law(points: Points, groups: Sequence[Points], prior: Prior, n_ref: float) -> LawCheck:
    """Predict each run of a group from its others, and say how far the farthest lies off.

    Args:
        points: The group.
        groups: All groups, for what they say of the noise.
        prior: What is taken for likely before any run.
        n_ref: Smallest size of the study.
    """
    count = len(points.n)
    if count < 2:
        return LawCheck(points.label, np.nan, 1.0, False)
    gross = _least_misfit(points, prior, n_ref)
    if count < _LEAST_RUNS or gross.flagged:
        return gross
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
