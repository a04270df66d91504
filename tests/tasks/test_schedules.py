from __future__ import annotations

import math

import pytest
import torch

from lightning_tl.errors import UserError
from lightning_tl.tasks import WarmupCosine


def optimizer(*rates):
    return torch.optim.SGD([{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in rates])


def rates(total, warmup, steps, *peaks):
    opt = optimizer(*peaks)
    schedule = WarmupCosine(opt, total_steps=total, warmup_steps=warmup)
    rows = []
    for _ in range(steps):
        rows.append([group["lr"] for group in opt.param_groups])
        opt.step()
        schedule.step()
    return rows


@pytest.mark.parametrize("warmup", [0, 1, 5])
def test_closed_form(warmup):
    total = 20
    for step, (a, b) in enumerate(rates(total, warmup, 25, 0.5, 2.0)):
        if step < warmup:
            factor = (step + 1) / warmup
        elif step < total:
            factor = math.cos(math.pi / 2 * (step - warmup) / (total - warmup)) ** 2
        else:
            factor = 0.0
        assert a == pytest.approx(0.5 * factor, abs=1e-12)
        assert b == pytest.approx(2.0 * factor, abs=1e-12)


def test_goes_on_from_its_state():
    opt = optimizer(1.0)
    schedule = WarmupCosine(opt, 20, 5)
    for _ in range(8):
        opt.step()
        schedule.step()
    again = WarmupCosine(optimizer(1.0), 20, 5)
    again.load_state_dict(schedule.state_dict())
    again.optimizer.step()
    again.step()
    assert again.get_last_lr() == pytest.approx(rates(20, 5, 10, 1.0)[9])


@pytest.mark.parametrize("total,warmup", [(20, 20), (5, 20), (20, -1), (0, 0)])
def test_warmup_as_long_as_the_training(total, warmup):
    with pytest.raises(UserError, match=rf"total_steps is {total} and warmup_steps {warmup}; the warm-up must be"):
        WarmupCosine(optimizer(1.0), total, warmup)
