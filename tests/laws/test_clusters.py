"""What runs share: draws of shots and pre-training runs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lightning_tl.laws import fit
from lightning_tl.laws.clusters import cells, half_width, half_width_together, widened

SIZES = 64 * 2.0 ** np.arange(6)


def design(draws: int) -> tuple[np.ndarray, np.ndarray]:
    return np.repeat(SIZES, draws), np.tile(np.arange(draws), len(SIZES))


def test_draw_offsets_move_the_level_and_leave_alpha_alone() -> None:
    rng = np.random.default_rng(0)
    n, draw = design(3)
    log_error = np.log(0.5 * n**-0.4 + 0.05) + np.repeat(0.02 * rng.standard_normal(6), 3)
    offsets = np.array([0.2, -0.05, -0.15])
    plain = fit(n=n, error=np.exp(log_error), draw=draw)
    moved = fit(n=n, error=np.exp(log_error + offsets[draw]), draw=draw)
    assert moved.cells.offsets == pytest.approx(offsets)
    assert moved.params == pytest.approx(plain.params, rel=1e-6)
    assert moved.interval("alpha") == pytest.approx(plain.interval("alpha"), rel=1e-6)
    assert moved.stderr["alpha"] == pytest.approx(plain.stderr["alpha"], rel=1e-6)
    assert moved.interval("C")[1] > plain.interval("C")[1]
    assert moved.band([1e5])[1] > plain.band([1e5])[1]
    assert moved.log_ratio(2048, 20480)[1] == pytest.approx(plain.log_ratio(2048, 20480)[1], rel=1e-6)


def test_a_missing_draw_does_not_bend_the_curve() -> None:
    n, draw = design(3)
    offsets = np.array([0.3, 0.0, -0.3])
    error = np.exp(np.log(0.5 * n**-0.4 + 0.05) + offsets[draw])
    keep = ~((n == 2048) & (draw == 0))
    law = fit(n=n[keep], error=error[keep], draw=draw[keep])
    assert law.params["alpha"] == pytest.approx(0.4, rel=1e-5)
    assert law.params["C"] == pytest.approx(0.05, rel=1e-5)


def test_runs_on_one_pretraining_are_one_point() -> None:
    n, draw = design(2)
    error = 0.5 * n**-0.4 + 0.05
    assert fit(n=n, error=error, draw=draw).dof == 3
    # several seeds at each size: each is a point of its own
    both = fit(n=np.tile(n, 2), error=np.tile(error, 2), draw=np.tile(draw, 2), pretrain=np.repeat([0, 1], 12))
    assert both.dof == 9
    assert fit(n=n, error=error).dof == 9  # nothing is said to be shared


def test_residual_variance_is_the_two_way_anova() -> None:
    rng = np.random.default_rng(1)
    n, draw = design(3)
    values = rng.standard_normal(18)
    found = cells(n, values, draw=draw)
    table = values.reshape(6, 3)
    rest = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    assert found.residual_dof == 10
    assert found.residual_variance == pytest.approx((rest**2).sum() / 10)
    assert found.offsets == pytest.approx(table.mean(0) - table.mean())
    assert found.draw_variance == pytest.approx(np.var(table.mean(0), ddof=1) / 3)


def test_intervals_that_know_what_is_shared_cover() -> None:
    """Two draws, one pre-training a size: the hard case. Treating runs as independent falls short for the level."""
    rng = np.random.default_rng(2)
    n, draw = design(2)
    hits = {"alpha": 0, "C": 0, "level": 0, "naive": 0}
    count = 60
    for _ in range(count):
        alpha, gap = rng.uniform(0.2, 0.8), rng.uniform(0.1, 0.8)
        law = 0.12 * (gap + (1 - gap) * (n / 64) ** -alpha)
        shared = np.repeat(0.01 * rng.standard_normal(6), 2) + np.tile(0.1 * rng.standard_normal(2), 6)
        error = law * np.exp(shared + 0.01 * rng.standard_normal(12))
        fitted = fit(n=n, error=error, draw=draw)
        for name, truth in (("alpha", alpha), ("C", 0.12 * gap)):
            low, high = fitted.interval(name)
            hits[name] += low <= truth <= high
        for name, each in (("level", fitted), ("naive", fit(n=n, error=error))):
            low, high = each.band([2048])
            hits[name] += low[0] <= law[-1] <= high[0]
    assert min(hits["alpha"], hits["C"], hits["level"]) / count > 0.9
    assert hits["naive"] / count < 0.85


def test_widening_adds_in_quadrature_and_keeps_the_sides() -> None:
    assert widened(-3.0, 0.0, 5.0, 4.0) == pytest.approx((-5.0, np.hypot(5, 4)))
    assert widened(-3.0, 0.0, np.inf, 4.0)[1] == np.inf
    assert half_width(1.0, 1, 0.95) == pytest.approx(12.706, rel=1e-4)
    assert half_width(1.0, 0, 0.95) == np.inf


def test_errors_of_few_degrees_of_freedom_together() -> None:
    """Against Welch's interval of a difference of means in scipy; with one error, its own interval."""
    rng = np.random.default_rng(0)
    for sizes in ((5, 5), (3, 12)):
        samples = [rng.normal(0, spread, size) for spread, size in zip((1.0, 2.0), sizes, strict=True)]
        low, high = stats.ttest_ind(*samples, equal_var=False).confidence_interval(0.9)
        parts = [(half_width(float(x.var(ddof=1)) / len(x), len(x) - 1, 0.9), len(x) - 1) for x in samples]
        assert half_width_together(parts, 0.9) == pytest.approx((high - low) / 2)
        assert half_width_together([parts[0], (0.0, 1)], 0.9) == pytest.approx(parts[0][0])
    assert half_width_together([(3.0, np.inf), (4.0, np.inf)], 0.95) == pytest.approx(5.0)
    assert half_width_together([(np.inf, 0), (1.0, 5)], 0.95) == np.inf
    assert half_width_together([(0.0, 3)], 0.95) == 0
