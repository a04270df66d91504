"""The spread of drawn tensors against their distributions."""

import math

import pytest
import torch
from scipy import stats
from torch import nn

from lightning_tl.measure.spread import spreads


def test_one_draw_is_enough_where_the_distribution_can_be_read_off():
    draws = []

    def draw():
        draws.append(nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2), nn.Embedding(4, 3), nn.Conv2d(1, 1, 1)))
        return dict(draws[-1].named_parameters())

    known = spreads(draw, draw())
    assert len(draws) == 2
    assert known["0.bias"] == pytest.approx(1 / 3)
    assert known["2.weight"] == 1
    assert known["1.weight"] == known["1.bias"] == 0


def test_other_distributions_are_drawn_until_they_are_known():
    """Numbers that no single call fills in: cut off, scaled, partly zero, the same in all elements, shifted by draw."""
    draws = []

    def draw():
        draws.append(1)
        cut, padded, same = torch.empty(50), torch.empty(400, 20), torch.empty(30)
        nn.init.trunc_normal_(cut, std=1.0, a=-1.0, b=1.0)
        with torch.no_grad():
            padded.normal_()
            padded[0].zero_()
        return {"cut": cut, "padded": padded, "scaled": 0.1 * torch.randn(50), "same": same.uniform_().fill_(0.3) + 1}

    known = spreads(draw, draw())
    assert len(draws) - 1 == 64  # the most, as 64 · 50 numbers are not yet enough
    assert known["cut"] == pytest.approx(float(stats.truncnorm(-1, 1).std()), rel=0.05)
    assert known["padded"] == pytest.approx(math.sqrt(399 / 400), rel=0.03)
    assert known["scaled"] == pytest.approx(0.1, rel=0.05)
    assert known["same"] == 0


def test_a_record_that_the_numbers_contradict_is_not_believed():
    """Memory that is written past torch's dispatcher, as NumPy does."""

    def draw():
        weight = torch.empty(8_000).normal_()
        weight.numpy()[:] *= 5
        return {"weight": weight}

    assert spreads(draw, draw())["weight"] == pytest.approx(5, rel=0.03)
