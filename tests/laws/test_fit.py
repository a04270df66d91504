"""Fits against closed forms, scipy and simulated coverage."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy import optimize, stats

from lightning_tl.errors import UserError
from lightning_tl.laws import FullLaw, PowerLaw, TransferLaw, fit

SIZES = 1000 * 2.0 ** np.arange(7)


def curve(alpha: float, gap: float, level: float = 0.3, sizes: np.ndarray = SIZES) -> np.ndarray:
    """A transfer law with error ``level`` at 1000 images, of which the share ``gap`` is C."""
    return level * (gap + (1 - gap) * (sizes / 1000) ** -alpha)


def noisy(rng: np.random.Generator, alpha: float, gap: float, noise: float) -> np.ndarray:
    return curve(alpha, gap) * np.exp(noise * rng.standard_normal(len(SIZES)))


@pytest.mark.parametrize(("alpha", "gap"), [(0.1, 0.1), (0.5, 0.5), (1.0, 0.9)])
def test_recovers_a_noise_free_curve(alpha: float, gap: float) -> None:
    law = fit(TransferLaw(), n=SIZES, error=curve(alpha, gap))
    assert law.params["alpha"] == pytest.approx(alpha, rel=1e-6)
    assert law.params["C"] == pytest.approx(0.3 * gap, rel=1e-6)
    assert law.params["D"] == pytest.approx(0.3 * (1 - gap) * 1000**alpha, rel=1e-6)


def test_agrees_with_curve_fit_from_a_good_start() -> None:
    rng = np.random.default_rng(1)
    for _ in range(10):
        error = noisy(rng, 0.5, 0.5, 0.01)
        law = fit(n=SIZES, error=error)
        start = [0.15 * 1000**0.5, 0.5, 0.15]
        best, covariance = optimize.curve_fit(
            lambda n, d, a, c: np.log(d * n**-a + c), SIZES, np.log(error), p0=start, bounds=(0, np.inf), xtol=1e-14
        )
        assert list(law.params.values()) == pytest.approx(best, rel=1e-4)
        assert list(law.stderr.values()) == pytest.approx(np.sqrt(np.diag(covariance)), rel=1e-3)


def test_power_law_is_ordinary_regression() -> None:
    rng = np.random.default_rng(2)
    error = noisy(rng, 0.3, 0.0, 0.02)
    law = fit(PowerLaw(), n=SIZES, error=error)
    line = stats.linregress(np.log(SIZES), np.log(error))
    half = stats.t.ppf(0.975, 5) * line.stderr
    assert law.params["alpha"] == pytest.approx(-line.slope)
    assert law.interval("alpha") == pytest.approx((-line.slope - half, -line.slope + half))
    assert law.params["D"] == pytest.approx(np.exp(line.intercept))
    # the prediction interval of simple regression, in closed form
    x, new = np.log(SIZES), np.log(5e5)
    spread = np.sqrt(np.sum((np.log(error) - line.intercept - line.slope * x) ** 2) / 5)
    width = stats.t.ppf(0.975, 5) * spread * np.sqrt(1 + 1 / 7 + (new - x.mean()) ** 2 / np.sum((x - x.mean()) ** 2))
    low, high = law.predict_interval([5e5])
    centre = line.intercept + line.slope * new
    assert (np.log(low[0]), np.log(high[0])) == pytest.approx((centre - width, centre + width))


def test_profile_interval_matches_a_direct_profile() -> None:
    error = noisy(np.random.default_rng(3), 0.5, 0.6, 0.01)
    law = fit(n=SIZES, error=error)

    def rss(alpha: float) -> float:
        """Least RSS with alpha held, by scipy from many starts."""

        def residual(p: np.ndarray) -> np.ndarray:
            return np.log(error) - np.log(np.exp(p[0]) * SIZES**-alpha + np.exp(p[1]))

        starts = [(np.log(0.3 * (1 - g) * 1000**alpha), np.log(0.3 * g)) for g in (0.05, 0.5, 0.9)]
        return min(2 * optimize.least_squares(residual, start, xtol=1e-12).cost for start in starts)

    best = optimize.minimize_scalar(rss, bounds=(0.2, 1.2), method="bounded", options={"xatol": 1e-8}).fun
    limit = best * (1 + stats.f.ppf(0.95, 1, 4) / 4)
    expected = [
        optimize.brentq(lambda a: rss(a) - limit, *ends)
        for ends in ((0.01, law.params["alpha"]), (law.params["alpha"], 5))
    ]
    assert law.interval("alpha") == pytest.approx(expected, rel=1e-3)


def test_the_fit_does_not_depend_on_the_unit_of_error_or_size() -> None:
    error = noisy(np.random.default_rng(4), 0.4, 0.5, 0.02)
    law, scaled = fit(n=SIZES, error=error), fit(n=SIZES * 7, error=error / 50)
    assert scaled.params["alpha"] == pytest.approx(law.params["alpha"], rel=1e-6)
    assert scaled.params["C"] * 50 == pytest.approx(law.params["C"], rel=1e-6)
    assert scaled.interval("C") == pytest.approx(tuple(np.array(law.interval("C")) / 50), rel=1e-4)


def test_full_law_recovers_its_parameters() -> None:
    rng = np.random.default_rng(5)
    n, s = (grid.ravel() for grid in np.meshgrid(SIZES, [100.0, 400.0, 1600.0, 6400.0]))
    error = 4.0 * (0.05 + n**-0.5) * s**-0.3
    law = fit(FullLaw(), n=n, s=s, error=error)
    assert law.params == pytest.approx({"delta": 4.0, "gamma": 0.05, "alpha": 0.5, "beta": 0.3}, rel=1e-6)
    law = fit(FullLaw(), n=n, s=s, error=error * np.exp(0.01 * rng.standard_normal(len(n))))
    for name, value in {"delta": 4.0, "gamma": 0.05, "alpha": 0.5, "beta": 0.3}.items():
        low, high = law.interval(name)
        assert low < value < high
        assert law.unidentified(name) is None


def test_nominal_intervals_cover() -> None:
    rng = np.random.default_rng(6)
    covered = {"alpha": 0, "C": 0, "law": 0, "outcome": 0}
    count = 150
    for _ in range(count):
        alpha, gap, noise = rng.uniform(0.1, 1), rng.uniform(0.1, 0.95), rng.uniform(0.005, 0.02)
        law = fit(n=SIZES, error=noisy(rng, alpha, gap, noise))
        truth = curve(alpha, gap, sizes=np.array([1_280_000.0]))
        outcome = truth * np.exp(noise * rng.standard_normal(1))
        low, high = law.interval("alpha")
        covered["alpha"] += low <= alpha <= high
        low, high = law.interval("C")
        covered["C"] += low <= 0.3 * gap <= high
        covered["law"] += (law.band([1_280_000])[0] <= truth <= law.band([1_280_000])[1])[0]
        inside = law.predict_interval([1_280_000])
        covered["outcome"] += (inside[0] <= outcome <= inside[1])[0]
    for share in covered.values():
        # three binomial standard errors around 95 %
        assert abs(share / count - 0.95) < 3 * np.sqrt(0.95 * 0.05 / count)


def test_images_needed_inverts_the_law() -> None:
    law = fit(n=SIZES, error=noisy(np.random.default_rng(7), 0.5, 0.2, 0.005))
    target = 0.09
    needed = law.images_needed(target)
    d, a, c = law.params["D"], law.params["alpha"], law.params["C"]
    assert needed.estimate == pytest.approx(((target - c) / d) ** (-1 / a), rel=1e-3)
    assert needed.low < needed.estimate < needed.high
    assert law.band([needed.low])[0][0] == pytest.approx(target, rel=1e-3)
    assert law.band([needed.high])[1][0] == pytest.approx(target, rel=1e-3)
    below = law.images_needed(law.interval("C", level=0.999)[0] * 0.95)
    assert np.isinf(below.estimate)
    assert np.isinf(below.low)
    assert below.never > 0.99
    assert law.images_needed(0.2).never < 0.01


def test_probability_agrees_with_the_interval() -> None:
    law = fit(n=SIZES, error=noisy(np.random.default_rng(8), 0.6, 0.5, 0.01))
    for name in law.params:
        low, high = law.interval(name)
        assert law.probability_above(name, low) == pytest.approx(0.975, abs=0.004)
        assert law.probability_above(name, high) == pytest.approx(0.025, abs=0.004)


def test_what_a_likelihood_ratio_test_identifies_is_identified() -> None:
    """C = 0 rejected by 7 log(RSS of the power law / RSS) over the chi-square 95 % quantile: then C is identified."""
    rng, rejected, identified = np.random.default_rng(10), [], []
    for _ in range(60):
        error = noisy(rng, rng.uniform(0.1, 1), rng.uniform(0.1, 0.95), rng.uniform(0.005, 0.02))
        law = fit(n=SIZES, error=error)
        line = np.polyfit(np.log(SIZES), np.log(error), 1, full=True)[1][0]
        best = np.sum((np.log(error) - np.log(law.predict(SIZES))) ** 2)
        rejected.append(7 * np.log(line / best) > stats.chi2.ppf(0.95, 1))
        identified.append(law.unidentified("C") is None)
    assert 30 < sum(rejected) < 60
    assert all(known for known, test in zip(identified, rejected, strict=True) if test)
    assert sum(identified) < 60


def test_what_is_not_identified_says_why() -> None:
    rng = np.random.default_rng(9)
    straight = fit(n=SIZES, error=noisy(rng, 0.3, 0.0, 0.02))
    assert "has not bent" in str(straight.unidentified("C"))
    assert straight.unidentified("alpha") is None
    flat = fit(n=SIZES, error=0.2 * np.exp(0.02 * rng.standard_normal(7)))
    assert "flat within its noise (7 sizes over 1.8 decades)" in str(flat.unidentified("alpha"))
    assert flat.interval("alpha") == (0.0, np.inf)
    exact = fit(n=SIZES[:3], error=[0.3, 0.2, 0.15])
    assert exact.unidentified("C") == "3 points for 3 parameters; 4 are needed"
    assert exact.interval("C") == (0.0, np.inf)
    steps = fit(n=SIZES, error=np.array([0.4, *[0.2] * 6]) * np.exp(0.01 * rng.standard_normal(7)))
    assert "any steeper fall fits as well" in str(steps.unidentified("alpha"))
    clear = fit(n=SIZES, error=noisy(rng, 0.6, 0.5, 0.005))
    assert all(clear.unidentified(name) is None for name in clear.params)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": [0, 1, 2], "error": [0.3, 0.2, 0.1]}, "n = 0 is the scratch baseline"),
        ({"n": [1, 2, np.nan], "error": [0.3, 0.2, 0.1]}, "size n = nan"),
        ({"n": [1, 2, 4], "error": [0.3, 0.0, 0.1]}, "error 0 is not in"),
        ({"n": [1, 2, 4], "error": [30, 20, 10]}, "error 30 is not in"),
        ({"n": [1, 2, 4], "error": [0.3, 0.2]}, "error has 2 values and n has 3"),
        ({"n": [4, 4, 4], "error": [0.3, 0.2, 0.1]}, "all runs have n = 4"),
        ({"n": [4, 8], "error": [0.3, 0.2]}, "2 points for the 3 parameters"),
        ({"n": [], "error": []}, "no runs to fit"),
        ({"n": [4, 8] * 2, "error": [0.3, 0.2] * 2, "draw": list("aabb")}, "2 independent points for the 3"),
        ({"form": FullLaw(), "n": [4, 8, 9], "error": [0.3, 0.2, 0.1]}, "needs the fine-tuning sizes"),
        ({"form": FullLaw(), "n": [4, 8, 9], "error": [0.3, 0.2, 0.1], "s": [5, 5, 5]}, "all runs have s = 5"),
        (
            {"form": FullLaw(), "n": [4, 8, 9], "error": [0.3, 0.2, 0.1], "s": [5, 0, 5]},
            "fine-tuning size s = 0 is not in",
        ),
    ],
)
def test_bad_input_is_one_clear_error(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        fit(**arguments)


def test_bad_questions_are_one_clear_error() -> None:
    law = fit(n=SIZES, error=curve(0.5, 0.5))
    with pytest.raises(UserError, match="no parameter 'gamma'"):
        law.interval("gamma")
    with pytest.raises(UserError, match=r"an error of 10 % is 0\.1"):
        law.images_needed(10)


def test_import_is_light() -> None:
    code = "import lightning_tl.laws, sys; print([m for m in ('torch', 'pandas', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
