"""Test accuracy after partial transfer by a signal-to-noise argument; the derivation is in docs/labs.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lightning_tl.labs.outcome import Array

#: Quantiles by which a normal distribution is represented.
_NODES = 12
#: What a step adds to a margin at a loss that has not fallen yet.
_STEP = 0.05
_MOST_STEPS = 5000
#: Share of a label's filters that memorise a sample, from small first weights.
ACTIVE = 0.75


@dataclass(frozen=True)
class Setting:
    """What the argument needs to know of upstream and downstream.

    Attributes:
        d: Dimension of a patch.
        strength: ‖μ‖, upstream and downstream.
        upstream: Upstream samples.
        downstream: Downstream samples.
        shared: τ = ‖u‖²/‖μ‖², the share of the universal signal.
        start: Standard deviation of the filters' first weights.
        loss: Training loss at which each training ends.
    """

    d: int
    strength: float
    upstream: int
    downstream: int
    shared: float
    start: float
    loss: float

    def ratio(self, samples: int) -> float:
        """Return R = n‖μ‖²/d, the signal-to-noise ratio of a training set."""
        return samples * self.strength**2 / self.d


@dataclass(frozen=True)
class Learnt:
    """What a training leaves.

    Attributes:
        signal: Margin that the signal gives.
        common: Standard deviation of what all new filters of a label share in their response to new noise; then that
            of the inherited ones, and the covariance of the two.
        own: Standard deviation of each filter's own part of it, for new and inherited filters.
    """

    signal: float
    common: tuple[float, float, float]
    own: tuple[float, float]


def learnt(setting: Setting, samples: int, share: float = 0.0, had: float = 0.0, old: Array | None = None) -> Learnt:
    """Follow the margins of samples until the mean loss is small enough.

    Args:
        setting: Upstream and downstream.
        samples: n of this training.
        share: Share of the filters that is inherited.
        had: Margin that the signal gives at the start.
        old: Standard deviations of the response of inherited filters to new noise: what they share, and their own.
    """
    fresh = setting.start * np.sqrt(setting.d)
    shared, own = (0.0, fresh) if old is None else (float(old[0]), float(np.hypot(old[1], fresh)))
    # samples differ in how inherited filters of their label respond, and in what the memory of other samples adds
    level, luck = (axis.ravel() for axis in np.meshgrid(shared * _nodes(), _nodes(), indexing="ij"))
    margin = had + share * mean_response(level, own**2)
    signal, memory = had, np.zeros_like(level)
    rate = setting.ratio(samples) / 2
    active_new = active_old = np.full_like(level, 0.5)
    scale = samples / (2 * setting.d)

    def mean(*factors: Array) -> float:
        return float(np.mean(np.prod(factors, axis=0)) * scale)

    for _ in range(_MOST_STEPS):
        loss = np.logaddexp(0, -margin)
        if loss.mean() <= setting.loss:
            break
        squared = memory**2
        active_new = _ever_active(0 * level, fresh, luck, squared, active_new, mean)
        active_old = _ever_active(level, own, luck, squared, active_old, mean) if share else active_new
        pull = 1 - np.exp(-loss)  # |derivative of the loss|
        step = _STEP / max(float(pull.max()), 1e-9)
        gained = step * rate * float(pull.mean())
        margin = margin + gained + step * pull * (share * active_old + (1 - share) * active_new)
        memory = memory + step * pull
        signal += gained
    squared = memory**2
    common = (
        np.sqrt(mean(squared, active_new, active_new)),
        np.sqrt(mean(squared, active_old, active_old)),
        mean(squared, active_old, active_new),
    )
    parts = tuple(np.sqrt(mean(squared, active * (1 - active))) for active in (active_new, active_old))
    return Learnt(signal, common, (parts[0], parts[1]))


def _ever_active(
    level: Array, own: float, luck: Array, squared: Array, active: Array, mean: Callable[..., float]
) -> Array:
    """Return the share of filters that is active at the start, or once the memory of other samples has grown."""
    from scipy.special import ndtr

    common, apart = np.sqrt(mean(squared, active, active)), np.sqrt(mean(squared, active, 1 - active)) + 1e-12
    z = level[:, None] + own * _nodes()
    later = ndtr((z + common * luck[:, None]) / apart)
    share: Array = np.where(z > 0, 1.0, later).mean(axis=1)
    return share


@cache
def _nodes() -> Array:
    """Return quantiles of the standard normal distribution, shape (_NODES,)."""
    from scipy.special import ndtri

    nodes: Array = ndtri((np.arange(_NODES) + 0.5) / _NODES)
    return nodes


@cache
def _normals(count: int = 2**13) -> Array:
    """Return quasi-random standard normal numbers, shape (7, count)."""
    from scipy.special import ndtri
    from scipy.stats.qmc import Sobol

    points = Sobol(7, scramble=True, rng=np.random.default_rng(0)).random(count)
    normals: Array = ndtri(points.T)
    return normals


@lru_cache(maxsize=256)
def upstream(setting: Setting) -> Learnt:
    """Return what the upstream training leaves."""
    return learnt(setting, setting.upstream)


@lru_cache(maxsize=1024)  # figures are drawn twice
def accuracy(setting: Setting, share: float) -> float:
    """Return the test accuracy where a share of the filters is inherited.

    Args:
        setting: Upstream and downstream.
        share: Of the filters; 0 is training from scratch.
    """
    first = upstream(setting)
    upstream_only = foreign_response(setting, first.signal)
    old = np.array([np.hypot(first.common[0], upstream_only), first.own[0]])
    then = learnt(setting, setting.downstream, share, share * setting.shared * first.signal, old)
    up, new, more = _normals()[:2], _normals()[2:4], _normals()[4:6]  # one for each label's filters
    of_signal = _normals()[6] * np.array([[1.0], [-1.0]])
    fresh, inherited, together = then.common
    along = together / fresh if fresh > 0 else 0.0
    down = along * new + np.sqrt(max(inherited**2 - along**2, 0.0)) * more
    kept = mean_response(first.common[0] * up + upstream_only * of_signal + down, first.own[0] ** 2 + then.own[1] ** 2)
    anew = mean_response(fresh * new, then.own[0] ** 2 + setting.start**2 * setting.d)
    response = share * kept + (1 - share) * anew
    return float(np.mean(then.signal + response[0] - response[1] > 0))


def foreign_response(setting: Setting, signal: float) -> float:
    """Return the standard deviation of what an inherited filter answers to noise by upstream's own signal.

    Downstream noise is orthogonal to the downstream signal, so that only the part of the upstream signal which is
    orthogonal to it counts: its length is ‖μ‖√(1 - τ²).

    Args:
        setting: Upstream and downstream.
        signal: Margin that the upstream signal gives upstream.
    """
    return float(signal * np.sqrt(1 - setting.shared**2) / setting.strength)


def mean_response(common: Array, variance: float) -> Array:
    """Return E σ(common + own), where own is normal with mean 0 and this variance."""
    from scipy.special import ndtr

    spread = np.sqrt(max(variance, 1e-18))
    ratio = common / spread
    found: Array = common * ndtr(ratio) + spread * np.exp(-(ratio**2) / 2) / np.sqrt(2 * np.pi)
    return found


def harmful_share(setting: Setting) -> float:
    """Return the share of inherited filters from which on transfer harms, to lowest order; infinite: it never does.

    All samples reach one margin κ, and three quarters of a label's filters memorise each. With x and y the signal that
    is inherited over that learnt downstream and over κ, for a share of 1, and r the variance of the response to new
    noise that comes from upstream over that from downstream, the accuracy is lower than from scratch where
    (1 + αx)² < (1 - αy)² + α²r.

    Args:
        setting: Upstream and downstream.
    """
    margin = float(-np.log(np.expm1(setting.loss)))
    signals, spreads = [], []
    for samples in (setting.upstream, setting.downstream):
        ratio = setting.ratio(samples)
        signals.append(margin * ratio / (ratio + 2 * ACTIVE))
        spreads.append((margin - signals[-1]) ** 2 / ACTIVE * samples / (2 * setting.d))
    own = foreign_response(setting, signals[0]) ** 2
    total = spreads[0] + own
    noise = 2 * total * (_covariance((ACTIVE * spreads[0] + own) / total) - _covariance(-own / total))
    r = noise / (2 * spreads[1] * _covariance(ACTIVE))
    y = setting.shared * signals[0] / margin
    x = setting.shared * signals[0] / signals[1] * 2 * ACTIVE / (setting.ratio(setting.downstream) + 2 * ACTIVE)
    rest = r - x**2 + y**2
    return 2 * (x + y) / rest if rest > 0 else float("inf")


def _covariance(correlation: float) -> float:
    """Return the covariance of σ(a) and σ(b) for standard normal a and b of this correlation."""
    angle = np.pi - np.arccos(correlation)
    return float((np.sqrt(1 - correlation**2) + correlation * angle - 1) / (2 * np.pi))
