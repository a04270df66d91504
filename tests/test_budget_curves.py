"""Simulated curves of which the truth is known."""

import numpy as np
import pytest
from scipy.stats import norm

from lightning_tl.budget_curves import curve, judged, levels, minimum

BUDGETS = [16, 32, 64, 128, 256, 512]
X = np.log(np.array(BUDGETS, float))
FLAT, FALLING = np.zeros(6), -0.05 * (X - X[0])
HUMP = -0.2 * (X - X.mean()) ** 2
A, B = 3.0, 0.02  # the loss A·b^-0.8 + B·b^0.5 is lowest where 0.8·A·b^-0.8 = 0.5·B·b^0.5
TURN = (0.8 * A / (0.5 * B)) ** (1 / 1.3)
TURNING = np.log(A * np.array(BUDGETS) ** -0.8 + B * np.array(BUDGETS) ** 0.5)


def values(truth, seeds, draws, rng, of_seed=0.05, of_draw=0.03, rest=0.05):
    """A value is the truth, luck of a seed and of a draw that all budgets share, and luck of each."""
    count = len(truth)
    logs = truth[:, None, None] + rng.normal(0, 0.3, (1, seeds, 1)) + rng.normal(0, 0.3, (1, 1, draws))
    logs = logs + rng.normal(0, of_seed, (count, seeds, 1)) + rng.normal(0, of_draw, (count, 1, draws))
    return np.exp(logs + rng.normal(0, rest, (count, seeds, draws)))


def simulated(truth, seeds, draws, count=200, **noise):
    rng = np.random.default_rng(3)
    return [curve("loss", BUDGETS, values(truth, seeds, draws, rng, **noise)) for _ in range(count)]


@pytest.mark.parametrize("seeds,draws", [(2, 2), (4, 1)])
def test_a_turn_of_known_place_is_found(seeds, draws):
    found = simulated(TURNING, seeds, draws, of_draw=0.03 if draws > 1 else 0.0)
    assert np.mean([item.verdict == "u" for item in found]) > 0.85
    low, high = np.array([item.vertex_interval for item in found]).T
    assert np.mean((low <= TURN) & (high >= TURN)) >= 0.95 - 2.6 * np.sqrt(0.95 * 0.05 / 200)
    assert np.median([item.vertex for item in found]) == pytest.approx(TURN, rel=0.1)
    # the rise from the lowest budget to the last one
    rise = np.exp(TURNING[-1] - TURNING.min())
    assert np.mean([item.rise_interval[0] <= rise <= item.rise_interval[1] for item in found]) >= 0.9


@pytest.mark.parametrize("truth", [FLAT, FALLING, -FALLING, HUMP], ids=["flat", "falling", "rising", "hump"])
@pytest.mark.parametrize("seeds,draws", [(2, 2), (4, 1)])
def test_what_does_not_turn_is_not_called_so_more_often_than_it_may(truth, seeds, draws):
    alone = {"of_seed": 0.05, "of_draw": 0.03 if draws > 1 else 0.0}
    verdicts = [item.verdict for item in simulated(truth, seeds, draws, **alone)]
    limit = 0.05 + norm.ppf(0.99) * np.sqrt(0.05 * 0.95 / 200)
    assert verdicts.count("u") / 200 <= limit
    wrong = {"flat": "flat", "falling": "rises", "rising": "falls"}
    if truth is FLAT:
        assert 1 - verdicts.count("flat") / 200 <= limit
    elif truth is not HUMP:
        backwards = wrong["falling" if truth is FALLING else "rising"]
        assert (verdicts.count(backwards) + verdicts.count("inverted")) / 200 <= limit


def test_the_inflection_point_is_the_budget_before_the_first_increase():
    """Def. 4.2 of a curve that falls to 64 steps and rises by as much at each doubling after it."""
    truth = np.array([0.4, 0.2, 0.0, 0.4, 0.8, 1.2])
    found = [item.inflection for item in simulated(truth, 3, 3)]
    assert np.mean(np.array(found) == 64) > 0.95
    # an increase too small to be seen beside the noise is passed over: the first significant one counts
    late = simulated(np.array([0.4, 0.2, 0.0, 0.005, 0.01, 1.0]), 3, 3)
    assert np.mean([item.inflection == 256 for item in late]) > 0.9
    assert np.median([item.vertex for item in late]) < 256


@pytest.mark.parametrize("truth", [FLAT, FALLING], ids=["flat", "falling"])
@pytest.mark.parametrize("seeds,draws", [(2, 2), (4, 1)])
def test_an_inflection_point_is_seldom_claimed_where_there_is_none(truth, seeds, draws):
    alone = {"of_seed": 0.05, "of_draw": 0.03 if draws > 1 else 0.0}
    claimed = np.mean([np.isfinite(item.inflection) for item in simulated(truth, seeds, draws, **alone)])
    assert claimed <= 0.025 + norm.ppf(0.99) * np.sqrt(0.025 * 0.975 / 200)


def test_clear_curves_are_called_what_they_are():
    for truth, verdict in ((8 * FALLING, "falls"), (-8 * FALLING, "rises"), (HUMP, "inverted")):
        assert {item.verdict for item in simulated(truth, 3, 3, count=20)} == {verdict}


def test_a_turn_beside_falling_curves_is_no_inverted_one():
    """In a family the correction of turns can be stricter than those of the rise and of the fall."""
    verdicts = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        truths = [np.array([0.0, -0.04, -0.08, -0.17, 0.2, 0.5]), 4 * FALLING, 6 * FALLING, 8 * FALLING]
        family = [curve("loss", BUDGETS, values(truth, 3, 2, rng)) for truth in truths]
        verdicts.append(judged(family)[0].verdict)
    assert set(verdicts) <= {"u", "rises"}
    assert verdicts.count("u") > 8
    mirrored = [curve("loss", BUDGETS, 1 / values(truth, 3, 2, np.random.default_rng(0))) for truth in truths]
    assert judged(mirrored)[0].verdict == "inverted"


def test_the_standard_error_is_that_of_the_difference_between_budgets():
    """Against the spread of many repeats; luck shared by all budgets is no part of it, nor is the rest left out."""
    rng = np.random.default_rng(0)
    found = [levels(np.log(values(FLAT, 3, 4, rng))) for _ in range(2000)]
    true = np.sqrt(0.05**2 / 3 + 0.03**2 / 4 + 0.05**2 / 12)
    differences = np.array([one.mean[1] - one.mean[0] for one in found])
    assert differences.std() == pytest.approx(2**0.5 * true, rel=0.05)
    squares = np.mean([one.stderr**2 for one in found])
    assert true**2 < squares == pytest.approx(true**2 + 0.05**2 / 12, rel=0.05)


def test_an_end_is_no_turn():
    falls = curve("loss", BUDGETS, values(8 * FALLING, 3, 3, np.random.default_rng(1)))
    assert falls.vertex == pytest.approx(512)
    assert np.isnan(falls.inflection)
    assert falls.inside < 0.05
    assert falls.rise == 1


def test_single_runs_have_no_interval():
    found = curve("loss", BUDGETS, values(TURNING, 1, 1, np.random.default_rng(1)))
    assert found.verdict == "single"
    assert np.isnan(found.low[0])
    assert np.isnan(found.p_u)
    assert np.isnan(found.inflection)


def test_runs_that_agree_to_the_bit():
    found = curve("loss", BUDGETS, np.exp(np.repeat(TURNING[:, None, None], 2, axis=1)))
    assert found.verdict == "u"
    assert curve("loss", BUDGETS, np.ones((6, 2, 2))).verdict == "flat"


def test_many_curves_together_are_called_as_rarely_as_one():
    rng = np.random.default_rng(4)
    wrong = 0
    for _ in range(30):
        family = judged([curve("loss", BUDGETS, values(FLAT, 2, 2, rng)) for _ in range(8)])
        wrong += any(item.verdict != "flat" for item in family)
    assert wrong / 30 <= 0.05 + norm.ppf(0.99) * np.sqrt(0.05 * 0.95 / 30)


def test_the_vertex_of_a_parabola_between_budgets():
    steps = np.array([0.0, 1.0, 3.0])
    assert minimum(steps, ((steps - 1.3) ** 2)[None])[0] == pytest.approx(1.3)
    assert list(minimum(steps, np.array([steps, -steps]))) == [0.0, 3.0]
