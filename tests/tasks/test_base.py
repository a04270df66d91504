"""What all tasks share: lengths, the last validation, seeds, and what data they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from tasks.toy import Toy, trainer, whole

from lightning_tl.errors import UserError
from lightning_tl.tasks import (
    Classification,
    Cosine,
    MultiLabelClassification,
    ObjectDetection,
    SemanticSegmentation,
    SurfaceNormals,
)

SMALL = {"backbone": "resnet10_w16"}
TASKS = {
    "sinclass": Classification,
    "mulclass": MultiLabelClassification,
    "semseg": SemanticSegmentation,
    "normal": SurfaceNormals,
    "objdet": ObjectDetection,
}


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


class Validations(Callback):
    def __init__(self):
        self.steps = []

    def on_validation_end(self, trainer, module):
        self.steps.append(trainer.global_step)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_length_in_images(tmp_path, accumulate):
    task = Classification(3, optimizer=sgd, schedule=Cosine(images=96, batch=64, scale_lr="linear"), **SMALL)
    run = trainer(tmp_path, max_steps=-1, accumulate_grad_batches=accumulate)
    run.fit(task, Toy("sinclass", batch_size=8, number=32))
    assert run.global_step == run.max_steps == 96 // (8 * accumulate)
    assert task.optimizers().param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)
    assert task.optimizers().param_groups[0]["initial_lr"] == pytest.approx(0.1 * 8 * accumulate / 64)


def test_length_in_epochs_without_a_data_module(tmp_path):
    task = Classification(3, optimizer=sgd, schedule=Cosine(epochs=3), **SMALL)
    run = trainer(tmp_path, max_steps=-1)
    run.fit(task, Toy("sinclass", batch_size=8, number=24).train_dataloader())
    assert run.global_step == 9


def test_max_steps_of_the_trainer_stops_earlier(tmp_path):
    task = Classification(3, optimizer=sgd, schedule=Cosine(images=800), **SMALL)
    run = trainer(tmp_path, max_steps=2)
    with pytest.warns(UserWarning, match="trainer.max_steps is 2: the training ends after 2 of the 100 steps"):
        run.fit(task, Toy("sinclass"))
    assert run.global_step == 2


@pytest.mark.parametrize("steps,validated", [(3, [2, 3]), (4, [2, 4]), (1, [1])])
def test_the_last_step_is_validated_once(tmp_path, steps, validated):
    seen = Validations()
    run = trainer(tmp_path, max_steps=steps, callbacks=[seen])
    run.fit(Classification(3, **SMALL), Toy("sinclass", batch_size=8, number=16))
    assert seen.steps == validated


def test_dropout_of_a_step_follows_from_the_seed(tmp_path):
    """DeepLabV3 drops out: the second step alone, from the first's checkpoint, is that of the whole run."""
    seed_everything(3)
    first = SemanticSegmentation(4, optimizer=sgd, **SMALL)
    run = trainer(tmp_path, max_steps=1)
    run.fit(first, Toy("semseg"))
    run.save_checkpoint(tmp_path / "a.ckpt")
    ends = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        task = SemanticSegmentation(4, optimizer=sgd, **SMALL)
        trainer(tmp_path, max_steps=2).fit(task, Toy("semseg"), ckpt_path=tmp_path / "a.ckpt")
        ends.append(task.head.classifier[0].project[0].weight)
    assert torch.equal(*ends)


@pytest.mark.parametrize("wanted,given", [("objdet", "sinclass"), ("sinclass", "objdet"), ("semseg", "normal")])
def test_data_of_another_task(tmp_path, wanted, given):
    task = TASKS[wanted](3, **SMALL)
    name = type(task).__name__
    with pytest.raises(UserError, match=rf"model {name} is for {wanted}, but data Toy gives {given}; choose"):
        trainer(tmp_path).fit(task, Toy(given))


IMAGES = torch.rand(2, 3, 32, 32)


@pytest.mark.parametrize(
    "task,classes,batch,message",
    [
        ("sinclass", 3, IMAGES, r"Classification takes batches of \(images, targets\); the data gives float32 \[2, 3"),
        ("sinclass", 3, (IMAGES, torch.zeros(2)), r"takes batches of .*int64 classes \[B\]; .* float32 \[2\]"),
        (
            "sinclass",
            3,
            (IMAGES, torch.tensor([0, 3])),
            r"class 3, but the model has num_classes=3: classes are 0 to 2",
        ),
        ("sinclass", 3, (IMAGES, torch.tensor([0, -1])), r"the data has class -1"),
        ("sinclass", 3, ([IMAGES[0]], [{"boxes": 0}]), r"the data gives a list, a list"),
        ("mulclass", 3, (IMAGES, torch.zeros(2, 4)), r"float targets \[B, 3\]; the data gives .*, float32 \[2, 4\]"),
        ("mulclass", 3, (IMAGES, torch.tensor([0, 1])), r"float targets \[B, 3\]; the data gives .*, int64 \[2\]"),
        ("semseg", 3, (IMAGES, torch.tensor([0, 1])), r"int64 masks \[B, H, W\]; the data gives .*, int64 \[2\]"),
        ("semseg", 3, (IMAGES, torch.full((2, 32, 32), 3)), r"a mask has class 3, .* 0 to 2, and 255 is ignored"),
        ("semseg", 3, (IMAGES, torch.full((2, 32, 32), -1)), r"a mask has class -1"),
        ("normal", 3, (IMAGES, torch.zeros(2, 32, 32)), r"float normals \[B, 3, H, W\], .*; .* float32 \[2, 32, 32\]"),
        ("normal", 4, (IMAGES, IMAGES), r"with num_classes=3 \(here 4\)"),
        ("objdet", 3, (IMAGES, torch.tensor([0, 1])), r"of dicts with boxes \[n, 4\] .*; the data gives .*int64 \[2\]"),
    ],
)
def test_batches_of_another_form(tmp_path, task, classes, batch, message):
    with pytest.raises(UserError, match=message):
        trainer(tmp_path).fit(TASKS[task](classes, **SMALL), whole([batch]))


def test_scheduler_and_schedule_exclude_each_other():
    with pytest.raises(UserError, match=r"model.scheduler and model.schedule are both given"):
        Classification(3, scheduler=lambda o: None, schedule=Cosine(images=1), **SMALL)


class Widened(Classification):
    """A user's task: a wider head, from an argument of its own, and a layer beside the network."""

    def __init__(self, width, **options):
        self.width = width
        super().__init__(3, "resnet10_w8", **options)
        self.beside = torch.nn.Linear(2, 2)

    def build_head(self, num_features):
        self.register_buffer("built", torch.ones(1), persistent=False)
        return torch.nn.Sequential(torch.nn.Linear(num_features, self.width), torch.nn.Linear(self.width, 3))


def test_a_fresh_network_is_built_beside_the_task_and_without_its_checkpoint(tmp_path):
    checkpoint = tmp_path / "start.ckpt"
    start = Classification(5, "resnet10_w8")
    torch.save({"state_dict": start.state_dict(), "lightning_tl": {"backbone": "resnet10_w8"}}, checkpoint)
    task = Widened(7, init_from=checkpoint)
    before = {name: (id(tensor), tensor.clone()) for name, tensor in task.state_dict(keep_vars=True).items()}
    attributes, modules, buffers = dict(vars(task)), dict(task._modules), dict(task._buffers)
    checkpoint.unlink()
    fresh = task.freshly_initialised()
    expected = {name: p.shape for name, p in task.named_parameters() if not name.startswith("beside")}
    assert {name: p.shape for name, p in fresh.named_parameters()} == expected
    assert not torch.equal(fresh.backbone.conv1.weight, task.backbone.conv1.weight)
    assert torch.equal(start.backbone.conv1.weight, task.backbone.conv1.weight)
    assert vars(task) == attributes
    assert (dict(task._modules), dict(task._buffers)) == (modules, buffers)
    for name, tensor in task.state_dict(keep_vars=True).items():
        assert id(tensor) == before[name][0]
        assert torch.equal(tensor, before[name][1])


class Own(Classification):
    """A subclass with an argument of its own, and one that no checkpoint can hold; it overrides the trainer's hooks."""

    def __init__(self, *args, smoothing=0.0, weighting=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.smoothing, self.weighting = smoothing, weighting
        self.started = 0

    def on_train_batch_start(self, batch, batch_idx):
        self.started += 1

    def on_train_batch_end(self, outputs, batch, batch_idx):
        return


def test_a_checkpoint_rebuilds_the_task(tmp_path):
    task = Own(3, backbone="resnet10_w8", in_chans=1, smoothing=0.1, weighting=len, optimizer=torch.optim.SGD)
    run = trainer(tmp_path, max_steps=1)
    run.fit(Own(3, backbone="resnet10_w8", smoothing=0.1, weighting=len), Toy("sinclass"))
    run.save_checkpoint(tmp_path / "a.ckpt")
    plain = {"num_classes": 3, "backbone": "resnet10_w8", "in_chans": 1, "channels_last": True, "smoothing": 0.1}
    assert task.hparams == plain | {"pretrained": False, "backbone_options": None}
    again = Own.load_from_checkpoint(tmp_path / "a.ckpt")
    assert again.smoothing == 0.1
    assert again.in_chans == 3
    state = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())


def test_a_subclass_that_overrides_the_hooks_loses_nothing(tmp_path, monkeypatch):
    """Seeds by batch, and the end at the last step with its validation."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")
    drawn = []

    class Drawing(Own):
        def training_step(self, batch, batch_idx):
            drawn.append(float(torch.rand(())))
            return super().training_step(batch, batch_idx)

    task = Drawing(3, backbone="resnet10_w8", schedule=Cosine(images=24))
    run = trainer(tmp_path, max_steps=-1)
    run.fit(task, Toy("sinclass"))
    assert task.started == run.global_step == 3
    assert "val/error" in run.callback_metrics
    expected = []
    for step in range(3):
        words = np.random.SeedSequence([3, 2, step, 0]).generate_state(1, np.uint64)
        torch.manual_seed(int(words[0] >> 1))
        expected.append(float(torch.rand(())))
    assert drawn == expected
