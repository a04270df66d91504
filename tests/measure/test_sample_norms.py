"""Per-sample gradient norms against the gradient of each sample."""

import torch
from torch import nn

from lightning_tl.measure import Objective
from lightning_tl.measure.gauss_newton_trace import GaussNewtonTrace
from lightning_tl.measure.noise_scales import check_scales
from lightning_tl.measure.params import Layout
from tests.measure.cases import cross_entropy, scales_of


class EveryLayer(nn.Module):
    """All layers whose per-sample norms are found in one backward pass, and one whose are not."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 36)
        self.conv = nn.Conv2d(1, 4, 3, padding=1, groups=1)
        self.grouped = nn.Conv2d(4, 4, 3, groups=2)
        self.batch = nn.BatchNorm2d(4)
        self.group = nn.GroupNorm(2, 4)
        self.layer = nn.LayerNorm((4, 4, 4))
        self.bare = nn.Parameter(torch.rand(4, 1, 1) + 0.5)
        self.linear = nn.Linear(16, 3)

    def forward(self, ids):
        x = self.embed(ids).view(len(ids), -1, 6, 6)[:, :1]
        x = self.layer(self.group(self.batch(self.grouped(torch.tanh(self.conv(x)))))) * self.bare
        return self.linear(x.flatten(2)).mean(1)


def test_norms_scaled_by_row_are_those_of_each_samples_gradient():
    torch.manual_seed(3)
    module = EveryLayer().double().eval()
    ids, labels = torch.randint(0, 5, (6, 3)), torch.randint(0, 3, (6,))
    objective = Objective(module, cross_entropy, [(ids, labels)])
    scales = check_scales(scales_of(objective, "rows"), objective.params)
    with objective.measuring():
        trace = GaussNewtonTrace(objective, 0, Layout(objective.params, {"": "all"}), torch.Generator().manual_seed(0))
        trace.scales = scales
        assert [list(objective.params)[i] for i in trace.others] == ["bare"]
        direction = trace.outputs.random_direction(torch.Generator().manual_seed(1))
        norms = trace._squared(direction, trace.others, weighted=True)[1]
        expected = torch.zeros_like(norms)
        for n in range(len(ids)):
            grads = torch.autograd.grad((module(ids[n : n + 1]) * direction[n]).sum(), objective.tensors)
            expected += torch.stack([(g * s).square().sum() for g, s in zip(grads, scales, strict=True)])
        bare = trace.others[0]  # by the gradient of all samples together
        (whole,) = torch.autograd.grad((module(ids) * direction).sum(), [module.bare])
        expected[bare] = (whole * scales[bare]).square().sum()
    assert torch.allclose(norms, expected, rtol=1e-9)
    assert int((expected > 0).sum()) > 8
