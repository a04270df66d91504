"""Distances against their definitions, and the names of what is measured."""

import pytest
import torch
from torch import nn

from lightning_tl.errors import UserError
from lightning_tl.measure import distance, select, snapshot
from lightning_tl.measure.params import group_names


def net():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_distance_is_that_of_flat_vectors():
    module = net()
    start = snapshot(select(module))
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn_like(p))
    found = distance(select(module), start)
    now = torch.cat([p.detach().flatten() for p in module.parameters()]).double()
    then = torch.cat([p.flatten() for p in start.values()]).double()
    assert found.total == pytest.approx(float((now - then).norm()), rel=1e-6)
    assert found.relative == pytest.approx(float((now - then).norm() / then.norm()), rel=1e-6)
    assert found.cosine == pytest.approx(float(now @ then / now.norm() / then.norm()), rel=1e-5)
    assert set(found.groups) == {"0", "1", "2"}
    assert sum(v**2 for v in found.groups.values()) == pytest.approx(found.total**2, rel=1e-9)
    moved = [(p.detach() - start[f"2.{name}"]).flatten() for name, p in module[2].named_parameters()]
    assert found.groups["2"] == pytest.approx(float(torch.cat(moved).norm()), rel=1e-6)


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
    found = distance(select(module), start)
    assert found.missing == ("2.weight", "2.bias")
    assert found.total == 0
    assert found.relative == 0
    assert found.cosine == pytest.approx(1)
    assert "2" not in found.groups


def test_reference_of_zeros():
    params = {"w": torch.ones(3)}
    found = distance(params, {"w": torch.zeros(3)})
    assert found.relative == float("inf")
    assert found.cosine == 0


def test_compiled_names_match_uncompiled_ones():
    module = net()
    assert list(select(torch.compile(module))) == list(select(module))
    assert distance(select(module), {f"_orig_mod.{n}": p for n, p in module.named_parameters()}).missing == ()


def test_groups_by_pattern():
    names = ["backbone.conv1.weight", "backbone.layer1.0.weight", "head.weight", "scale"]
    found = group_names(names, {r"^head": "new", "layer1": "early"})
    assert found == {"rest": [names[0], names[3]], "early": [names[1]], "new": [names[2]]}
    assert list(group_names(["total.weight", "a.b"])) == ["total_group", "a"]


@pytest.mark.parametrize(
    "groups, message",
    [
        ({"(": "x"}, r"groups: '\(' is no regular expression"),
        ({"hed": "x"}, "groups: 'hed' matches no parameter; did you mean 'head'"),
        ({"head": "total"}, "groups: 'total' .* is the name of another logged key"),
    ],
)
def test_bad_groups(groups, message):
    with pytest.raises(UserError, match=message):
        group_names(["head", "body"], groups)


def test_selection():
    module = net()
    module[0].requires_grad_(False)
    assert list(select(module)) == ["1.weight", "1.bias", "2.weight", "2.bias"]
    assert list(select(module, trainable=False, include="weight", exclude="^1")) == ["0.weight", "2.weight"]
    with pytest.raises(UserError, match=r"no parameter of Sequential is left to measure .*include='head'"):
        select(module, include="head")
    with pytest.raises(UserError, match=r"exclude: '\[' is no regular expression"):
        select(module, exclude="[")
    with pytest.raises(UserError, match="have no shape yet"):
        select(nn.Sequential(nn.LazyLinear(3)))


def test_a_reference_of_another_model():
    with pytest.raises(UserError, match=r"holds none of the 6 measured parameters .* it has a.weight"):
        distance(select(net()), {"a.weight": torch.zeros(2)})
