"""Sequential studies of simulated curves: do they decide, with few runs, and seldom wrongly? Truth is known."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from lightning_tl.laws.posterior import Prior
from lightning_tl.laws.questions import MoreOrDifferent


@pytest.fixture(scope="module")
def decide():
    path = Path(__file__).parents[2] / "benchmarks" / "decide.py"
    spec = importlib.util.spec_from_file_location("benchmark_decide", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def at_most(count: int, of: int, share: float) -> bool:
    """Whether so many of so many do not contradict a share, at 1 %."""
    return stats.binomtest(count, of, share, alternative="greater").pvalue > 0.01


@pytest.mark.parametrize(("noise", "least"), [(0.005, 0.95), (0.05, 0.90)])
def test_more_or_different(decide, noise, least) -> None:
    rng, done = np.random.default_rng(7), []
    for _ in range(60):
        curve = decide.law_curve(rng)
        done.append(decide.study(curve, noise, np.random.default_rng(rng.integers(2**32)), Prior()))
    decided = [item for item in done if item.answer is not None]
    assert at_most(len(done) - len(decided), len(done), 1 - least)
    assert at_most(sum(item.wrong for item in decided), len(decided), 1 - decide.CONFIDENCE)
    runs = np.array([item.runs for item in done])
    assert runs.mean() - 2.4 * runs.std() / np.sqrt(len(runs)) <= 0.65 * len(decide.SIZES)
    assert runs.min() >= 3


def test_answers_are_those_of_the_truth(decide) -> None:
    """The benchmark's truth is the verdict's: a curve without noise gets it from either procedure."""
    rng, agree = np.random.default_rng(3), []
    while len(agree) < 12:
        curve = decide.law_curve(rng)
        if abs(decide.reduction(curve) - 0.1) < 0.05:
            continue
        outcomes = (
            decide.study(curve, 1e-4, np.random.default_rng(0), Prior()),
            decide.grid(curve, 1e-4, np.random.default_rng(0)),
        )
        agree.append(all(item.right for item in outcomes))
    assert sum(agree) == len(agree)


def test_stopping_early_does_not_bias_the_confidence(decide) -> None:
    """Curves and noise drawn from the prior, both answers equally often: confidence at the end is the share right."""
    rng, prior = np.random.default_rng(4), Prior()
    question = MoreOrDifferent(decide.LARGEST, zone=0.0)
    expected, right = [], []
    for i in range(100):
        while True:
            alpha, share, level = rng.uniform(*prior.alpha), rng.uniform(), 0.3 * np.exp(0.1 * rng.standard_normal())

            def curve(n, alpha=alpha, share=share, level=level):
                return level * (share + (1 - share) * (n / 1000) ** -alpha)

            if (decide.reduction(curve) >= 0.1) == bool(i % 2):
                break
        likely = np.exp(prior.log_noise_weight)
        noise = float(rng.choice(prior.noise_values, p=likely / likely.sum()))
        decision, _ = decide.sequential(curve, question, noise, rng, prior, confidence=0.7, most=8)
        expected.append(decision.confidence)
        right.append(decision.answer == ("render more" if i % 2 else "render differently"))
    spread = np.sqrt(sum(p * (1 - p) for p in expected))
    assert abs(sum(right) - sum(expected)) < 3 * spread
    assert sum(expected) < 97  # not every study is clear, or this would test nothing


def test_best_of_eight(decide) -> None:
    rng, done = np.random.default_rng(11), []
    for _ in range(5):
        curves = decide.close(rng)
        own = np.random.default_rng(rng.integers(2**32))
        done.append(decide.best_of(curves, 0.02, own, Prior(), most=28))
    assert at_most(sum(not item.right for item in done), len(done), 0.1)
    assert max(item.runs for item in done) <= 28


def test_curves_that_are_no_law(decide) -> None:
    rng = np.random.default_rng(0)
    sizes = np.geomspace(1000, 640_000, 60)
    for kind in (decide.broken_curve, decide.rising_curve):
        curve = kind(rng)
        assert np.isfinite(curve(sizes)).all()
        assert curve(np.array([1000.0]))[0] == pytest.approx(0.3)
    rising = decide.rising_curve(rng)(sizes)
    assert rising.argmin() < len(sizes) - 1
