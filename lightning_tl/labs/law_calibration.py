"""Parts of the law-recovery lab of which theory gives the share: shared draws, a misfit, worlds at a boundary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lightning_tl.labs.error_curves import LEVEL, Curve, LawCurve, curve_at_boundary, law_curve, power_curve
from lightning_tl.labs.law_recovery_theory import alarm_rate, coverage, coverage_without_names
from lightning_tl.labs.shares import compared_share

if TYPE_CHECKING:
    from lightning_tl.labs.outcome import Array, Comparison
    from lightning_tl.laws import FittedLaw, Form

#: Luck of a draw over the noise of a run, in the tables with shared draws.
RATIOS = (0.5, 1.0, 2.0, 4.0)
#: Shares of C in the error at 1000 images, of curves that a power law is fitted to.
SHARES = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8)
#: Rate of those curves, and of the power laws with shared draws.
ALPHA = 0.4
#: Predictions are looked at here, in units of the largest size.
BEYOND = 4.0
_LEVEL = 0.95


def shared_draws(rng: np.random.Generator, sizes: Array, noise: float, draws: int, count: int) -> list[Comparison]:
    """Compare how often intervals of a power law hold the truth where draws are shared, named and not.

    Args:
        rng: Source of randomness.
        sizes: Pre-training sizes, shape (m,).
        noise: Standard deviation of a run's log error.
        draws: Draws, each used at every size.
        count: Tables for each point.
    """
    from lightning_tl.laws import PowerLaw

    curve, at = LawCurve(LEVEL, ALPHA, 0.0), BEYOND * float(sizes[-1])
    expected = float(curve(np.array([at]))[0])
    found = []
    for ratio in RATIOS:
        luck = ratio * noise * rng.standard_normal((count, 1, draws))
        log_error = np.log(curve(sizes))[:, None] + luck + noise * rng.standard_normal((count, len(sizes), draws))
        for words, named, covers in (("named", True, coverage), ("not named", False, coverage_without_names)):
            theory = covers(np.log(sizes), draws, ratio, float(np.log(at)), _LEVEL)
            laws = _fitted(PowerLaw(), sizes, log_error, named)
            alphas = [law.interval("alpha") for law in laws]
            errors = [(float(low[0]), float(high[0])) for low, high in (law.band(at) for law in laws)]
            for what, share, value, ends in (
                ("alpha", theory[0], ALPHA, alphas),
                ("error", theory[1], expected, errors),
            ):
                hits = sum(low <= value <= high for low, high in ends)
                found.append(compared_share("draws", f"{what}, draws {words}", ratio, share, hits, count, 0.03))
    return found


def alarms(rng: np.random.Generator, sizes: Array, noise: float, count: int) -> list[Comparison]:
    """Compare how often the largest size is found outside what a power law of the smaller ones predicts."""
    from lightning_tl.laws import PowerLaw

    found = []
    for share in SHARES:
        truth = np.log(LawCurve(LEVEL, ALPHA, share)(sizes))
        log_error = truth[:, None] + noise * rng.standard_normal((count, len(sizes), 1))
        laws = _fitted(PowerLaw(), sizes[:-1], log_error[:, :-1])
        outside = 0
        for law, last in zip(laws, np.exp(log_error[:, -1, 0]), strict=True):
            low, high = law.predict_interval(sizes[-1], same_draws=True)
            outside += not low[0] <= last <= high[0]
        theory = alarm_rate(np.log(sizes), truth, noise, _LEVEL)
        found.append(compared_share("alarms", "power law", share, theory, outside, count, 0.03))
    return found


def boundaries(rng: np.random.Generator, sizes: Array, noise: float, count: int) -> list[Comparison]:
    """Compare how often something is claimed where the truth lies exactly on the boundary."""
    from lightning_tl.laws import TransferLaw
    from lightning_tl.laws.advice import CONFIDENT
    from lightning_tl.laws.fitted_law import WIDE, prepare_regions
    from lightning_tl.laws.group_fits import FACTOR
    from lightning_tl.laws.identification import IDENTIFIED
    from lightning_tl.laws.images_needed import MOST_IMAGES
    from lightning_tl.laws.terms import Terms

    def laws_of(curves: Sequence[Curve], *levels: float) -> list[FittedLaw]:
        truth = np.log([curve(sizes) for curve in curves])[:, :, None]
        laws = _fitted(TransferLaw(), sizes, truth + noise * rng.standard_normal(truth.shape))
        prepare_regions((law, level) for law in laws for level in levels)
        return laws

    largest = float(sizes[-1])
    shares: list[tuple[str, float, int]] = []
    laws = laws_of([power_curve(rng) for _ in range(count)], _LEVEL, IDENTIFIED)
    shares.append(("C excludes 0", (1 - _LEVEL) / 2, sum(law.interval("C")[0] > 0 for law in laws)))
    shares.append(("C is identified", (1 - IDENTIFIED) / 2, sum(law.unidentified("C") is None for law in laws)))
    laws = laws_of([curve_at_boundary(rng, largest, Terms().worthwhile, FACTOR) for _ in range(count)], WIDE)
    sure = np.array([law.probability_of_reduction(largest, FACTOR * largest, Terms().worthwhile) for law in laws])
    shares.append(("render more", 1 - CONFIDENT, int(np.sum(sure >= CONFIDENT))))
    shares.append(("render differently", 1 - CONFIDENT, int(np.sum(sure <= 1 - CONFIDENT))))
    curves = [law_curve(rng) for _ in range(count)]
    above = [
        law.probability_error_above(MOST_IMAGES, curve.least)
        for law, curve in zip(laws_of(curves, WIDE), curves, strict=True)
    ]
    shares.append(("never", 1 - CONFIDENT, sum(value >= CONFIDENT for value in above)))
    return [
        compared_share("boundary", case, float(i), theory, hits, count, min(theory, 0.05))
        for i, (case, theory, hits) in enumerate(shares)
    ]


def _fitted(form: Form, sizes: Array, log_error: Array, named: bool = True) -> list[FittedLaw]:
    """Fit a law to each of many tables.

    Args:
        form: The law.
        sizes: Pre-training sizes, shape (m,).
        log_error: Of each run, shape (tables, m, draws).
        named: The table names the draws, where there are several.
    """
    from lightning_tl.laws.fitting import fit_many, points_of

    draws = log_error.shape[2]
    n, draw = np.repeat(sizes, draws), np.tile(np.arange(draws), len(sizes))
    labels = list(draw) if named and draws > 1 else None
    return fit_many(form, [points_of(form, n, np.exp(runs).ravel(), draw=labels) for runs in log_error])
