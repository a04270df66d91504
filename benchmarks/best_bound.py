"""An upper bound: how often can the best of eight groups be found with 28 runs at all?

    python benchmarks/best_bound.py

An ideal study for ``decide.py best --curves close``: every run is at the size asked for, so that no law is needed, and
the noise, the spread between groups (5 % of the error) and their mean are known. Groups are then normal, independent,
and known by their runs' means. Two ways to choose the next run: the one that lowers the probability of a wrong answer
most (that of `lightning-tl next`), and the knowledge gradient, which lowers the expected error of the group chosen
most (Frazier, Powell & Dayanik, SIAM J. Control Optim. 47, 2008). An answer is right within 2 % of the lowest error.
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import binomtest

Array = NDArray[np.float64]
GROUPS, RUNS, SPREAD, SLACK = 8, 28, 0.05, float(np.log(1.02))
#: Of a gain under this, the drop in doubt is taken (see :mod:`lightning_tl.laws.proposals`).
LEAST_GAIN = 0.005


def _normal_nodes(count: int) -> tuple[Array, Array]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return nodes, weights / weights.sum()


def probability_right(mean: Array, variance: Array) -> Array:
    """Return the probability that each group is within 2 % of the best, shape (worlds, groups)."""
    nodes, weights = _normal_nodes(20)
    spread = np.sqrt(variance)
    error = mean[..., None] + spread[..., None] * nodes
    product = np.ones_like(error)
    for i in range(GROUPS):
        above = 1 - ndtr((error - SLACK - mean[:, i, None, None]) / spread[:, i, None, None])
        above[:, i] = 1
        product *= above
    result: Array = product @ weights
    return result


def gains_of_probability(mean: Array, variance: Array, after: Array) -> Array:
    """Return what a run of each group is worth by the rule of ``lightning-tl next``, shape (worlds, groups)."""
    now = probability_right(mean, variance)
    gain, insight = np.zeros_like(mean), np.zeros_like(mean)
    for group in range(GROUPS):
        left = variance.copy()
        left[:, group] = after[:, group]
        for node, weight in zip(*_normal_nodes(5), strict=True):
            moved = mean.copy()
            moved[:, group] += np.sqrt(variance - after)[:, group] * node
            then = probability_right(moved, left)
            gain[:, group] += weight * then.max(axis=1)
            insight[:, group] += weight * (then**2).sum(axis=1) / then.sum(axis=1)
    gain -= now.max(axis=1, keepdims=True)
    return np.where(gain.max(axis=1, keepdims=True) >= LEAST_GAIN, gain, insight)


def knowledge_gradient(mean: Array, variance: Array, after: Array) -> Array:
    """Return by how much a run of each group lowers the expected least error, shape (worlds, groups)."""
    ordered, spread = np.sort(mean, axis=1), np.sqrt(variance - after)
    other = np.where(mean == ordered[:, :1], ordered[:, 1:2], ordered[:, :1])
    miss = -np.abs(mean - other) / spread
    gain: Array = spread * (miss * ndtr(miss) + np.exp(-(miss**2) / 2) / np.sqrt(2 * np.pi))
    return gain


def found(rule: str, noise: float, worlds: int, seed: int) -> int:
    """Return in how many worlds the answer after all runs is right."""
    rng, all_worlds = np.random.default_rng(seed), np.arange(worlds)
    error = SPREAD * rng.standard_normal((worlds, GROUPS))
    runs, total = np.zeros_like(error), np.zeros_like(error)
    for step in range(RUNS + 1):
        precision = SPREAD**-2 + runs / noise**2
        mean, variance = total / noise**2 / precision, 1 / precision
        if step == RUNS:
            break
        if step < GROUPS:
            chosen = np.full(worlds, step)
        else:
            values = gains_of_probability if rule == "probability" else knowledge_gradient
            chosen = values(mean, variance, 1 / (precision + noise**-2)).argmax(axis=1)
        runs[all_worlds, chosen] += 1
        total[all_worlds, chosen] += error[all_worlds, chosen] + noise * rng.standard_normal(worlds)
    return int((error[all_worlds, mean.argmin(axis=1)] <= error.min(axis=1) + SLACK).sum())


def main() -> None:
    """Print the share of right answers by rule and noise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=1000)
    parser.add_argument("--noise", type=float, nargs="+", default=[0.005, 0.02, 0.05])
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for noise in given.noise:
        for rule in ("probability", "knowledge gradient"):
            count = found(rule, noise, given.worlds, given.seed)
            low, high = binomtest(count, given.worlds).proportion_ci()
            print(
                f"noise {100 * noise:g} %, {rule}: right in {100 * count / given.worlds:.1f} % "
                f"(95 % interval {100 * low:.1f} to {100 * high:.1f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
