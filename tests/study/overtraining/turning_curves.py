"""Curves over budgets of which the turn is known."""

import numpy as np

BUDGETS = [64, 128, 256, 512, 1024]


def curves(turns, rng, seeds=2, draws=3, bend=0.15, noise=0.02):
    """Parabolas in log budget that turn at ``turns``; seeds, draws and their interactions move both alike."""
    steps = np.log(BUDGETS)
    shared = 0.1 * rng.standard_normal((1, seeds, 1)) + 0.1 * rng.standard_normal((1, 1, draws))
    shared = shared + 0.03 * rng.standard_normal((5, seeds, 1)) + 0.03 * rng.standard_normal((5, 1, draws))
    rest = [noise * rng.standard_normal((5, seeds, draws)) for _ in turns]
    return [bend * (steps - np.log(t))[:, None, None] ** 2 + shared + own for t, own in zip(turns, rest, strict=True)]
