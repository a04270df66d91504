"""Distances against their definitions."""

import pytest
import torch
from torch import nn

from lightning_tl.errors import UserError
from lightning_tl.measure import distance, select, snapshot


def net():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_distance_is_that_of_flat_vectors():
    module = net()
    start = snapshot(select(module))
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn_like(p))
    result = distance(select(module), start)
    now = torch.cat([p.detach().flatten() for p in module.parameters()]).double()
    then = torch.cat([p.flatten() for p in start.values()]).double()
    assert result.total == pytest.approx(float((now - then).norm()), rel=1e-6)
    assert result.relative == pytest.approx(float((now - then).norm() / then.norm()), rel=1e-6)
    assert result.cosine == pytest.approx(float(now @ then / now.norm() / then.norm()), rel=1e-5)
    assert set(result.groups) == {"0", "1", "2"}
    assert sum(v**2 for v in result.groups.values()) == pytest.approx(result.total**2, rel=1e-9)
    moved = [(p.detach() - start[f"2.{name}"]).flatten() for name, p in module[2].named_parameters()]
    assert result.groups["2"] == pytest.approx(float(torch.cat(moved).norm()), rel=1e-6)


def test_memory_formats_and_slices_do_not_matter():
    weight = torch.randn(40, 30, 5, 5)  # more than one piece
    moved = weight + 0.01 * torch.randn_like(weight)
    expected = float((moved - weight).double().norm())
    for now in (moved, moved.to(memory_format=torch.channels_last), moved.transpose(0, 1).contiguous().transpose(0, 1)):
        for then in (weight, weight.to(memory_format=torch.channels_last)):
            assert distance({"w": now}, {"w": then}).total == pytest.approx(expected, rel=1e-5)
    from lightning_tl.measure.distance import _on_cpu, _on_device

    assert torch.allclose(_on_cpu([moved], [weight]), _on_device([moved], [weight]), rtol=1e-5)


def test_what_the_reference_lacks_is_left_out_and_named():
    module = net()
    start = snapshot(select(module))
    start["2.weight"] = torch.zeros(7, 4)  # another head
    del start["2.bias"]
    result = distance(select(module), start)
    assert result.missing == ("2.weight", "2.bias")
    assert result.total == 0
    assert result.relative == 0
    assert result.cosine == pytest.approx(1)
    assert "2" not in result.groups


def test_reference_of_zeros():
    params = {"w": torch.ones(3)}
    result = distance(params, {"w": torch.zeros(3)})
    assert result.relative == float("inf")
    assert result.cosine == 0


def test_compiled_names_match_uncompiled_ones():
    module = net()
    assert list(select(torch.compile(module))) == list(select(module))
    assert distance(select(module), {f"_orig_mod.{n}": p for n, p in module.named_parameters()}).missing == ()


def test_a_reference_of_another_model():
    with pytest.raises(UserError, match=r"holds none of the 6 measured parameters .* it has a.weight"):
        distance(select(net()), {"a.weight": torch.zeros(2)})
