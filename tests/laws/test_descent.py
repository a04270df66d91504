"""Descents inside a box against scipy, and the coordinates of shares."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize

from lightning_tl.laws.descent import descend
from lightning_tl.laws.forms import WHOLE, coordinate, split


def everywhere(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Steps of any length."""
    return np.full(at.shape, -np.inf), np.full(at.shape, np.inf)


def valley(place: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Rosenbrock's bent valley, for each start with a bottom of its own."""
    x, y = place.T
    return np.stack([10 * (y - x**2), 1 + 0.1 * which - x, 0.3 * np.ones_like(x)], axis=1)


@pytest.mark.parametrize(
    ("low", "high"), [((-9.0, -9.0), (9.0, 9.0)), ((-9.0, -9.0), (0.7, 9.0)), ((-1, 0.5), (9, 0.6))]
)
def test_descents_end_where_scipy_ends(low: tuple[float, float], high: tuple[float, float]) -> None:
    rng = np.random.default_rng(0)
    starts = rng.uniform(low, high, (20, 2))
    place, rss = descend(valley, starts, np.array(low), np.array(high), everywhere, steps=300)
    for i, start in enumerate(starts):

        def residual(at: np.ndarray, number: int = i) -> np.ndarray:
            return valley(at[None], np.array([number]))[0]

        found = optimize.least_squares(residual, start, bounds=(low, high), xtol=1e-14, ftol=1e-14, gtol=1e-14)
        assert rss[i] == pytest.approx(min(2 * found.cost, rss[i]), rel=1e-9)
        assert place[i] == pytest.approx(found.x, abs=1e-4)
    assert np.all((place >= low) & (place <= high))


def test_a_start_at_a_bound_leaves_it_where_that_is_lower() -> None:
    place, rss = descend(valley, np.array([[-9.0, 9.0]]), np.full(2, -9.0), np.full(2, 9.0), everywhere, steps=300)
    assert place[0] == pytest.approx([1.0, 1.0])
    assert rss[0] == pytest.approx(0.09)


def test_a_step_stays_in_reach() -> None:
    def near(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return at - 0.1, at + 0.1

    start = np.array([[-1.0, 1.0]])
    place, _ = descend(valley, start, np.full(2, -9.0), np.full(2, 9.0), near, steps=1)
    assert np.abs(place - start).max() == pytest.approx(0.1)


def test_shares_are_resolved_at_both_ends() -> None:
    rest = np.array([1.0, 1 - 1e-9, 0.5, 1e-3, 1e-20, 1e-140])
    share, left = split(coordinate(rest))
    assert left == pytest.approx(rest, rel=1e-12)
    assert share == pytest.approx(1 - rest, rel=1e-6)
    assert coordinate(np.array(0.0)) == WHOLE
    assert np.all(np.diff(coordinate(rest)) > 0)
