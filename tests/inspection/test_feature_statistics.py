"""Entropy, Fréchet distance and the classifier against closed forms and known sets."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg

from lightning_tl.errors import UserError
from lightning_tl.inspection.feature_statistics import domain_classifier, entropy, frechet_distance, gap

F = 8
SCALES = 10.0 ** (-3 * np.arange(F) / F)  # variances over three orders of magnitude


def sample(count, seed, shift=0.0):
    return np.random.default_rng(seed).normal(size=(count, F)) * SCALES**0.5 + shift


def test_entropy_of_a_known_gaussian():
    truth = 0.5 * np.log(2 * np.pi * np.e * SCALES).sum()
    result = [entropy(sample(60, seed), draws=40) for seed in range(40)]
    values = np.array([each.value for each in result])
    assert {each.estimator for each in result} == {"unbiased"}
    assert abs(values.mean() - truth) < 4 * values.std() / 40**0.5
    covered = sum(each.interval[0] <= truth <= each.interval[1] for each in result)
    assert covered >= 34  # of 40 at 95 %, with 40 draws


def test_entropy_follows_a_linear_map():
    """H(X A) = H(X) + log |det A|, whatever A."""
    x = sample(100, 0)
    a = np.random.default_rng(1).normal(size=(F, F))
    moved = entropy(x @ a + 3, draws=1).value
    assert moved == pytest.approx(entropy(x, draws=1).value + np.linalg.slogdet(a)[1], abs=1e-8)


def test_fewer_images_than_features():
    x = np.random.default_rng(0).normal(size=(40, 200))
    result = entropy(x, draws=10)
    assert result.estimator == "ledoit-wolf"
    assert 0 < result.shrinkage <= 1
    # where the truth is round, shrinkage to the round Gaussian is right
    assert result.value == pytest.approx(100 * np.log(2 * np.pi * np.e), rel=0.02)
    scaled = entropy(1e-6 * x, draws=10)
    assert scaled.value == pytest.approx(result.value + 200 * np.log(1e-6))


def test_a_constant_feature_is_shrunk():
    x = sample(100, 0)
    x[:, 3] = 1
    result = entropy(x, draws=5)
    assert result.estimator == "ledoit-wolf"
    assert np.isfinite(result.value)


@pytest.mark.parametrize("counts", [(200, 150), (5 + F, 300)])
def test_frechet_against_the_closed_form(counts):
    a, b = sample(counts[0], 0), sample(counts[1], 1, shift=0.3) * 2
    cov = [np.cov(x, rowvar=False) for x in (a, b)]
    shift = a.mean(0) - b.mean(0)
    wanted = shift @ shift + np.trace(cov[0] + cov[1] - 2 * linalg.sqrtm(cov[0] @ cov[1]).real)
    assert frechet_distance(a, b) == pytest.approx(wanted, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(wanted, rel=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_a_classifier_between_halves_and_shifted_sets():
    assert abs(domain_classifier(sample(300, 0), sample(300, 1)).accuracy - 0.5) < 0.07
    classifier = domain_classifier(sample(300, 0), sample(200, 1, shift=1.0))
    assert classifier.accuracy > 0.9
    apart = gap(sample(300, 0), sample(200, 1, shift=1.0))
    assert apart.images == 200
    assert apart.frechet == pytest.approx(F, rel=0.1)
    assert max(apart.floor) < 0.1


def test_views_of_a_scene_stay_together():
    """Views that are all but equal would be recognised from the other folds, though the sets are alike."""
    rng = np.random.default_rng(0)
    scenes = rng.normal(size=(80, 100)).repeat(4, 0) + 0.01 * rng.normal(size=(320, 100))
    groups = np.arange(80).repeat(4)
    a, b = scenes[:160], scenes[160:]
    assert domain_classifier(a, b).accuracy > 0.7
    assert domain_classifier(a, b, groups[:160], groups[160:]).accuracy < 0.65


def one_draw_without_the_odd_image():
    """Features of which one varies in image 0 alone, and draws and a seed whose resampling lacks that image."""
    x = np.random.default_rng(0).normal(size=(8, 3))
    x[:, 2] = np.eye(8)[0]
    seed = next(s for s in range(99) if 0 not in np.random.default_rng(s).integers(0, 8, 8))
    return x, 1, seed


@pytest.mark.parametrize(
    "call,message",
    [
        (lambda: entropy(np.ones((3, 2))), "3 images: at least 8 are needed"),
        (lambda: entropy(np.ones((9, 2))), "all 9 images have the same features"),
        (lambda: entropy(np.full((9, 2), np.nan)), "features of image 0 are not finite"),
        (lambda: frechet_distance(np.eye(9), np.eye(9)[:, :4]), "have 9 and 4 features"),
        (lambda: gap(np.eye(9), np.eye(9)), "9 images of each set: at least 16"),
        # two opposite points: Ledoit and Wolf see no noise, and do not shrink
        (
            lambda: entropy(np.tile([[1.0, 1.0], [-1.0, -1.0]], (8, 1))),
            "covariance of 16 images' 2 features is singular",
        ),
        (lambda: entropy(*one_draw_without_the_odd_image()), "none of the 1 bootstrap draws of 8 images has a regular"),
        (lambda: domain_classifier(np.eye(9), np.eye(9), np.zeros(9)), "of fewer than 5 scenes"),
    ],
)
def test_errors(call, message):
    with pytest.raises(UserError, match=message):
        call()
