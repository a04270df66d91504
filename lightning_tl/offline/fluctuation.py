"""Does a curve over the checkpoints of one run turn, or do single checkpoints only differ?

Windows of text and draws of noise say how well each checkpoint is measured. They say nothing about how much
neighbouring checkpoints of a run differ by chance: the learning rate, the last batches. With several pre-trainings the
overtraining analysis sees that between seeds; one run has only its own roughness: how far each four neighbours are
from a parabola over log budgets, by third differences (after Gasser, Sroka and Jennen-Steinmetz 1986, Biometrika 73,
who take second ones). Rises and falls are then studentised by it, and compared with what independent fluctuation around
a flat curve gives, by simulation at the same budgets. A curve that bends otherwise is rough too, so the test is too
wide rather than too narrow; few checkpoints detect nothing but a clear turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from lightning_tl.budget_curves import Array, Curve, Levels, largest_changes, p_value

_SIMULATED = 20_000


def with_fluctuation(curve: Curve, seed: int = 0) -> Curve:
    """Return a curve whose p-values are the larger ones of its own tests and of those against fluctuation.

    Its verdict is not changed: pass a family of such curves to :func:`~lightning_tl.budget_curves.judged`.

    Args:
        curve: Of one run, over at least three budgets.
        seed: Of the simulation.
    """
    mean = np.log(curve.mean) if curve.log else np.array(curve.mean)
    size = float(roughness(np.log(np.array(curve.budgets, float)), mean[None])[0])
    rises, steps = _flat(curve.budgets, seed)
    # a curve that is straight to the bit has no fluctuation that could be seen: nothing can be claimed of it
    error = size if size > 1e-12 * (1 + float(np.abs(mean).max())) else float("inf")
    p_rise, p_fall, p_u = (p_value(rises, change) for change in largest_changes(Levels(mean, error, 0.0)))
    p_step = [p_value(steps, change) for change in np.diff(mean) / (error * 2**0.5)]
    return replace(
        curve,
        p_rise=max(curve.p_rise, p_rise),
        p_fall=max(curve.p_fall, p_fall),
        p_u=max(curve.p_u, p_u),
        p_step=tuple(max(pair) for pair in zip(curve.p_step, p_step, strict=True)),
    )


def roughness(steps: Array, means: Array) -> Array:
    """Return the standard deviation of independent fluctuation around smooth curves.

    Args:
        steps: Logarithms of the budgets ``[K]``, K ≥ 3.
        means: ``[N, K]``.

    Returns:
        ``[N]``. Its square is unbiased for parabolas (for three budgets for straight lines), else too large.
    """
    count = min(4, len(steps))
    squares = []
    for first in range(len(steps) - count + 1):
        at = steps[first : first + count]
        weights = np.array([1 / np.prod(np.delete(at[i] - at, i)) for i in range(count)])  # a divided difference
        squares.append((means[:, first : first + count] @ weights) ** 2 / (weights**2).sum())
    deviation: Array = np.sqrt(np.mean(squares, axis=0))
    return deviation


@lru_cache(maxsize=64)
def _flat(budgets: Sequence[int], seed: int) -> tuple[Array, Array]:
    """Return the largest studentised rise of each flat curve that fluctuates, and that between neighbours."""
    rng = np.random.default_rng(seed + 2)
    means = rng.standard_normal((_SIMULATED, len(budgets)))
    error = roughness(np.log(np.array(budgets, float)), means) * 2**0.5
    lowest = np.minimum.accumulate(means[:, :-1], axis=1)
    return (means[:, 1:] - lowest).max(axis=1) / error, np.diff(means, axis=1).max(axis=1) / error
