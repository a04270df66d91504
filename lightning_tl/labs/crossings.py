"""How many samples simulated learning curves need for an error, and the power of a quantity that follows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lightning_tl.labs.outcome import Array


def crossing(sizes: Sequence[float], errors: Array, target: float) -> tuple[float, float]:
    """Return the size at which the mean error reaches the target, and its standard error by the jackknife.

    Log error is taken to be linear in log size between the sizes, which should lie close around the answer.

    Args:
        sizes: Numbers of samples, shape (k,).
        errors: Of independent runs at each, shape (runs, k).
        target: The error to reach.
    """
    logs = np.log(np.asarray(sizes, float))

    def solved(means: Array) -> float:
        slope, level = np.polyfit(logs, np.log(means), 1)
        return float(np.exp((np.log(target) - level) / slope))

    total, runs = errors.sum(axis=0), len(errors)
    left_out = np.array([solved((total - one) / (runs - 1)) for one in errors])
    stderr = np.sqrt((runs - 1) / runs * np.sum((left_out - left_out.mean()) ** 2))
    return solved(total / runs), float(stderr)


def power(at: Sequence[float], values: Sequence[float], stderr: Sequence[float] | None = None) -> tuple[float, float]:
    """Return x of values ∝ at^-x by least squares of logs, and its standard error.

    Args:
        at: Sizes, shape (k,).
        values: Over 0, shape (k,).
        stderr: Of the values, shape (k,); without them they are exact.
    """
    logs = np.log(np.asarray(at, float))
    centred = logs - logs.mean()
    weights = centred / (centred @ centred)
    relative = np.zeros(len(logs)) if stderr is None else np.asarray(stderr, float) / np.asarray(values, float)
    return float(-weights @ np.log(np.asarray(values, float))), float(np.sqrt(np.sum((weights * relative) ** 2)))
