"""Which constructors write weights, for classes whose source is known."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from lightning_tl.measure.constructors import writes_weights


def draw(layer):
    if isinstance(layer, nn.Linear):
        nn.init.normal_(layer.weight, std=0.7)


class ByFunction(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.apply(draw)


class ByMethod(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.start()

    def start(self):
        with torch.no_grad():
            self.linear.weight.fill_(0.1)


class Inherits(ByMethod):
    pass


class Builds(nn.Module):
    """Only builds layers, and has a method that writes weights which its constructor does not call."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def clear(self):
        nn.init.zeros_(self.linear.weight)


@pytest.mark.parametrize(
    "kind",
    [torchvision.models.ResNet, torchvision.models.DenseNet, timm.models.ConvNeXt, ByFunction, ByMethod, Inherits],
)
def test_constructors_that_write_weights(kind):
    assert writes_weights(kind)


@pytest.mark.parametrize("kind", [nn.Linear, nn.TransformerEncoderLayer, nn.Sequential, Builds])
def test_constructors_that_do_not(kind):
    assert not writes_weights(kind)
