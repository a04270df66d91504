"""A function that builds fresh modules may be slow: it is called as seldom as possible."""

import pytest
import torch
from torch import nn

from lightning_tl.measure import noise_scales, select


def counted(build):
    calls = []

    def reference():
        calls.append(1)
        return build()

    return reference, calls


def truncated():
    """Ten numbers of no simple distribution: their spread needs as many draws as allowed."""
    module = nn.Linear(5, 2, bias=False)
    nn.init.trunc_normal_(module.weight, std=0.5, a=-0.5, b=0.5)
    return module


def test_once_where_the_distribution_is_seen():
    reference, calls = counted(lambda: nn.Linear(5, 2))
    module = nn.Linear(5, 2)
    scales = noise_scales(module, select(module), reference=reference)
    assert len(calls) == 1
    assert float(scales["weight"]) == pytest.approx((1 / 15) ** 0.5)  # uniform within 1/√5


def test_sixteen_times_at_most_and_once_for_all_callbacks():
    reference, calls = counted(truncated)
    module = truncated()
    first, second = (noise_scales(module, select(module), reference=reference) for _ in range(2))
    assert len(calls) == 16
    assert torch.equal(first["weight"], second["weight"])
    exact = 0.5 * 0.5396  # of a normal distribution truncated at ±1 standard deviation
    assert float(first["weight"]) == pytest.approx(exact, rel=0.15)
    noise_scales(module, select(module), reference=reference, seed=1)
    assert len(calls) == 32
