"""The test against fluctuation between checkpoints, on curves of which the truth is known."""

import numpy as np
import pytest
from scipy.stats import norm

from lightning_tl.budget_curves import curve, judged
from lightning_tl.offline.fluctuation import roughness, with_fluctuation

BUDGETS = [2**i for i in range(9)]
X = np.log(np.array(BUDGETS, float))
FALLING = np.log(2 + np.exp(-0.6 * X))
TURNING = np.log(2 + np.exp(-0.6 * X) + 0.02 * np.exp(0.6 * X))


def verdicts(truth, fluctuation, count=300):
    """Eight batches and six draws that say precisely how each checkpoint is, and checkpoints that fluctuate."""
    rng = np.random.default_rng(2)
    found = []
    for _ in range(count):
        own = truth + fluctuation * rng.standard_normal(len(truth))
        values = np.exp(own[:, None, None] + 1e-4 * rng.standard_normal((len(truth), 6, 8)))
        item = curve("loss", BUDGETS, values)
        found.append((item.verdict, judged([with_fluctuation(item)])[0].verdict))
    return np.array(found).T


def test_the_deviation_from_a_parabola():
    rng = np.random.default_rng(0)
    steps = np.array([0.0, 1.0, 1.5, 4.0, 4.2, 6.0, 9.0])
    parabola = 3 - 2 * steps + 0.5 * steps**2
    assert roughness(steps, parabola[None]) == pytest.approx([0], abs=1e-12)
    noisy = parabola + 0.1 * rng.standard_normal((20_000, 7))
    assert np.sqrt((roughness(steps, noisy) ** 2).mean()) == pytest.approx(0.1, rel=0.01)
    assert roughness(np.array([0.0, 1.0, 3.0]), np.array([[1.0, 3.0, 7.0]])) == pytest.approx([0], abs=1e-12)


@pytest.mark.parametrize("truth", [np.zeros(9), FALLING], ids=["flat", "falling"])
def test_fluctuation_is_not_taken_for_a_turn(truth):
    sampled, found = verdicts(truth, 0.02)
    limit = 0.025 + norm.ppf(0.99) * np.sqrt(0.025 * 0.975 / 300)
    upward = ("u", "rises", "inverted")
    assert np.mean(np.isin(found, upward)) <= limit
    assert np.mean(np.isin(sampled, upward)) > 0.5  # by batches and draws only, most have one


def test_a_turn_is_found():
    _, found = verdicts(TURNING, 0.004)
    assert np.mean(found == "u") > 0.95


def test_few_checkpoints_show_nothing():
    values = np.exp(np.array([0.2, 0.0, 0.3])[:, None, None] + 1e-4 * np.random.default_rng(0).normal(size=(3, 6, 8)))
    item = curve("loss", BUDGETS[:3], values)
    assert item.verdict == "u"
    assert judged([with_fluctuation(item)])[0].verdict == "flat"
