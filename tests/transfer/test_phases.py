"""Trainings in phases: what each step does, its learning rates, and that a resumed training is the same."""

from __future__ import annotations

import math

import pytest
import torch
from lightning.pytorch import Callback
from tasks.toy import Toy, trainer

from lightning_tl.errors import UserError
from lightning_tl.tasks import Classification, Cosine, SemanticSegmentation
from lightning_tl.transfer import LPFT, LinearProbe, Unfreeze

BATCH = 8


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01)


class Watch(Callback):
    """Notes before each step the rates by group, and the weights."""

    def __init__(self):
        self.rates, self.weights = [], []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.rates.append({group.get("begin"): group["lr"] for group in trainer.optimizers[0].param_groups})
        self.weights.append({name: value.clone() for name, value in module.named_parameters()})


def fitted(folder, method, steps=8, kind=Classification, classes=3, data="sinclass", **more):
    torch.manual_seed(0)
    schedule = more.pop("schedule", Cosine(images=steps * BATCH, warmup_images=2 * BATCH))
    module = kind(classes, backbone="resnet10_w8", transfer=method, optimizer=sgd, schedule=schedule)
    for name, parameter in module.backbone.named_parameters():
        if name.endswith("bn2.weight"):  # zeros at first, which keep the block's other layers from learning
            torch.nn.init.ones_(parameter)
    watch = Watch()
    run = trainer(folder, max_steps=-1 if schedule else steps, callbacks=[watch], **more)
    run.fit(module, Toy(data, batch_size=BATCH))
    return module, watch


def cosine(step, length, warmup):
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (length - warmup)))


def test_the_first_phase_of_lpft_is_a_linear_probe(tmp_path):
    _, watch = fitted(tmp_path, LPFT(share=0.5))
    probe, other = fitted(tmp_path, LinearProbe(), steps=4, schedule=Cosine(images=32, warmup_images=8))
    for ours, theirs in zip(watch.weights[1:4], other.weights[1:], strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    begun = watch.weights[4]  # before the fifth step
    assert all(torch.equal(begun[name], value) for name, value in probe.named_parameters())
    assert not torch.equal(watch.weights[5]["backbone.conv1.weight"], begun["backbone.conv1.weight"])


def test_the_schedule_starts_anew_with_the_second_phase(tmp_path):
    _, watch = fitted(tmp_path, LPFT(probe_steps=3))
    head = [0.1 * cosine(step, 3, 0) for step in range(3)]  # two of eight steps of warm-up: none of three
    head += [0.1 * cosine(step, 5, 1) for step in range(5)]
    assert [rates[0] for rates in watch.rates] == pytest.approx(head)
    assert [rates[3] for rates in watch.rates] == pytest.approx([0.0] * 3 + head[3:])


@pytest.mark.parametrize("schedule", [True, False])
def test_stages_begin_one_by_one(tmp_path, schedule):
    cosines = Cosine(images=8 * BATCH, warmup_images=2 * BATCH) if schedule else None
    module, watch = fitted(tmp_path, Unfreeze([0.25, 4]), schedule=cosines)
    begins = {"head": 0, "backbone.layer4": 2, "backbone.layer3": 4}
    for name in dict(module.named_parameters()):
        moved = [not torch.equal(a[name], b[name]) for a, b in zip(watch.weights, watch.weights[1:], strict=False)]
        begin = next((step for prefix, step in begins.items() if name.startswith(prefix)), 8)
        assert moved == [step >= begin for step in range(7)], name
    rates = [0.1 * cosine(step, 8, 2) if schedule else 0.1 for step in range(8)]
    for begin in (0, 2, 4):
        expected = [rate if step >= begin else 0 for step, rate in enumerate(rates)]
        assert [each[begin] for each in watch.rates] == pytest.approx(expected)


def test_momentum_begins_with_the_stage(tmp_path):
    noted = []

    class Buffers(Callback):
        def on_train_batch_end(self, trainer, module, *_):
            state = trainer.optimizers[0].state
            noted.append(state.get(module.backbone.layer4[0].conv1.weight, {}).get("momentum_buffer") is not None)

    torch.manual_seed(0)
    module = Classification(3, backbone="resnet10_w8", transfer=Unfreeze([3]), optimizer=sgd)
    trainer(tmp_path, max_steps=5, callbacks=[Buffers()]).fit(module, Toy("sinclass", batch_size=BATCH))
    assert noted == [False, False, False, True, True]


def test_accumulated_gradients_count_steps(tmp_path):
    _, watch = fitted(tmp_path, LPFT(probe_steps=2), steps=4, schedule=None, accumulate_grad_batches=2)
    moved = [
        not torch.equal(w["backbone.conv1.weight"], watch.weights[0]["backbone.conv1.weight"]) for w in watch.weights
    ]
    assert moved == [False] * 6 + [True] * 2  # two batches a step; the third step moves it


def test_dense_tasks_too(tmp_path):
    module, watch = fitted(tmp_path, LPFT(probe_steps=1), 2, SemanticSegmentation, 4, "semseg", schedule=None)
    assert all(
        torch.equal(watch.weights[0][n], watch.weights[1][n]) for n in watch.weights[0] if n.startswith("backbone")
    )
    assert not torch.equal(module.backbone.conv1.weight, watch.weights[1]["backbone.conv1.weight"])


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"max_steps": 6}, 6),  # the schedule has 8
        ({"max_epochs": 3}, 6),
        ({"max_epochs": 2, "limit_train_batches": 3, "accumulate_grad_batches": 2}, 4),
        ({"max_steps": 12}, 12),
    ],
)
def test_phases_and_schedule_follow_the_real_length(tmp_path, settings, steps):
    torch.manual_seed(0)
    size = BATCH * settings.get("accumulate_grad_batches", 1)
    schedule = Cosine(images=8 * size, warmup_images=2 * size)
    module = Classification(3, backbone="resnet10_w8", transfer=LPFT(share=0.5), optimizer=sgd, schedule=schedule)
    watch, rates = Watch(), {}

    class Steps(Callback):
        def on_before_optimizer_step(self, trainer, *_):
            rates[trainer.global_step] = watch.rates[-1]

    images = Toy("sinclass", batch_size=BATCH, number=64 if "limit_train_batches" in settings else 16)
    given = {"max_steps": -1, "max_epochs": -1, "callbacks": [watch, Steps()], "limit_val_batches": 0} | settings
    trainer(tmp_path, **given).fit(module, images)
    probe, end = steps // 2, max(steps, 8)
    expected = [0.1 * cosine(step, probe, 2 * probe // 8) for step in range(probe)]
    expected += [0.1 * cosine(step, end - probe, 2 * (end - probe) // 8) for step in range(steps - probe)]
    assert [rates[step][0] for step in range(len(rates))] == pytest.approx(expected)
    assert [rates[step][probe] for step in range(len(rates))] == pytest.approx([0.0] * probe + expected[probe:])


def test_shares_and_steps_that_decrease_are_refused(tmp_path):
    module = Classification(3, backbone="resnet10_w8", transfer=Unfreeze([0.75, 2]), optimizer=sgd)
    words = r"schedule is \[0\.75, 2\], which in a training of 8 steps is \[6, 2\]; its entries must not decrease"
    with pytest.raises(UserError, match=words):
        trainer(tmp_path, max_steps=8).fit(module, Toy("sinclass", batch_size=BATCH))


class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        while True:
            yield torch.zeros(3, 32, 32), torch.tensor(0)


def test_epochs_of_a_loader_without_a_length_are_no_length(tmp_path):
    module = Classification(3, backbone="resnet10_w8", transfer=LPFT(), optimizer=sgd)
    loader = torch.utils.data.DataLoader(Endless(), batch_size=4)
    with pytest.raises(UserError, match=r"needs the length of the training: give trainer\.max_steps"):
        trainer(tmp_path, max_steps=-1, max_epochs=2).fit(module, loader)


def test_what_needs_a_length_says_so(tmp_path):
    def fit(method, steps=4, **more):
        module = Classification(3, backbone="resnet10_w8", transfer=method, optimizer=sgd, **more)
        trainer(tmp_path, max_steps=steps).fit(module, Toy("sinclass", batch_size=BATCH))

    with pytest.raises(UserError, match=r"transfer LPFT needs the length of the training: give trainer.max_steps"):
        fit(LPFT(), steps=-1)
    with pytest.raises(UserError, match=r"transfer LPFT trains in phases, .* use model\.schedule"):
        fit(LPFT(), scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 2))
    with pytest.raises(UserError, match=r"LPFT: the first phase has 4 steps, and the training 4; make it shorter"):
        fit(LPFT(probe_steps=4))
    with pytest.raises(UserError, match="Unfreeze: a stage begins at step 9, but the training has 4 steps"):
        fit(Unfreeze([0.5, 9]))
    with pytest.raises(UserError, match="Unfreeze: schedule has 6 entries, but the backbone has 5 stages"):
        fit(Unfreeze([0.1] * 6))
