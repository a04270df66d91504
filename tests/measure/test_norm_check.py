"""A trace is called exact only where the per-sample norms are right for every sample."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_tl.measure import Objective, hessian_trace
from tests.measure.cases import Case, exact


def check(objective: Objective) -> tuple[bool, Case]:
    """Check the estimate against the dense Hessian, and return whether it was called exact."""
    case, estimate = exact(objective), hessian_trace(objective, 60)
    if estimate.stderr == 0:
        assert estimate.value == pytest.approx(case.trace, rel=1e-9)
    else:
        low, high = estimate.interval(0.9999)
        assert low <= case.trace <= high
    assert (estimate.stderr == 0) == (estimate.method == "exact")
    return estimate.method == "exact", case


class Graph(nn.Module):
    """Node classification: one graph convolution over 20 nodes, of which the last are isolated."""

    def __init__(self, isolated: int):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)
        edges = torch.rand(20, 20) < 0.3
        edges = edges | edges.T
        edges[:, 20 - isolated :] = edges[20 - isolated :] = False
        self.register_buffer("mean", F.normalize((edges | torch.eye(20, dtype=torch.bool)).float(), p=1, dim=1))

    def forward(self, x):
        return self.last(F.relu(self.mean @ self.first(x)))


@pytest.mark.parametrize("seed", range(20))
def test_nodes_of_a_graph_of_which_most_are_isolated(seed):
    torch.manual_seed(seed)
    batch = (torch.randn(20, 4).double(), torch.randint(0, 3, (20,)))
    mixed, _ = check(Objective(Graph(12).double(), cross_entropy, [batch]))
    assert not mixed
    trusted, _ = check(Objective(Graph(20).double(), cross_entropy, [batch]))
    assert trusted


class Mixing(nn.Module):
    """A network that mixes the samples' features by a function in its middle."""

    def __init__(self, mix):
        super().__init__()
        self.first, self.last, self.mix = nn.Linear(4, 5), nn.Linear(5, 3), mix

    def forward(self, x):
        return self.last(self.mix(F.relu(self.first(x))))


@pytest.mark.parametrize("seed", range(12))
def test_mixup_of_features(seed):
    torch.manual_seed(seed)

    def mixup(h):
        p = torch.randperm(len(h), generator=torch.Generator().manual_seed(seed))
        return 0.3 * h + 0.7 * h[p]

    batch = (torch.randn(6, 4).double(), torch.randint(0, 3, (6,)))
    assert not check(Objective(Mixing(mixup).double(), cross_entropy, [batch]))[0]


@pytest.mark.parametrize("samples", [7, 130, 400])
@pytest.mark.parametrize("pair", [False, True])
def test_two_samples_that_mix_among_many_that_do_not(samples, pair):
    """More samples than there are powers of two to tell them apart."""
    torch.manual_seed(samples)
    mixing = torch.eye(samples).double()
    if pair:
        mixing[samples // 2, samples // 3] = 0.3
    batch = (torch.randn(samples, 4).double(), torch.randint(0, 3, (samples,)))
    module = Mixing(lambda h: mixing @ h).double()
    assert check(Objective(module, cross_entropy, [batch]))[0] != pair


class Twice(nn.Module):
    """The last sample uses the first layer's weight once more."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        h = F.relu(self.first(x))
        again = F.linear(h[-1:], self.first.weight)
        return self.last(torch.cat([h[:-1], h[-1:] + again]))


def test_a_weight_with_another_use_that_reaches_one_sample_only():
    batch = (torch.randn(9, 4).double(), torch.randint(0, 3, (9,)))
    assert not check(Objective(Twice().double(), cross_entropy, [batch]))[0]


def test_later_batches_and_measurements_are_checked_too():
    """The first batch has no edges between samples, and nor has the module at its first measurement."""
    strength = torch.zeros((), dtype=torch.float64)
    module = Mixing(lambda h: h + strength * (h[:1] > 0.3) * h.flip(0)).double()
    small, large = (torch.rand(8, 4).double() * scale for scale in (1e-6, 3))
    with torch.no_grad():
        module.first.bias.fill_(0.1)
    y = torch.randint(0, 3, (8,))
    objective = Objective(module, cross_entropy, [(large, y)])
    is_exact, _ = check(objective)
    assert is_exact
    memory = hessian_trace(objective).memory
    strength.fill_(0.5)
    later = hessian_trace(objective, 60, memory=memory)
    assert later.method == "gauss-newton"
    assert abs(later.value - exact(objective).trace) < 4 * later.stderr
    assert check(Objective(module, cross_entropy, [(small, y)]))[0]
    assert not check(Objective(module, cross_entropy, [(small, y), (large, y)]))[0]


def cross_entropy(module, batch):
    return F.cross_entropy(module(batch[0]), batch[1])
