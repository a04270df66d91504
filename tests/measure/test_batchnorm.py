"""BatchNorm's statistics re-estimated: against torch's own, and where the truth is known."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import update_bn

from lightning_tl.errors import UserError
from lightning_tl.measure import Objective, loss_along, perturbation_sensitivity
from lightning_tl.measure.batchnorm import batch_statistics, own_statistics, reestimate


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4, eps=1e-9)
        self.head = nn.Linear(4, 3)
        self.unused = nn.BatchNorm1d(2)

    def forward(self, x):
        return self.head(torch.tanh(self.norm(self.conv(x))).mean((2, 3)))


def batches(count=3, offset=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(8, 1, 6, 6, generator=generator) + offset, torch.randint(0, 3, (8,), generator=generator))
        for _ in range(count)
    ]


def cross_entropy(module, batch):
    return F.cross_entropy(module(batch[0]), batch[1])


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


def statistics(module):
    return {name: value.clone() for name, value in module.named_buffers()}


def test_as_torch_does_it_and_nothing_else_changes(net):
    expected = copy.deepcopy(net)
    update_bn([x for x, _ in batches()], expected)
    net.norm.num_batches_tracked.fill_(7)
    before = statistics(net)
    assert reestimate(net.eval(), lambda batch: net(batch[0]), batches()) == 1
    assert torch.equal(net.norm.running_mean, expected.norm.running_mean)
    assert torch.equal(net.norm.running_var, expected.norm.running_var)
    after = statistics(net)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"norm.running_mean", "norm.running_var"}
    assert net.norm.momentum == 0.1
    assert not net.norm.training


def test_a_network_without_such_layers_is_left_alone():
    calls = []
    assert reestimate(nn.Linear(2, 2), calls.append, [1, 2]) == 0
    assert not calls


def test_modes_come_back_when_a_batch_fails(net):
    with pytest.raises(ZeroDivisionError):
        reestimate(net.eval(), lambda batch: 1 // 0, batches())
    assert net.norm.momentum == 0.1
    assert not net.norm.training


def test_a_graph_outlives_its_statistics(net):
    net.eval()
    kept = statistics(net)
    with own_statistics(net):
        reestimate(net, lambda batch: net(batch[0]), batches())
        loss = cross_entropy(net, batches(1)[0])
    assert all(torch.equal(value, kept[name]) for name, value in net.named_buffers())
    loss.backward()
    assert float(net.conv.weight.grad.abs().sum()) > 0


def test_the_scale_of_a_convolution_before_batchnorm_has_no_effect(net):
    """L(θ(1 + λ)) is constant for the weights before BatchNorm, but for its statistics."""
    direction = {"conv.weight": net.conv.weight.detach().clone()}
    loose = loss_along(Objective(net, cross_entropy, batches(), bn="re-estimated"), direction, [0.5, 2.0])
    assert loose.loss[0] == pytest.approx(loose.loss[1], rel=1e-6)
    assert loose.slope == pytest.approx(0, abs=1e-4)
    assert loose.curvature == pytest.approx(0, abs=2e-3)
    kept = loss_along(Objective(net, cross_entropy, batches()), direction, [0.5, 2.0])
    assert abs(kept.loss[1] - kept.loss[0]) > 1e-3


def test_differences_along_a_line_are_the_derivatives_where_there_is_no_batchnorm():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    data = [(x.double(), y) for x, y in batches()]
    direction = {name: 0.1 * torch.randn_like(p) for name, p in net.named_parameters()}
    exact = loss_along(Objective(net, cross_entropy, data), direction, [1.0])
    differences = loss_along(Objective(net, cross_entropy, data, bn="re-estimated"), direction, [1.0])
    assert differences.slope == pytest.approx(exact.slope, rel=1e-4)
    assert differences.curvature == pytest.approx(exact.curvature, rel=1e-3)
    assert differences.loss == exact.loss


def test_interpolated_statistics_arrive_at_the_other_network(net):
    other = copy.deepcopy(net)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.1 * torch.randn_like(p))
    reestimate(other.eval(), lambda batch: other(batch[0]), batches(offset=1.0))
    direction = {name: dict(other.named_parameters())[name] - p for name, p in net.named_parameters()}
    change = {name: value - dict(net.named_buffers())[name] for name, value in other.named_buffers()}
    kept = statistics(net)
    curve = loss_along(Objective(net, cross_entropy, batches()), direction, [0.0, 1.0], buffers=change)
    for step, network in zip((0, 1), (net, other), strict=True):
        with torch.no_grad():
            true = sum(float(cross_entropy(network.eval(), batch)) for batch in batches()) / 3
        assert curve.loss[step] == pytest.approx(true, rel=1e-5)
    assert all(torch.equal(value, kept[name]) for name, value in net.named_buffers())


def test_noise_that_only_rescales_channels_before_batchnorm():
    """Of a 1 × 1 convolution of one input channel, noise scales the outputs: nothing is left after re-estimation."""
    torch.manual_seed(0)
    net = Net()
    net.conv = nn.Conv2d(1, 4, 1, bias=False)
    net.conv.weight.data.fill_(1.0)
    reestimate(net.eval(), lambda batch: net(batch[0]), batches(offset=2.0))
    scales = {name: torch.zeros(()) for name, _ in net.named_parameters()} | {"conv.weight": torch.ones(())}

    def measured(bn):
        objective = Objective(net, cross_entropy, batches(offset=2.0), bn=bn)
        return perturbation_sensitivity(objective, scales, [0.2], draws=4)[0]

    assert measured("re-estimated").sensitivity == pytest.approx(0, abs=1e-6)
    assert abs(measured("kept").sensitivity) > 1e-3
    assert measured("re-estimated").loss == pytest.approx(measured("kept").loss, rel=1e-6)


def test_an_unknown_choice_is_refused(net):
    with pytest.raises(UserError, match="bn='reestimated' is unknown; did you mean 're-estimated'"):
        Objective(net, cross_entropy, batches(), bn="reestimated")


def test_batch_statistics_are_those_of_training_and_leave_nothing(net):
    kept = statistics(net)
    batch = batches(1, offset=1.0)[0]
    net.eval()
    with batch_statistics(net):
        loss = cross_entropy(net, batch)
    assert all(torch.equal(value, kept[name]) for name, value in net.named_buffers())
    assert not net.norm.training
    reference = copy.deepcopy(net).train()
    assert loss.item() == cross_entropy(reference, batch).item()
    (gradient,) = torch.autograd.grad(loss, net.conv.weight, create_graph=True)
    # L does not depend on the scale of a convolution before BatchNorm: gᵀw = 0 by Euler's theorem
    assert float((gradient * net.conv.weight).sum()) == pytest.approx(0, abs=1e-6)
