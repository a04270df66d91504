"""Everything that a body can spoil is put back, exceptions included."""

import random
from collections import deque

import numpy as np
import pytest
import torch
import torchmetrics
from torch import nn

from lightning_tl.measure import measuring, untouched


class Untidy(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
        self.metric = torchmetrics.MeanMetric()
        self.register_buffer("queue", torch.zeros(3))
        self.calls, self.outputs, self.named, self.recent = 0, [], {}, deque(maxlen=2)
        self.centre = torch.zeros(2)

    def forward(self, x):
        self.calls += 1
        out = self.net(x)
        self.outputs.append(out)
        self.named["last"] = out
        self.recent.append(self.calls)
        self.centre += out.detach().mean(0)
        self.queue = self.queue + 1
        self.metric.update(out.detach().mean())
        self.fresh = out
        return out


def state(module):
    tensors = {n: t.detach().clone() for n, t in module.state_dict().items()}
    plain = (module.calls, len(module.outputs), dict(module.named), list(module.recent), module.centre.clone().tolist())
    grads = [None if p.grad is None else p.grad.clone() for p in module.parameters()]
    modes = [m.training for m in module.modules()]
    metric = (module.metric.mean_value.clone().tolist(), module.metric._update_count)
    rng = (random.random(), np.random.rand(), torch.rand(3).tolist())  # noqa: NPY002
    return tensors, plain, grads, modes, metric, rng, hasattr(module, "fresh")


def spoil(module):
    module(torch.randn(8, 4)).sum().backward()
    module.eval()
    module.net[0].requires_grad_(False)
    with torch.no_grad():
        module.net[3].weight.add_(1)
    module.metric.reset()
    module.register_buffer("new", torch.ones(1))
    random.random(), np.random.rand()  # noqa: NPY002


@pytest.mark.parametrize("fails", [False, True])
def test_untouched_restores_everything(fails):
    module = Untidy()
    module.net[2].eval()  # a mode that one module alone has
    module(torch.randn(8, 4)).sum().backward()
    del module.fresh
    module.outputs.clear(), module.named.clear(), module.recent.clear()
    seeds = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    before = state(module)
    random.setstate(seeds[0]), np.random.set_state(seeds[1]), torch.set_rng_state(seeds[2])  # noqa: NPY002
    try:
        with untouched(module):
            spoil(module)
            if fails:
                raise KeyError("on the way")
    except KeyError:
        assert fails
    after = state(module)
    assert before[0].keys() == after[0].keys()
    assert all(torch.equal(t, after[0][n]) for n, t in before[0].items())
    assert all(torch.equal(a, b) for a, b in zip(before[2], after[2], strict=True))
    assert before[1] == after[1]
    assert before[3:] == after[3:]
    assert all(p.requires_grad for p in module.parameters())


def test_weights_that_nobody_wrote_are_not_written():
    module = nn.Linear(3, 3)
    version = module.weight._version
    with untouched(module):
        module(torch.randn(2, 3)).sum().backward()
    assert module.weight._version == version


def test_restores_under_inference_mode():
    module = Untidy()
    with torch.inference_mode():
        module.centre = torch.zeros(2)  # an inference tensor, as a metric of trainer.validate
        before = module.net[3].weight.clone()
        with untouched(module):
            module.net[3].weight.add_(1)
            module.centre.add_(1)
        assert torch.equal(before, module.net[3].weight)
        assert module.centre.tolist() == [0, 0]
        with measuring(module):
            x = torch.randn(8, 4)
            loss = module.net(x).square().mean()
            first = torch.autograd.grad(loss, module.net[0].weight, create_graph=True)[0]
            assert torch.autograd.grad(first.sum(), module.net[0].weight)[0].shape == (4, 4)


def test_measuring_is_in_fp32_and_eval_mode():
    module = Untidy()
    with torch.autocast("cpu", dtype=torch.bfloat16), measuring(module):
        assert module.net(torch.randn(8, 4)).dtype == torch.float32
        assert not any(m.training for m in module.modules())
    assert all(m.training for m in module.modules())


def test_frozen_train_mode():
    module = Untidy()
    with measuring(module, "frozen-train"):
        assert module.training
        assert not module.net[1].training
        assert not module.net[2].training
        assert module.net[0].training


def test_autocast_cache_does_not_keep_old_weights():
    """Within one autocast region, a cached low-precision copy would hide that the weights moved."""
    module = nn.Linear(64, 64)
    x = torch.randn(8, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first = module(x)
        with untouched(module):
            with torch.no_grad():
                module.weight.zero_()
            assert not torch.equal(module(x), first)
        assert torch.equal(module(x), first)
