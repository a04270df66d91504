"""Samples needed: solved for s, on curves of which the truth is known."""

import numpy as np
import pandas as pd
import pytest
from method_worlds import TARGET, sample_world, study
from scipy import stats

from lightning_tl.errors import UserError
from lightning_tl.laws import FullLaw, PowerLaw, fit
from lightning_tl.laws.samples_needed import common_target, exponent, sample_curve, samples_needed
from lightning_tl.study.transfer_methods.labels import WITHOUT
from lightning_tl.study.transfer_methods.methods_table import settings
from lightning_tl.study.transfer_methods.samples import sample_needs, table_rows


def full_law(noise=0.01, rng=0):
    rng = np.random.default_rng(rng)
    n, s = (each.ravel() for each in np.meshgrid([100.0, 400, 1600, 6400, 25600], [50.0, 150, 400, 1000]))
    error = 3 * (0.1 + n**-0.4) * s**-0.4 * np.exp(noise * rng.standard_normal(len(n)))
    return fit(FullLaw(), n=n, s=s, error=error), lambda n, target: (3 * (0.1 + n**-0.4) / target) ** 2.5


def test_the_full_law_solved_for_s():
    law, truth = full_law(noise=1e-6)
    for n in (400, 25600):
        assert law.images_needed(0.1, over="s", n=n).estimate == pytest.approx(truth(n, 0.1), rel=0.01)
    needed = law.images_needed(0.1, over="s")  # at the largest n
    assert needed.estimate == pytest.approx(truth(25600, 0.1), rel=0.01)
    assert needed.largest == 1000
    assert needed.never < 0.01


def test_its_interval_covers():
    hits = 0
    for world in range(40):
        law, truth = full_law(rng=world)
        needed = law.images_needed(0.1, over="s", n=1600)
        hits += needed.low <= truth(1600, 0.1) <= needed.high
    assert hits >= 34  # 95 % of 40 is 38; fewer than 34 have a probability below 1 %


def test_what_has_no_s_to_solve_for():
    law, _ = full_law()
    with pytest.raises(UserError, match="solves for s, so s cannot be given"):
        law.images_needed(0.1, s=100, over="s")
    with pytest.raises(UserError, match="solves for n, so n cannot be given"):
        law.images_needed(0.1, n=100)
    with pytest.raises(UserError, match="n is -1; it must be above 0"):
        law.images_needed(0.1, over="s", n=-1)
    with pytest.raises(UserError, match="over is 'm'; it is n"):
        law.images_needed(0.1, over="m")
    power = fit(PowerLaw(), n=[1, 2, 4, 8], error=[0.4, 0.3, 0.2, 0.1])
    with pytest.raises(UserError, match="has no fine-tuning size to solve for; fit FullLaw"):
        power.images_needed(0.1, over="s")


def test_without_noise_all_is_exact():
    curves, truth, power = sample_world(np.random.default_rng(0), noise=1e-6, luck=0)
    found = [samples_needed(curve, TARGET) for curve in curves]
    assert [item.estimate for item in found] == pytest.approx(truth, rel=0.005)
    assert exponent(found, "parameters").value == pytest.approx(power, abs=0.005)


def test_the_exponent_is_the_least_squares_slope_and_its_error_that_of_repeated_worlds():
    values, halves = [], []
    for world in range(60):
        curves, _, _ = sample_world(np.random.default_rng(world), sizes=(50, 150, 400))
        found = [samples_needed(curve, TARGET) for curve in curves]
        fall = exponent(found, "parameters")
        x, y = (
            np.log([get(item) for item in found]) for get in (lambda i: i.curve.x["parameters"], lambda i: i.estimate)
        )
        assert fall.value == pytest.approx(-np.polyfit(x, y, 1)[0])
        values.append(fall.value)
        halves.append((fall.interval[1] - fall.interval[0]) / 2 / stats.t.ppf(0.975, 9 - 2))
    # draws move all models alike: with independent points the error would be three times as large
    assert np.sqrt(np.mean(np.square(halves))) == pytest.approx(np.std(values), rel=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("case", [{}, {"floor": 0.08}, {"seeds": 3, "between": 0.05}])
def test_intervals_cover(case):
    hits, worlds = np.zeros(2), 150
    for world in range(worlds):
        curves, truth, power = sample_world(np.random.default_rng(world), **case)
        found = [samples_needed(curve, TARGET) for curve in curves]
        hits[0] += np.mean(
            [item.interval[0] <= true <= item.interval[1] for item, true in zip(found, truth, strict=True)]
        )
        low, high = exponent(found, "parameters").interval
        hits[1] += low <= power <= high
    assert (hits / worlds > 0.91).all()


def test_a_curve_that_does_not_reach_the_error_bounds_the_exponent_on_one_side():
    curves, _, power = sample_world(
        np.random.default_rng(0), models=(1e3, 4e5, 1.6e6), power=1.0, beta=0.15, noise=0.005, luck=0
    )
    found = [samples_needed(curve, TARGET) for curve in curves]
    assert [item.state for item in found] == ["not reached", "reached", "reached"]  # the smallest needs 120,000
    fall = exponent(found, "parameters")
    assert fall.bounded == 1
    assert np.isnan(fall.value)
    assert fall.interval[0] <= power
    assert fall.interval[1] == np.inf
    curves, _, power = sample_world(np.random.default_rng(0), models=(1e5, 4e5, 1e9), power=0.7, noise=0.005, luck=0)
    found = [samples_needed(curve, TARGET) for curve in curves]
    assert found[2].state == "already reached"
    assert exponent(found, "parameters").interval[1] == np.inf  # the largest may need fewer still: steeper


def test_too_few_points_for_a_curve():
    rows = pd.DataFrame({"s": [10, 10, 20], "error": [0.3, 0.4, 0.2], "draw": list("aba"), "pretrain": list("ppp")})
    assert sample_curve("x", rows[rows["s"] == 10], {}) is None
    assert sample_curve("x", rows.iloc[1:], {}) is None
    assert sample_curve("x", rows, {}) is not None


def test_the_common_target_is_within_the_sizes_of_most_curves():
    curves, _, _ = sample_world(np.random.default_rng(0))
    target = common_target(curves)
    for curve in curves:
        assert curve.law.predict([1000])[0] <= target <= curve.law.predict([50])[0]
    assert target == float(f"{target:.2g}")
    assert common_target([]) is None


def test_a_study_by_model_size_n_and_method():
    backbones = {"resnet10_w8": (1e5, 1.3), "resnet10_w32": (1.6e6, 1.0)}
    errors = {
        "full": lambda s, n: 0.2 * (s / 100) ** -0.5 * (n / 500) ** -0.2,
        "linear_probe": lambda s, n: 0.4 * (s / 100) ** -0.5,
    }
    table = study(errors, sizes=(50, 100, 200), ns=(500, 2000), scratch=lambda s: 0.6 * (s / 100) ** -0.5,
                  backbones=backbones, noise=0.002, luck=0.002)  # fmt: skip
    needs = sample_needs(settings(table), [0.2])
    found = {(row.setting, row.method, row.n): row.samples for row in needs.rows}
    assert found["resnet10_w32", "full", 500.0].estimate == pytest.approx(100, rel=0.03)
    assert found["resnet10_w8", "full", 500.0].estimate == pytest.approx(100 * 1.3**2, rel=0.03)
    assert found["resnet10_w32", WITHOUT, 0.0].state == "not reached"  # 900 images
    falls = {(fall.method, fall.exponent.by, fall.fixed): fall.exponent for fall in needs.falls}
    by_size = falls["full", "parameters", "n = 500"]
    assert by_size.value == pytest.approx(2 * np.log(1.3) / np.log(16), abs=0.02)
    assert falls["full", "n", "resnet10_w8"].value == pytest.approx(0.4, abs=0.05)
    assert (
        falls["linear_probe", "n", "resnet10_w32"].interval[0]
        < 0
        < falls["linear_probe", "n", "resnet10_w32"].interval[1]
    )
    row = next(row for row in table_rows(needs) if row["transfer"] == WITHOUT)
    assert row["state"] == "not reached"
