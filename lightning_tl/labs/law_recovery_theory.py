"""What the shares of the law-recovery lab must be, where that follows from theory; derivations in docs/labs.md."""

from __future__ import annotations

import numpy as np

from lightning_tl.labs.outcome import Array

#: Quantiles by which a chi-square distribution is represented.
_MIDDLE = (np.arange(400) + 0.5) / 400


def level_variance(log_sizes: Array, draws: int, at: float) -> float:
    """Return the variance of a fitted line at ``at``, over that of one point; ``draws`` points at each size.

    Args:
        log_sizes: Log of the sizes, shape (m,).
        draws: Points at each.
        at: Log of a size.
    """
    centred = log_sizes - log_sizes.mean()
    return float((1 / len(log_sizes) + (at - log_sizes.mean()) ** 2 / (centred @ centred)) / draws)


def coverage(log_sizes: Array, draws: int, ratio: float, at: float, level: float) -> tuple[float, float]:
    """Return how often intervals of a power law hold the truth where the table names the draws it shares.

    Args:
        log_sizes: Log of the sizes, shape (m,).
        draws: Draws of fine-tuning data, each used at every size.
        ratio: Standard deviation of a draw's luck over that of a run.
        at: Log of the size at which the error is looked at.
        level: What the intervals claim.

    Returns:
        Of the exponent, and of the error at that size.
    """
    from scipy.special import ndtr
    from scipy.stats import chi2, t

    dof, between = len(log_sizes) - 2, draws - 1
    own = level_variance(log_sizes, draws, at)
    of_runs = t.ppf((1 + level) / 2, dof) ** 2 * own * chi2.ppf(_MIDDLE, dof) / dof
    offset = (ratio**2 + 1 / len(log_sizes)) / draws  # of the draws' estimated offsets, whose runs have noise too
    of_draws = t.ppf((1 + level) / 2, between) ** 2 * offset * chi2.ppf(_MIDDLE, between) / between
    half = np.sqrt(of_runs[:, None] + of_draws) / np.sqrt(own + ratio**2 / draws)
    return level, float(np.mean(2 * ndtr(half) - 1))


def coverage_without_names(log_sizes: Array, draws: int, ratio: float, at: float, level: float) -> tuple[float, float]:
    """Return the same where nothing says that draws are shared, and all runs count as independent."""
    from scipy.special import ndtr
    from scipy.stats import chi2, t

    sizes = len(log_sizes)
    dof, between = sizes * draws - 2, draws - 1
    among = (1 + sizes * ratio**2) * chi2.ppf(_MIDDLE, between)
    within = chi2.ppf(_MIDDLE, dof - between)
    claimed = t.ppf((1 + level) / 2, dof) * np.sqrt((among[:, None] + within) / dof)  # half-width over standard error
    own = level_variance(log_sizes, draws, at)
    missing = float(np.sqrt(own / (own + ratio**2 / draws)))
    slope, error = (float(np.mean(2 * ndtr(claimed * factor) - 1)) for factor in (1.0, missing))
    return slope, error


def alarm_rate(log_sizes: Array, log_error: Array, noise: float, level: float) -> float:
    """Return how often a power law fitted to all sizes but the largest misses that one's prediction interval.

    Args:
        log_sizes: Log of the sizes, shape (m,), ascending.
        log_error: Log of the true mean error there, shape (m,), which need not be a power law.
        noise: Standard deviation of a run's log error.
        level: Of the prediction interval.
    """
    from scipy.special import ndtr
    from scipy.stats import ncx2, t

    seen = np.stack([np.ones(len(log_sizes) - 1), log_sizes[:-1]], axis=1)
    line, *_ = np.linalg.lstsq(seen, log_error[:-1], rcond=None)
    spread = noise * np.sqrt(1 + level_variance(log_sizes[:-1], 1, float(log_sizes[-1])))
    shift = (log_error[-1] - line @ [1, log_sizes[-1]]) / spread
    misfit = float(np.sum((log_error[:-1] - seen @ line) ** 2)) / noise**2
    dof = len(log_sizes) - 3
    squares = ncx2.ppf(_MIDDLE, dof, misfit)  # sum of squares over the noise's variance
    limit = t.ppf((1 + level) / 2, dof) * np.sqrt(squares / dof)
    return float(np.mean(ndtr(-limit - shift) + ndtr(shift - limit)))
