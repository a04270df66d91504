from __future__ import annotations

import math

import pytest
import torch

from lightning_tl.errors import UserError
from lightning_tl.tasks import Cosine, Polynomial, WarmupCosine


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


def lrs(schedule, batch, steps, lr=0.1, images=0):
    opt = optimizer(lr)
    scheduler, total = schedule.build(opt, batch, images)
    rows = []
    for _ in range(steps):
        rows.append(opt.param_groups[0]["lr"])
        opt.step()
        scheduler.step()
    return rows, total


def test_cosine_in_images_is_the_one_in_steps():
    found, total = lrs(Cosine(images=1600, warmup_images=400), 80, 22)
    assert total == 20
    assert found == pytest.approx([row[0] for row in rates(20, 5, 22, 0.1)])


def test_cosine_down_to_a_share_of_the_peak():
    found, _ = lrs(Cosine(end=0.2, images=1600), 80, 21)
    assert found == pytest.approx([0.1 * (0.6 + 0.4 * math.cos(math.pi * step / 20)) for step in range(21)])
    constant, _ = lrs(Cosine(end=1, images=1600, warmup_images=160), 80, 21)
    assert constant == pytest.approx([0.05] + [0.1] * 20)


@pytest.mark.parametrize("end", [-0.1, 1.5])
def test_a_cosine_that_ends_above_its_peak_or_below_zero(end):
    with pytest.raises(UserError, match=rf"model.schedule.end is {end}; it is a share of the peak rate"):
        Cosine(end=end, images=320)


def test_polynomial_closed_form():
    found, total = lrs(Polynomial(images=320), 32, 12)
    assert total == 10
    assert found == pytest.approx([0.1 * (1 - min(1, step / 10)) ** 0.9 for step in range(12)], abs=1e-12)
    assert lrs(Polynomial(power=2, images=320), 32, 2)[0][1] == pytest.approx(0.1 * 0.81)


def test_epochs():
    found, total = lrs(Cosine(epochs=90, warmup_epochs=5), 256, 3, images=1_281_167)
    assert total == round(90 * 1_281_167 / 256)
    assert found[0] == pytest.approx(0.1 / round(5 * 1_281_167 / 256))


@pytest.mark.parametrize("scale,factor", [("none", 1), ("linear", 0.25)])
def test_another_batch(scale, factor):
    schedule = Polynomial(images=6400, batch=64, scale_lr=scale)
    assert lrs(schedule, 16, 1)[0][0] == pytest.approx(0.1 * factor)
    assert lrs(schedule, 16, 1)[1] == 400  # as many images, so four times the steps
    assert lrs(schedule, 64, 1)[0][0] == pytest.approx(0.1)


@pytest.mark.parametrize(
    "images,batch,steps",
    [(14_400_000, 64, 225_000), (4_000_000, 32, 125_000), (600_000, 32, 18_750), (28_800_000, 256, 112_500)],
)
def test_lengths_of_the_paper(images, batch, steps):
    assert Cosine(images=images).steps(batch) == (steps, 0)


@pytest.mark.parametrize(
    "options,message",
    [
        ({}, r"give its length once, either in images, in epochs or in tokens"),
        ({"images": 10, "epochs": 1}, r"give its length once"),
        ({"images": 0}, r"model.schedule.images is 0; it must be above 0"),
        ({"epochs": -1}, r"model.schedule.epochs is -1; it must be above 0"),
        ({"images": 10, "batch": 0}, r"model.schedule.batch is 0; it must be above 0"),
        ({"images": 10, "warmup_images": -1}, r"model.schedule.warmup_images is -1; it must be at least 0"),
        ({"images": 10, "warmup_epochs": -1}, r"model.schedule.warmup_epochs is -1; it must be at least 0"),
        ({"images": 10, "warmup_images": 1, "warmup_epochs": 1}, r"give the warm-up once"),
        ({"images": 10, "warmup_images": 1, "warmup_share": 0.1}, r"the warm-up once: in images, in epochs, or as"),
        ({"images": 10, "warmup_share": 1.0}, r"model.schedule.warmup_share is 1.0; it must be at least 0 and below 1"),
        ({"images": 10, "scale_lr": "linear"}, r"scale_lr is linear: give the batch that the learning rate belongs to"),
        ({"images": 10, "power": 0}, r"model.schedule.power is 0; it must be above 0"),
    ],
)
def test_schedule_errors(options, message):
    with pytest.raises(UserError, match=message):
        Polynomial(**options)


@pytest.mark.parametrize("length", [{"images": 6400}, {"epochs": 4}])
def test_warmup_as_a_share_of_each_length(length):
    assert Cosine(warmup_share=0.1, **length).steps(64, train_images=1600) == (100, 10)


def test_warmup_in_images_as_long_as_the_training():
    with pytest.raises(UserError, match=r"at 8 images a step, the warm-up takes 10 steps and the training 10"):
        Cosine(images=80, warmup_images=80).steps(8)
