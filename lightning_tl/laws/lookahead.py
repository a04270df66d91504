"""What one more run is expected to bring, before it is done.

The run's log error y is predicted from the particles. For each y, the probability that an answer is right is a sum over
the particles, weighted by the density of y for each; the answer would then be the one most likely right. Averaged over
y this is the probability of a right answer after the run: an integral over one number, taken on bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from lightning_tl.laws.forms import Array
from lightning_tl.laws.posterior import Particles, Points

#: Bins for the run's outcome.
_BINS = 144
#: Bins with room for what is smeared beyond the ends.
_PADDED = 216
#: Answers that are less likely right than this are left out: no run makes them the likeliest.
_UNLIKELY = 1e-4
#: Share of the noise that is the fine-tuning's where the table does not show it.
UNKNOWN_SHARE = 0.5


@dataclass(frozen=True)
class Scratch:
    """What is known of the log error without pre-training, for each value of the noise.

    Attributes:
        mean: Mean over its runs.
        variance: Variance of that, shape (S,).
        run: Variance of one run, shape (S,).
    """

    mean: float
    variance: Array
    run: Array


def scratch_of(points: Points, noise: Array) -> Scratch:
    """Return what is known of a group's error without pre-training."""
    count = len(points.scratch)
    run = np.maximum(noise**2 + (points.run_variance or 0.0), points.scratch_variance * count)
    return Scratch(float(points.scratch.mean()), run / count, run)


@dataclass(frozen=True)
class Outlook:
    """What is expected of one more run.

    Attributes:
        wrong: Expected probability that the answer given after it is wrong.
        doubt: Expected probability that an answer drawn by its probability is wrong; it falls with any information.
        settles: Probability that the answer then has the confidence asked for.
    """

    wrong: float
    doubt: float
    settles: float


def outlook(right: Array, weight: Array, mean: Array, spread: Array, threshold: float) -> Outlook:
    """Return what is expected of a run.

    Args:
        right: Probability that each answer is right for each particle, shape (K, S, P).
        weight: Probability of each particle, shape (S, P).
        mean: Mean of the run's log error for each particle, shape (S, P).
        spread: Its standard deviation about that, shape (S,).
        threshold: Probability from which on an answer is decided.
    """
    return _summary(*outcomes(right, weight, mean, spread), threshold)


def scratch_outlook(level: Array, weight: Array, scratch: Scratch, threshold: float) -> Outlook:
    """Return what is expected of one more run without pre-training, where the answers are "better" and "worse".

    Args:
        level: Log error with pre-training of each particle, shape (S, P).
        weight: Probability of each particle, shape (S, P).
        scratch: What is known of the error without pre-training.
        threshold: Probability from which on an answer is decided.
    """
    spread = np.sqrt(scratch.variance + scratch.run)
    y = scratch.mean + 4.5 * spread.max() * np.linspace(-1, 1, _BINS)
    density = np.exp(-0.5 * ((y - scratch.mean) / spread[:, None]) ** 2) / spread[:, None]
    density /= density.sum(axis=1, keepdims=True)
    learnt = scratch.variance / (scratch.variance + scratch.run)
    mean = scratch.mean + learnt[:, None] * (y - scratch.mean)  # (S, bins)
    left = np.sqrt(scratch.variance * (1 - learnt))
    better = ndtr((mean[:, None, :] - level[:, :, None]) / left[:, None, None])
    both = np.einsum("sp,spy,sy->y", weight, better, density)
    total = weight.sum(axis=1) @ density
    return _summary(np.stack([both, total - both]), total, threshold)


def _summary(joint: Array, total: Array, threshold: float) -> Outlook:
    best = joint.max(axis=0)
    summed = joint.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = np.where(summed > 0, (joint**2).sum(axis=0) / summed, 0.0)
    settled = float(total[best >= threshold * total].sum())
    return Outlook(float(1 - best.sum()), float(1 - drawn.sum()), settled)


def outcomes(right: Array, weight: Array, mean: Array, spread: Array) -> tuple[Array, Array]:
    """Return, for bins of the outcome, its probability together with each answer being right (K, bins), and its own.

    Answers that are hardly possible are left out of K.
    """
    noises, count = mean.shape
    likely = current(right, weight) > _UNLIKELY
    right = right[likely] if likely.any() else right[:1]
    # Particles are draws, so that a run's scatter must cover a few of them: else each would be known by its outcome.
    smooth = np.maximum(spread, 3 * np.ptp(mean, axis=1) / count)
    margin = 4.5 * smooth[:, None]
    low, high = float((mean - margin).min()), float((mean + margin).max())
    width = (high - low) / _BINS
    smooth = np.maximum(smooth, 0.6 * width)
    place = np.minimum(((mean - low) / width).astype(np.int64), _BINS - 1) + _BINS * np.arange(noises)[:, None]
    flat = place.ravel()
    values = np.concatenate([right, np.ones((1, noises, count))]) * weight
    binned = np.stack([np.bincount(flat, row.ravel(), _BINS * noises) for row in values])
    binned = binned.reshape(len(values), noises, _BINS)
    transform = np.fft.rfft(binned, _PADDED, axis=2)
    smeared = np.fft.irfft(np.einsum("ksf,sf->kf", transform, _blur(smooth / width)), _PADDED, axis=1)[:, :_BINS]
    smeared = np.maximum(smeared, 0.0)  # rounding
    return smeared[:-1], smeared[-1]


def _blur(spread: Array) -> Array:
    """Return the Fourier transform of normal densities with these standard deviations in bins, shape (S, f)."""
    frequency = np.fft.rfftfreq(_PADDED)
    scale = -2 * (np.pi * spread[:, None]) ** 2
    blur: Array = np.exp(scale * frequency**2) + np.exp(scale * (1 - frequency) ** 2)  # the second: sampled at bins
    return blur / blur[:, :1]


def new_run(item: Particles, noise: Array, n: float) -> tuple[Array, Array]:
    """Return mean (S, P) and spread (S,) of the log error of a new pre-training run, fine-tuned as often as usual."""
    return item.log_error(n), np.sqrt(noise**2 + (item.points.run_variance or 0.0) / item.points.usual_runs)


def new_draw(item: Particles, noise: Array, place: int) -> tuple[Array, Array]:
    """Return the same for another fine-tuning, on another draw, of the pre-training run at ``place`` of the points."""
    points = item.points
    if points.run_variance is None:  # one fine-tuning each: the noise is of both
        own, run = (1 - UNKNOWN_SHARE) * noise**2, UNKNOWN_SHARE * noise**2
    else:
        own, run = noise**2, np.full_like(noise, points.run_variance)
    rest = run / points.runs[place]
    known = own / (own + rest)
    law = item.log_error(float(points.n[place]))
    mean = law + known[:, None] * (points.log_error[place] - law)
    return mean, np.sqrt(own * rest / (own + rest) + run)


def current(right: Array, weight: Array) -> Array:
    """Return the probability that each answer is right, shape (K,)."""
    probability: Array = np.einsum("ksp,sp->k", right, weight)
    return np.clip(probability, 0.0, 1.0)
