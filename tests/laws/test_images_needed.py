"""Images needed, against the band of the law at every size of a fine grid."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_tl.laws import FullLaw, PowerLaw, TransferLaw, fit
from lightning_tl.laws.images_needed import MOST_IMAGES, crossing

N = 1000 * 2.0 ** np.arange(6)


def first_at_or_below(sizes, error, target):
    """The first size of a grid that reaches the target, none: infinite."""
    reached = np.flatnonzero(error <= target)
    return sizes[reached[0]] if len(reached) else np.inf


@pytest.mark.parametrize(
    ("form", "rises", "seed"),
    [
        *((TransferLaw(), False, seed) for seed in range(3)),
        (PowerLaw(), False, 3),
        (PowerLaw(), True, 4),
        (FullLaw(), False, 5),
    ],
)
def test_the_band_reaches_the_target_where_the_interval_begins_and_ends(form, rises, seed):
    rng = np.random.default_rng(seed)
    n, s = (axis.ravel() for axis in np.meshgrid(N, [100.0, 400.0, 1600.0] if form.uses_s else [1.0], indexing="ij"))
    curve = 0.1 * (0.4 + 0.6 * (n / 1000) ** -0.5) if not rises else 0.1 * (n / 1000) ** 0.02
    error = curve * s**-0.1 * np.exp(0.02 * rng.standard_normal(len(n)))
    law = fit(form, n=n, error=error, s=s if form.uses_s else None)
    sizes = np.geomspace(1, MOST_IMAGES, 961)
    step = sizes[4] / sizes[0]  # the grid in use is four times as coarse
    questions = [("n", sizes, 100.0 if form.uses_s else None)] + ([("s", 32_000.0, sizes)] if form.uses_s else [])
    for over, *at in questions:
        size, other = np.broadcast_arrays(*at) if form.uses_s else (at[0], None)
        low, high = law.band(size, other)
        for target in (0.03, 0.07, 0.1):
            found = law.images_needed(target, at[1] if over == "n" else None, over=over)
            for name, ends in (("low", low), ("high", high)):
                there = first_at_or_below(sizes, ends, target)
                value = getattr(found, name)
                assert value == there if np.isinf(there) else there / step <= value <= there * step


@pytest.mark.parametrize("falls", [True, False])
def test_crossing(falls):
    sizes = np.array([1.0, 10.0, 100.0, 1000.0])
    error = sizes**-0.5

    def at(i: int) -> float:
        return float(error[i])

    assert crossing(sizes, at, 0.05, falls) == pytest.approx(400)
    assert crossing(sizes, at, 2.0, falls) == 1
    assert crossing(sizes, at, 0.01, falls) == np.inf


def test_the_first_crossing_of_a_curve_that_rises_again():
    sizes, error = np.geomspace(1, 1e4, 5), [0.5, 0.2, 0.1, 0.2, 0.5]
    assert crossing(sizes, error.__getitem__, 0.2, False) == pytest.approx(10)


def test_few_points_of_a_falling_curve_are_computed():
    sizes, asked = np.geomspace(1, 1e12, 241), set()

    def at(i: int) -> float:
        asked.add(i)
        return float(sizes[i] ** -0.1)

    assert crossing(sizes, at, 0.5, True) == pytest.approx(2**10)
    assert len(asked) < 12
