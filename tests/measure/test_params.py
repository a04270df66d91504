"""Which parameters are measured, and their groups."""

import pytest
import torch
from torch import nn

from lightning_tl.errors import UserError
from lightning_tl.measure import select
from lightning_tl.measure.params import group_names, squared_norms


def net():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_groups_by_pattern():
    names = ["backbone.conv1.weight", "backbone.layer1.0.weight", "head.weight", "scale"]
    result = group_names(names, {r"^head": "new", "layer1": "early"})
    assert result == {"rest": [names[0], names[3]], "early": [names[1]], "new": [names[2]]}
    assert list(group_names(["total.weight", "a.b"])) == ["total_group", "a"]


@pytest.mark.parametrize(
    "groups, message",
    [
        ({"(": "x"}, r"groups: '\(' is not a regular expression"),
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
    with pytest.raises(UserError, match=r"exclude: '\[' is not a regular expression"):
        select(module, exclude="[")
    with pytest.raises(UserError, match="have no shape yet"):
        select(nn.Sequential(nn.LazyLinear(3)))


@pytest.mark.parametrize("kind", ["normal", "constant", "transposed"])
def test_squared_norms_of_many_numbers_are_those_in_double_precision(kind):
    tensor = torch.full((1 << 24,), 0.1) if kind == "constant" else torch.randn(1 << 12, 1 << 12)
    tensor = tensor.T if kind == "transposed" else tensor
    ones, halves = torch.ones(7), torch.ones(100_000, dtype=torch.bfloat16)
    found = squared_norms([tensor, ones, halves, torch.arange(5)])
    assert found.dtype == torch.float64
    assert float(found[0]) == pytest.approx(float(tensor.double().square().sum()), rel=1e-6)
    assert found[1:].tolist() == pytest.approx([7, 100_000, 30], rel=1e-9)
    assert squared_norms([]).shape == (0,)
