"""The note on errors that rise with the images: given where they do, and not where they are flat."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_tl.laws import PowerLaw, TransferLaw
from lightning_tl.laws.fitting import fit_many, points_of
from lightning_tl.laws.rising import rising_note

SIZES = 1000 * 2.0 ** np.arange(7)


def noted(form, curve, noise: float, tables: int = 40, seed: int = 0) -> float:
    """Share of simulated tables with a note."""
    rng = np.random.default_rng(seed)
    errors = curve * np.exp(noise * rng.standard_normal((tables, len(curve))))
    laws = fit_many(form, [points_of(form, SIZES[: len(curve)], error) for error in errors])
    return float(np.mean([rising_note(law) is not None for law in laws]))


def turning(turn: float, rise: float) -> np.ndarray:
    """A law until ``turn`` images, from where on the error rises."""
    law = 0.15 + 0.15 * (np.minimum(SIZES, turn) / 1000) ** -0.5
    return law * np.maximum(SIZES / turn, 1) ** rise


@pytest.mark.parametrize("form", [TransferLaw(), PowerLaw()])
def test_a_rise_over_several_sizes_is_noted(form):
    # the law's own scatter contains the rise, and by itself would never see it
    assert noted(form, turning(8000, 0.3), 0.01) >= 0.9
    assert noted(form, turning(4000, 0.2), 0.01) >= 0.9


@pytest.mark.parametrize("noise", [0.005, 0.03])
def test_flat_and_falling_errors_are_not(noise):
    assert noted(TransferLaw(), np.full(7, 0.2), noise) <= 0.05
    assert noted(TransferLaw(), np.full(5, 0.2), noise, tables=150) <= 0.05
    assert noted(TransferLaw(), turning(1e9, 0.0), noise) == 0


def test_the_note_names_the_sizes():
    (law,) = fit_many(TransferLaw(), [points_of(TransferLaw(), SIZES, turning(8000, 0.3))])
    note = rising_note(law)
    assert note is not None
    assert note.startswith("The error rises from n = 8,000 to n = 64,000 by 87 %")
