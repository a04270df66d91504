"""Confidence intervals and variances of estimates against closed forms."""

import math

import pytest
import torch

from lightning_tl.measure.estimate import Samples, TraceEstimate, combine

# Quantiles of Student's t: that of Cauchy's distribution for one degree of freedom; (2p − 1) / √(2p(1 − p)) for two;
# from tables for ten; the normal's for infinitely many.
QUANTILES = [
    (1, 0.95, math.tan(math.pi * 0.475)),
    (1, 0.5, 1.0),
    (2, 0.95, 0.95 / math.sqrt(2 * 0.975 * 0.025)),
    (10, 0.95, 2.228138852),
    (float("inf"), 0.95, 1.959963985),
    (float("inf"), 0.5, 0.674489750),
]


@pytest.mark.parametrize("degrees, level, quantile", QUANTILES)
def test_intervals_are_those_of_students_t(degrees, level, quantile):
    low, high = TraceEstimate(5.0, 2.0, "hutchinson", 24, degrees).interval(level)
    assert (5 - low, high - 5) == pytest.approx((2 * quantile, 2 * quantile), rel=1e-9)


def test_the_interval_of_an_exact_trace_is_its_value():
    assert TraceEstimate(5.0, 0.0, "exact", 2).interval() == (5.0, 5.0)


def test_one_mean_has_the_error_and_degrees_of_its_sample():
    assert combine([(8.0, 4)]) == (math.sqrt(2.0), 3)


def test_equal_means_add_variances_and_degrees():
    """Welch and Satterthwaite for k equal shares: √k times the error, k times the degrees."""
    error, degrees = combine([(8.0, 4)] * 5)
    assert error == pytest.approx(math.sqrt(5 * 2.0))
    assert degrees == pytest.approx(15)


def test_exact_parts_do_not_count():
    assert combine([(8.0, 4), (0.0, 9), (3.0, 1)]) == (math.sqrt(2.0), 3)
    assert combine([]) == (0.0, float("inf"))


def test_samples_of_one_have_no_variance():
    samples = Samples()
    samples.add(torch.ones(2))
    assert samples.total_variance() == 0
    assert samples.group_variance().tolist() == [0, 0]


def test_variances_of_samples():
    samples = Samples()
    for first, second in ((1.0, 4.0), (3.0, 0.0), (5.0, 8.0)):
        samples.add(torch.tensor([first, second]))
    assert samples.mean().tolist() == [3.0, 4.0]
    assert samples.group_variance().tolist() == [4.0, 16.0]
    assert samples.total_variance() == pytest.approx(((5 - 7) ** 2 + (3 - 7) ** 2 + (13 - 7) ** 2) / 2)
