"""Groups that compete are alike: what all of them say of one.

Of many groups measured with noise, the one that looks best is so partly by luck. How much depends on how far groups lie
apart in truth, which their scatter shows: at the size in question log errors are taken to be normal about a common
mean, with a spread that is estimated (a random-effects model; the spread is integrated over, log-uniform from 0.5 % to
a factor of e). Each group's particles are weighted by that, and drawn anew.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lightning_tl.laws.forms import Array
from lightning_tl.laws.posterior import Particles, Posterior

_SPREADS = np.geomspace(0.005, 1.0, 24)
#: Fewer groups than this say nothing of the spread between groups.
_LEAST_GROUPS = 3


def among_rivals(posterior: Posterior, at: float) -> Posterior:
    """Return the posterior once each group is taken for one of many that are alike.

    Args:
        posterior: The posterior of each group by itself.
        at: Size at which groups are alike.
    """
    error = np.stack([item.log_error(at) for item in posterior.groups])  # (k, S, P)
    tried = np.array([len(item.points.n) > 0 for item in posterior.groups])
    if tried.sum() < _LEAST_GROUPS:
        return posterior
    count = error.shape[2]
    centre, variance = error.mean(axis=2), error.var(axis=2)  # (k, S)
    stratum = (np.arange(count) + 0.5) / count
    places = np.empty(error.shape, np.int64)
    for s in range(error.shape[1]):
        for group in range(len(error)):
            order = np.argsort(error[group, s], kind="stable")  # strata of the error: no chance in what matters here
            cumulative = np.cumsum(_weight(error[group, s, order], group, centre[:, s], variance[:, s], tried))
            found = np.searchsorted(cumulative, stratum * cumulative[-1])
            places[group, s] = order[np.minimum(found, count - 1)]
    groups = tuple(_drawn_anew(item, place) for item, place in zip(posterior.groups, places, strict=True))
    return replace(posterior, groups=groups)


def _weight(own: Array, group: int, centre: Array, variance: Array, tried: Array) -> Array:
    """Return the weight of one group's draws (P,) by what the other groups say."""
    others = tried.copy()
    others[group] = False
    total = variance[others] + _SPREADS[:, None] ** 2  # (spreads, others)
    precision = (1 / total).sum(axis=1)
    mean = (centre[others] / total).sum(axis=1) / precision
    # of the others' centres for each spread, the common mean integrated over
    log_likely = -0.5 * (np.log(total) + (centre[others] - mean[:, None]) ** 2 / total).sum(axis=1)
    log_likely = log_likely - 0.5 * np.log(precision)
    likely = np.exp(log_likely - log_likely.max())
    around = _SPREADS**2 + 1 / precision
    density = np.exp(-0.5 * (own[:, None] - mean) ** 2 / around) / np.sqrt(around)
    weight: Array = density @ likely + 1e-300
    return weight


def _drawn_anew(item: Particles, place: NDArray[np.int64]) -> Particles:
    alpha, share, level = (np.take_along_axis(value, place, axis=1) for value in (item.alpha, item.share, item.level))
    return replace(item, alpha=alpha, share=share, level=level)
