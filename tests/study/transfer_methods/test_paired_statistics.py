import numpy as np
import pytest
from scipy import stats

from lightning_tl.study.transfer_methods.paired_statistics import estimate, holm, without_gaps


def test_draws_of_one_pre_training_give_students_interval():
    values = np.random.default_rng(0).normal(0.3, 1, 6)
    found = estimate(values[None])
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.interval(0.95) == pytest.approx((low, high))
    assert found.p_above() == pytest.approx(stats.ttest_1samp(values, 0, alternative="greater").pvalue)


def test_a_difference_is_the_paired_t_test():
    rng = np.random.default_rng(1)
    luck = rng.normal(0, 5, 7)
    first, second = luck + rng.normal(0.5, 0.3, 7), luck + rng.normal(0, 0.3, 7)
    found = estimate((first - second)[None])
    assert found.p_above() == pytest.approx(stats.ttest_rel(first, second, alternative="greater").pvalue)


@pytest.mark.parametrize("shape,spreads", [((2, 5), (1, 1, 1)), ((3, 5), (1, 0, 1)), ((4, 4), (0.2, 1, 0.2))])
def test_intervals_of_pre_trainings_by_draws_cover(shape, spreads):
    rng = np.random.default_rng(2)
    hits, worlds = 0, 600
    for _ in range(worlds):
        seeds, draws = rng.normal(0, spreads[0], (shape[0], 1)), rng.normal(0, spreads[1], (1, shape[1]))
        low, high = estimate(seeds + draws + rng.normal(0, spreads[2], shape)).interval(0.95)
        hits += low <= 0 <= high
    assert hits / worlds > 0.925  # the variance is on the safe side, its degrees of freedom are an approximation


def test_single_runs_have_no_interval_and_prove_nothing():
    found = estimate(np.array([[0.2]]))
    assert np.isnan(found.interval(0.95)).all()
    assert found.p_above() == 1.0
    assert np.isnan(estimate(np.zeros((0, 0))).mean)


def test_runs_that_agree_to_the_bit():
    assert estimate(np.full((1, 3), 0.125)).p_above() == 0.0
    assert estimate(np.zeros((1, 3))).p_above() == 1.0


def test_holm_against_its_definition():
    p = [0.01, 0.04, 0.03, 0.005]
    # sorted 0.005·4, 0.01·3, 0.03·2, 0.04·1, made monotone
    assert holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_gaps_take_away_as_little_as_possible():
    values = np.arange(12.0).reshape(3, 4)
    values[1, 2] = np.nan
    assert without_gaps(values).tolist() == [[0, 1, 2, 3], [8, 9, 10, 11]] or without_gaps(values).shape == (3, 3)
    assert not np.isnan(without_gaps(values)).any()
    assert without_gaps(np.full((2, 2), np.nan)).size == 0
