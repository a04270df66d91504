"""Parameters in which outputs are not affine, against second derivatives by torch.func."""

import pytest
import torch
from torch import nn
from torch.autograd.graph import get_gradient_edge
from torch.func import functional_call, hessian

from lightning_tl.measure.affine import nonaffine
from tests.measure.cases import ConvBN


class Shared(nn.Module):
    """One weight used twice: quadratic in it, although every operation is linear."""

    def __init__(self):
        super().__init__()
        self.shared, self.single = nn.Linear(3, 3, bias=False), nn.Linear(3, 2, bias=False)

    def forward(self, x):
        return self.single(self.shared(self.shared(x)))


class Squared(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.outer(self.inner(x) ** 2)


class Quotient(nn.Module):
    def __init__(self):
        super().__init__()
        self.above, self.below = nn.Linear(3, 2), nn.Linear(3, 1)

    def forward(self, x):
        return self.above(x) / (5 + self.below(x))


def sequence(*layers):
    return nn.Sequential(nn.Linear(3, 4), *layers, nn.Linear(4, 2))


NETWORKS = {
    "relu": lambda: sequence(nn.ReLU()),
    "leaky": lambda: sequence(nn.LeakyReLU(0.1), nn.Dropout()),
    "tanh": lambda: sequence(nn.Tanh()),
    "gelu": lambda: sequence(nn.GELU()),
    "layer norm": lambda: sequence(nn.LayerNorm(4)),
    "batch norm": lambda: sequence(nn.BatchNorm1d(4), nn.ReLU()),
    "softmax": lambda: sequence(nn.Softmax(1)),
    "shared": Shared,
    "squared": Squared,
    "quotient": Quotient,
}


# Affine parameters that are named all the same, which costs products but is not wrong.
CAUTIOUS = {"layer norm": {"1.weight", "1.bias"}, "quotient": {"above.weight", "above.bias"}}


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_of_nonzero_second_derivative_are_named(name):
    torch.manual_seed(0)
    module = NETWORKS[name]().double().eval()
    x = torch.randn(6, 3).double()
    named = nonaffine(get_gradient_edge(module(x)), dict(module.named_parameters()))
    assert named == curved(module, x) | CAUTIOUS.get(name, set())


def test_a_convolutional_network_with_batch_norm_in_eval_mode_is_affine():
    module, x = ConvBN().double().eval(), torch.randn(4, 1, 6, 6).double()
    assert nonaffine(get_gradient_edge(module(x)), dict(module.named_parameters())) == set()
    module.train()
    names = nonaffine(get_gradient_edge(module(x)), dict(module.named_parameters()))
    assert "conv.weight" in names  # through the statistics of the batch
    assert not {"conv2.weight", "head.weight", "head.bias"} & names


def curved(module, x):
    """Return the names of the parameters along some of whose elements an output has a second derivative."""
    params = {name: p.detach() for name, p in module.named_parameters()}
    names = set()
    for name, p in params.items():

        def outputs(value, name=name):
            return functional_call(module, params | {name: value}, x)

        second = hessian(outputs)(p).reshape(-1, p.numel(), p.numel())
        if float(second.diagonal(dim1=1, dim2=2).abs().max()) > 1e-9:
            names.add(name)
    return names
