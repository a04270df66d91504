from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from lightning_tl.labs import linear_transfer
from lightning_tl.labs.feature_draws import OUTSIDE, UNIVERSAL
from lightning_tl.labs.interpolation import nearest_interpolator, sgd_to_interpolation
from lightning_tl.labs.linear_transfer import LinearTransfer
from lightning_tl.labs.linear_transfer_surface import spectrum_inputs, surface
from lightning_tl.labs.linear_transfer_theory import class_error, isotropic_class_error, isotropic_risk, surface_risk
from lightning_tl.labs.ridge_equivalent import equivalent

SMALL = LinearTransfer(ratios=(0.3, 0.6), distances=(1.0,), draws=4)


def test_the_fixed_point_gives_the_closed_form_for_isotropic_features():
    for ratio in (0.1, 0.5, 0.9):
        solved = equivalent(np.ones(1000), 1000 * ratio)
        assert solved.risk(np.full(1000, 0.002), 0.3) == pytest.approx(isotropic_risk(ratio, 2.0, 0.3), rel=1e-9)
        assert solved.remaining(np.full(1000, 0.002)).sum() == pytest.approx(2 * (1 - ratio), rel=1e-9)


def test_the_remaining_error_has_the_risk():
    values, squares = np.arange(1, 301) ** -1.3, np.random.default_rng(0).random(300)
    for samples, ridge in ((50, 0.0), (50, 0.02), (600, 0.01), (600, 0.0)):
        solved = equivalent(values, samples, ridge)
        assert values @ solved.remaining(squares, 0.4) == pytest.approx(solved.risk(squares, 0.4), rel=1e-9)


def test_least_squares_with_more_samples_than_features():
    assert equivalent(np.ones(100), 400).risk(np.ones(100), 2.0) == pytest.approx(2 * 0.25 / 0.75)


def test_the_best_ridge_is_noise_over_signal():
    # for isotropic features and random weights of variance τ² each, Bayes' estimate is ridge with ρ = σ²/(m τ²)
    def risk(log_ridge: float) -> float:
        return equivalent(np.ones(200), 150, float(np.exp(log_ridge))).risk(np.full(200, 0.5), 1.2)

    best = minimize_scalar(risk, bounds=(-10, 3), method="bounded", options={"xatol": 1e-6})
    assert np.exp(best.x) == pytest.approx(1.2 / (150 * 0.5), rel=1e-3)


def test_both_derivations_of_the_class_error_agree():
    rng = np.random.default_rng(1)
    mean, other = np.zeros(500), rng.standard_normal(500)
    mean[0], other[0] = 1.7, 0
    for along, across in ((0.0, 0.0), (0.4, 0.2), (-0.3, 1.0)):
        start = along * mean / 1.7 + across * other / np.linalg.norm(other)
        for samples in (50, 250, 450):
            closed = isotropic_class_error(samples / 500, 1.7, along, across)
            assert class_error(np.ones(500), samples, mean, start) == pytest.approx(closed, rel=1e-9)


def test_sgd_ends_at_the_nearest_interpolator():
    rng = np.random.default_rng(2)
    features, labels, start = rng.standard_normal((10, 40)), rng.standard_normal(10), rng.standard_normal(40)
    end = sgd_to_interpolation(features, labels, start, rng, passes=400)
    np.testing.assert_allclose(end, nearest_interpolator(features, labels, start), atol=1e-8)
    np.testing.assert_allclose(end, start + np.linalg.pinv(features) @ (labels - features @ start), atol=1e-8)


@pytest.mark.parametrize("name", [*UNIVERSAL, *OUTSIDE])
def test_features_have_mean_0_and_variance_1(name):
    draw = {**UNIVERSAL, **OUTSIDE}[name]
    values = draw(np.random.default_rng(3), (4000, 200))
    assert abs(values.mean()) < 0.01
    assert values.var() == pytest.approx(1, abs=0.02 if name in UNIVERSAL else 0.5)


@pytest.mark.parametrize("part", ["_risks", "_covariance", "_universality"])
def test_theory_and_simulation_within_two_percent(part):
    found = [item for item in getattr(SMALL, part)() if item.allowed is not None]
    assert found
    for item in found:
        assert item.agreement == "agrees", item


def test_class_errors_follow_theory():
    found = LinearTransfer(d=500, ratios=(0.4,), draws=20)._classes()
    for item in found:
        assert item.agreement != "disagrees", item
        assert item.simulation == pytest.approx(item.theory, rel=0.04)


def test_the_risk_after_both_phases_is_that_of_least_squares():
    d, n, s, rng, risks = 400, 160, 80, np.random.default_rng(4), []
    values, truth, gap = spectrum_inputs(d)
    gap = 5 * gap  # both parts count
    for _ in range(24):
        source = np.sqrt(truth)[:, None] * rng.standard_normal((d, 100))
        target = source + np.sqrt(gap)[:, None] * rng.standard_normal((d, 100))
        weights = np.zeros((d, 100))
        for samples, goal in ((n, source), (s, target)):
            features = rng.standard_normal((samples, d)) * np.sqrt(values)
            weights = weights + np.linalg.lstsq(features, features @ (goal - weights), rcond=None)[0]
        risks.append(np.mean(values @ (weights - target) ** 2))
    stderr = np.std(risks) / 24**0.5
    theory = surface_risk(values, truth, gap, n, s)
    assert np.mean(risks) == pytest.approx(theory, abs=0.01 * theory + 3 * stderr)
    assert stderr < 0.012 * theory


def test_the_full_law_finds_the_surface():
    found, facts = surface(LinearTransfer(d=200, draws=2))
    assert facts["alpha"] == pytest.approx(1, abs=0.05)
    assert facts["gamma_low"] < facts["gamma_theory"] < facts["gamma_high"]
    assert facts["held_out"] < 0.1
    by_part = {item.part: item for item in found}
    assert by_part["surface over theory"].agreement == "agrees"
    assert by_part["law"].agreement == "agrees"


@pytest.fixture(scope="module")
def risks():
    return replace(SMALL, draws=8)._risks()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda ratio, distance, noise: distance + noise * ratio / (1 - ratio),
        lambda ratio, distance, noise: (1 - ratio) * distance + noise * ratio,
        lambda ratio, distance, noise: (1 - ratio) ** 1.1 * distance + noise * ratio / (1 - ratio),
    ],
)
def test_a_wrong_formula_disagrees(risks, wrong):
    theories = [wrong(item.at, 1.0, SMALL.noise) for item in risks]
    found = [replace(item, theory=value, allowed=0.02 * value) for item, value in zip(risks, theories, strict=True)]
    assert "disagrees" in {item.agreement for item in found}


def test_a_wrong_fixed_point_disagrees(monkeypatch):
    right = equivalent
    monkeypatch.setattr(linear_transfer, "equivalent", lambda values, samples: right(values, 1.1 * samples))
    assert "disagrees" in {item.agreement for item in SMALL._covariance()}
