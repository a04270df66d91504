"""Losses of a forward pass in bfloat16, and what its rounding allows to say."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_tl.errors import UserError
from lightning_tl.measure import Objective, hessian_trace
from lightning_tl.measure.modifications import Noise
from lightning_tl.measure.modify import modified_loss
from lightning_tl.measure.objective import HALF_FLOOR


def _loss(module, batch):
    inputs, labels = batch
    return F.cross_entropy(module(inputs.to(next(module.parameters()).dtype)), labels)


@pytest.fixture
def half():
    net = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 4)).bfloat16()
    return net, [(torch.randn(16, 6), torch.randint(4, (16,)))]


def test_layers_run_in_half_precision(half):
    net, batches = half
    by_hand = _loss(net, batches[0])
    assert by_hand.dtype == torch.bfloat16
    seen = []
    net[0].register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    objective = Objective(net, _loss, batches, half_forward=True)
    with objective.measuring():
        assert objective.loss() == float(by_hand)
    assert seen == [torch.bfloat16]


def test_rounding_is_the_distance_from_a_pass_in_fp32_and_at_least_the_floor(half):
    net, batches = half
    objective = Objective(net, _loss, batches, half_forward=True)
    with objective.measuring():
        loss = objective.loss()
    inputs, labels = batches[0]
    single = float(_loss(copy.deepcopy(net).float(), (inputs.bfloat16().float(), labels)))
    assert objective.rounding(loss) == pytest.approx(max(HALF_FLOOR, abs(loss - single)), rel=1e-3)
    assert Objective(net, _loss, batches).rounding(loss) < 1e-6


def test_noise_far_above_the_rounding_is_measured_as_in_fp32(half):
    net, batches = half
    scales = {name: torch.tensor(1.0) for name, _ in net.named_parameters()}
    rises = [
        modified_loss(Objective(net, _loss, batches, half_forward=forward), Noise(scales), [0.3], draws=4)[0].change
        for forward in (True, False)
    ]
    assert rises[0] == pytest.approx(rises[1], abs=0.03)
    assert rises[1] > 0.05


def test_what_it_cannot_do_is_refused(half):
    net, batches = half
    with pytest.raises(UserError, match="derivatives need a forward pass in fp32; leave half_forward out"):
        hessian_trace(Objective(net, _loss, batches, half_forward=True))
    with pytest.raises(UserError, match="half_forward=True needs weights stored in half precision"):
        Objective(copy.deepcopy(net).float(), _loss, batches, half_forward=True)
