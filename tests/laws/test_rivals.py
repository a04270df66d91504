"""Groups that compete are alike: against integration over the common mean and spread on a grid."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lightning_tl.laws.posterior import Points, Prior, posterior
from lightning_tl.laws.rivals import among_rivals

NOISE = 0.05


def measured(errors, runs=1):
    prior = Prior(noise=(NOISE, NOISE), spread=30.0)
    items = [
        Points(str(i), np.full(runs, 1000.0), np.full(runs, np.log(error)), np.ones(runs))
        for i, error in enumerate(errors)
    ]
    return posterior(items, prior, 1000.0, count=4000)


@pytest.mark.parametrize("errors", [[0.19, 0.2, 0.205, 0.21], [0.1, 0.2, 0.25, 0.4, 0.41], [0.2, 0.2, 0.25]])
def test_against_integration_over_mean_and_spread(errors) -> None:
    found = among_rivals(measured(errors), 1000.0)
    y, variance = np.log(errors), NOISE**2
    spread = np.geomspace(0.005, 1, 120)[:, None]
    mean = np.linspace(y.min() - 2, y.max() + 2, 1201)
    for i, item in enumerate(found.groups):
        others = np.delete(y, i)
        weight = np.prod([stats.norm.pdf(value, mean, np.sqrt(variance + spread**2)) for value in others], axis=0)
        weight = weight * stats.norm.pdf(y[i], mean, np.sqrt(variance + spread**2))  # the group's own run
        weight = weight / weight.sum()
        shrunk = (y[i] * spread**2 + mean * variance) / (spread**2 + variance)
        expected = float((weight * shrunk).sum())
        square = float((weight * (shrunk**2 + 1 / (1 / spread**2 + 1 / variance))).sum())
        own = item.log_error(1000.0)
        assert float(own.mean()) == pytest.approx(expected, abs=0.002)
        assert float(own.std()) == pytest.approx(np.sqrt(square - expected**2), rel=0.03)


def test_groups_far_apart_are_left_as_they_are() -> None:
    before = measured([0.05, 0.1, 0.2, 0.4], runs=4)
    after = among_rivals(before, 1000.0)
    for one, other in zip(before.groups, after.groups, strict=True):
        assert other.level.mean() == pytest.approx(one.level.mean(), abs=0.003)
        assert other.level.std() == pytest.approx(one.level.std(), rel=0.05)


def test_two_groups_say_nothing_of_the_spread() -> None:
    before = measured([0.2, 0.21])
    assert among_rivals(before, 1000.0) is before


def test_a_group_without_runs_is_like_the_others() -> None:
    prior = Prior(noise=(0.02, 0.02))
    items = [Points(str(i), np.full(4, 1000.0), np.log(np.full(4, 0.2 + 0.002 * i)), np.ones(4)) for i in range(5)]
    items.append(Points("new", np.zeros(0), np.zeros(0), np.zeros(0)))
    before = posterior(items, prior, 1000.0)
    after = among_rivals(before, 1000.0)
    assert before.groups[-1].level.std() > 0.5
    assert after.groups[-1].level.std() < 0.2
    assert after.groups[-1].level.mean() == pytest.approx(np.log(0.204), abs=0.05)
