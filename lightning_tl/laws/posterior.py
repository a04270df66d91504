"""What the runs so far say of a law: a posterior over alpha, C, the level and the noise, in particles.

The law is ``log error = level + log(share + (1 - share) (n / n_ref)^-alpha)``; ``share`` is the part of the error at
``n_ref`` that C is. The error of one pre-training run scatters about it with a normal error in log error, whose
standard deviation is the noise. A priori alpha is uniform, share is uniform, the noise is log-uniform on a few values
that all groups have in common, and the level is normal about the errors seen.

For each value of the noise, alpha and share lie on a grid, the level is integrated out in closed form, and a fixed
number of particles is drawn from the grid by systematic sampling, with nothing random: one table gives one posterior,
to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from scipy.special import logsumexp, ndtri

from lightning_tl.errors import UserError
from lightning_tl.laws.clusters import cells
from lightning_tl.laws.forms import Array
from lightning_tl.laws.results_table import Group

#: Grid over alpha and over the share of C.
_ALPHAS, _SHARES = 160, 128
#: Values of the noise with less of the posterior than this are left out.
_LEAST = 1e-3
#: Grid points whose log density is this far below the highest are left out.
_DEPTH = 25.0
_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Prior:
    """What is taken for likely before any run.

    Attributes:
        alpha: Ends of the range in which the pre-training rate is uniform.
        noise: Ends of the range in which the noise (standard deviation of a pre-training's log error) is log-uniform;
            twice the same value: the noise is known.
        noises: How many values of the noise are looked at.
        lean: Power of the noise that its log-uniform probability is multiplied by: over 0, large noise is likelier.
        error: Error about which a curve's error at the smallest size lies, where there is no run at all.
        spread: Standard deviation of the log of it.
    """

    alpha: tuple[float, float] = (0.02, 1.2)
    noise: tuple[float, float] = (0.0025, 0.10)
    noises: int = 8
    lean: float = 0.5
    error: float = 0.3
    spread: float = 0.7

    def __post_init__(self) -> None:
        for name, (low, high) in (("alpha", self.alpha), ("noise", self.noise)):
            if not (0 < low <= high < np.inf):
                raise UserError(f"prior of {name} is {low:g} to {high:g}; give two numbers over 0, the smaller first")

    @property
    def noise_values(self) -> Array:
        """Values of the noise, shape (S,)."""
        low, high = self.noise
        return np.array([low]) if low == high else np.geomspace(low, high, self.noises)

    @property
    def log_noise_weight(self) -> Array:
        """Log of the prior probabilities of these values, but for a constant, shape (S,)."""
        weight: Array = self.lean * np.log(self.noise_values)
        return weight


def prior_of(noise: float | None) -> Prior:
    """Return what is taken for likely before any run.

    Args:
        noise: Relative scatter of the error from pre-training to pre-training, where it is known.

    Raises:
        UserError: The noise is not in (0, 1).
    """
    if noise is None:
        return Prior()
    if not 0 < noise < 1:
        raise UserError(f"noise is {noise:g}; give the relative scatter of the error, such as 0.02")
    return Prior(noise=(noise, noise))


@dataclass(frozen=True)
class Points:
    """The pre-training runs of one group.

    Attributes:
        label: The group.
        n: Size of each pre-training run in images, shape (m,).
        log_error: Its mean log error over its fine-tunings, without the luck of draws, shape (m,).
        runs: Number of its fine-tunings, shape (m,).
        run_variance: Variance of the log error of one fine-tuning about its pre-training's; ``None`` where unknown.
        draw_variance: Variance of the level by the draws used, which all sizes share.
        scratch: Log errors without pre-training, shape (k,); without the luck of draws where they are the group's own.
        scratch_variance: Least variance of their mean: by their scatter, where they have draws of their own.
        seeds: Label of each pre-training run, where known.
    """

    label: str
    n: Array
    log_error: Array
    runs: Array
    run_variance: float | None = None
    draw_variance: float = 0.0
    scratch: Array = field(default_factory=lambda: np.zeros(0))
    seeds: tuple[str, ...] = ()
    scratch_variance: float = 0.0

    @property
    def extra(self) -> Array:
        """Variance of each point besides the pre-training's own, shape (m,)."""
        return (self.run_variance or 0.0) / self.runs

    @property
    def usual_runs(self) -> float:
        """Fine-tunings of a pre-training run, on average; 1 where there is none yet."""
        return float(self.runs.mean()) if len(self.runs) else 1.0


def points_of_group(group: Group) -> Points:
    """Return a group's runs as points: fine-tunings of one pre-training averaged, the luck of draws removed."""
    scratch = np.log(group.scratch["error"].to_numpy(float))
    if group.runs.empty:
        return Points(group.label, np.zeros(0), np.zeros(0), np.zeros(0), scratch=scratch)
    n, y = group.runs["n"].to_numpy(float), np.log(group.runs["error"].to_numpy(float))
    seeds = group.labels("pretrain")
    cell = cells(n, y, pretrain=seeds, draw=group.labels("draw"))
    labels = tuple(label for _, label in sorted(set(zip(n, map(str, seeds), strict=True)))) if seeds else ()
    variance = cell.residual_variance if cell.residual_dof > 0 else None
    luck = dict(zip(cell.draws, cell.offsets, strict=True))
    draws = [str(draw) for draw in group.scratch["draw"]] if "draw" in group.scratch else []
    least = 0.0
    if draws and set(draws) <= set(luck):
        scratch = scratch - np.array([luck[draw] for draw in draws])
    elif len(scratch):
        least = float(np.var(scratch, ddof=1) / len(scratch)) if len(scratch) > 1 else cell.draw_variance
    return Points(group.label, cell.n, cell.log_error, cell.runs, variance, cell.draw_variance, scratch, labels, least)


@dataclass(frozen=True)
class Particles:
    """Draws from one group's posterior, of equal weight for each value of the noise.

    Attributes:
        points: What they rest on.
        n_ref: Size at which ``share`` and ``level`` are.
        alpha: Pre-training rates, shape (S, P).
        share: Shares of C in the error at ``n_ref``, shape (S, P).
        level: Log errors at ``n_ref``, shape (S, P).
        log_evidence: Log of the probability density of the points for each noise, shape (S,).
    """

    points: Points
    n_ref: float
    alpha: Array
    share: Array
    level: Array
    log_evidence: Array

    def log_error(self, n: float) -> Array:
        """Return each particle's log error at a size, shape (S, P)."""
        return self.level + shape_of(self.alpha, self.share, n / self.n_ref)


def shape_of(alpha: Array, share: Array, ratio: Array | float) -> Array:
    """Return log(share + (1 - share) ratio^-alpha): log error at a size over that at ``n_ref``."""
    falling: Array = np.exp(-alpha * np.log(ratio))
    return np.log(share + (1 - share) * falling)


@lru_cache(maxsize=8)
def grid(low: float, high: float) -> tuple[Array, Array, Array]:
    """Return alpha, share and log prior of the grid, each of shape (G,); shares are dense near 0 and 1."""
    alpha = low + (high - low) * (np.arange(_ALPHAS) + 0.5) / _ALPHAS
    angle = np.pi * (np.arange(_SHARES) + 0.5) / _SHARES
    weight = np.tile(np.sin(angle), _ALPHAS)
    return np.repeat(alpha, _SHARES), np.tile((1 - np.cos(angle)) / 2, _ALPHAS), np.log(weight / weight.sum())


@lru_cache(maxsize=256)
def _column(low: float, high: float, ratio: float) -> Array:
    alpha, share, _ = grid(low, high)
    return shape_of(alpha, share, ratio)


def grid_shapes(n: Array, prior: Prior, n_ref: float) -> Array:
    """Return the grid's log errors at sizes (m,) over those at ``n_ref``, shape (m, G)."""
    return np.stack([_column(*prior.alpha, float(size) / n_ref) for size in n])


def particles(points: Points, prior: Prior, n_ref: float, centre: float, count: int = 384) -> Particles:
    """Return a group's posterior.

    Args:
        points: Its runs; there may be none.
        prior: What is taken for likely before.
        n_ref: Smallest size of the study.
        centre: Log error about which the level at ``n_ref`` is likely a priori.
        count: Particles for each value of the noise.
    """
    points_of = tuple(tuple(map(float, values)) for values in (points.n, points.log_error, points.extra))
    return Particles(points, n_ref, *_drawn(points_of, prior, n_ref, centre, count))


@lru_cache(maxsize=256)
def _drawn(
    points: tuple[tuple[float, ...], ...], prior: Prior, n_ref: float, centre: float, count: int
) -> tuple[Array, Array, Array, Array]:
    """Return alpha, share, level (S, P) and the log evidence (S,)."""
    n, y, extra = (np.array(values) for values in points)
    alpha, share, log_prior = grid(*prior.alpha)
    shift = grid_shapes(n, prior, n_ref) if len(n) else np.zeros((0, 1))
    rest = y[:, None] - shift - centre
    stratum = (np.arange(count) + 0.5) / count
    normal = ndtri((np.arange(1, count + 1) * _GOLDEN) % 1)
    chosen, levels, evidence = [], [], []
    for noise in prior.noise_values:
        weight = 1 / (noise**2 + extra)
        total = float(weight.sum())
        precision = total + prior.spread**-2
        mean = weight @ rest  # (G,) times the sum of weights
        misfit = weight @ rest**2 - mean**2 / precision
        log_density = log_prior - misfit / 2 if len(weight) else log_prior
        peak = float(log_density.max())
        near = np.flatnonzero(log_density > peak - _DEPTH)
        cumulative = np.cumsum(np.exp(log_density[near] - peak))
        constant = np.log(weight / (2 * np.pi)).sum() / 2 - np.log(prior.spread**2 * precision) / 2
        evidence.append(peak + float(np.log(cumulative[-1]) + constant))
        place = near[np.minimum(np.searchsorted(cumulative, stratum * cumulative[-1]), len(near) - 1)]
        chosen.append(place)
        at = mean[place] / precision if len(weight) else np.zeros(count)
        levels.append(centre + at + normal / np.sqrt(precision))
    picked = np.stack(chosen)
    return alpha[picked], share[picked], np.stack(levels), np.array(evidence)


@dataclass(frozen=True)
class Posterior:
    """The posterior of all groups; given the noise, they are independent.

    Attributes:
        groups: One set of particles per group, over the same values of the noise.
        noise: Values of the noise that are left, shape (S,).
        weight: Their probabilities, shape (S,).
        prior: What was taken for likely before.
    """

    groups: tuple[Particles, ...]
    noise: Array
    weight: Array
    prior: Prior


def posterior(groups: Sequence[Points], prior: Prior, n_ref: float, count: int = 384) -> Posterior:
    """Return the posterior of several groups whose runs have the same noise.

    Args:
        groups: The groups' runs.
        prior: What is taken for likely before any run.
        n_ref: Smallest size of the study.
        count: Particles for each group and value of the noise.
    """
    centre = level_centre(groups, prior)
    return combined([particles(points, prior, n_ref, centre, count) for points in groups], prior)


def level_centre(groups: Sequence[Points], prior: Prior) -> float:
    """Return the log error about which levels are likely a priori: the mean of the groups' smallest sizes."""
    seen = [points.log_error[points.n == points.n.min()] for points in groups if len(points.n)]
    return float(np.concatenate(seen).mean()) if seen else float(np.log(prior.error))


def combined(groups: Sequence[Particles], prior: Prior) -> Posterior:
    """Return the posterior of groups that are known one by one: their evidence for the noise is put together."""
    log_weight = prior.log_noise_weight + np.sum([group.log_evidence for group in groups], axis=0)
    noises = prior.noise_values
    weight = np.exp(log_weight - logsumexp(log_weight))
    keep = weight >= _LEAST
    weight = weight[keep] / weight[keep].sum()
    kept = [
        Particles(
            item.points, item.n_ref, item.alpha[keep], item.share[keep], item.level[keep], item.log_evidence[keep]
        )
        for item in groups
    ]
    return Posterior(tuple(kept), noises[keep], weight, prior)
