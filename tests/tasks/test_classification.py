from __future__ import annotations

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, average_precision_score, log_loss
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric, Metric

from lightning_tl.errors import UserError
from lightning_tl.tasks import Classification, MultiLabelClassification, TransferTask

SMALL = {"backbone": "resnet10_w16", "in_chans": 1}


def loader(targets, size=16, batch=16):
    images = torch.rand(len(targets), 1, size, size, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(images, targets), batch)


def trainer(tmp_path, **settings):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    return pl.Trainer(default_root_dir=tmp_path, accelerator="cpu", **(quiet | {"max_steps": 3} | settings))


def predictions(task, data):
    task.eval()
    with torch.no_grad():
        return np.concatenate([task(images).numpy() for images, _ in data])


def test_classification_loss_and_score(tmp_path):
    torch.manual_seed(0)
    targets = torch.randint(0, 4, (40,))
    data, task = loader(targets), Classification(4, **SMALL)
    (result,) = trainer(tmp_path).test(task, data, verbose=False)
    logits = predictions(task, data)
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    accuracy = accuracy_score(targets, logits.argmax(1))
    assert result["test/loss"] == pytest.approx(log_loss(targets, chances, labels=range(4)), rel=1e-5)
    assert result["test/score"] == pytest.approx(accuracy)
    assert result["test/error"] == pytest.approx(1 - accuracy)
    assert Classification.metric_name == "accuracy"


def test_multi_label_loss_and_score(tmp_path):
    torch.manual_seed(0)
    targets = (torch.rand(40, 3) < 0.4).float()
    data, task = loader(targets), MultiLabelClassification(3, **SMALL)
    (result,) = trainer(tmp_path).validate(task, data, verbose=False)
    logits, y = predictions(task, data), targets.numpy()
    entropy = np.mean(np.logaddexp(0, logits) - y * logits)
    precision = np.mean([average_precision_score(y[:, i], logits[:, i]) for i in range(3)])
    assert result["val/loss"] == pytest.approx(entropy, rel=1e-5)
    assert result["val/score"] == pytest.approx(precision, rel=1e-5)
    assert result["val/error"] == pytest.approx(1 - precision, rel=1e-4)


class Angle(TransferTask):
    """A new task in ten lines: two numbers an image."""

    metric_name = "closeness"

    def build_head(self, num_features: int) -> nn.Module:
        return nn.Sequential(nn.Dropout(0.1), nn.Linear(num_features, 2))

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (outputs - targets).square().mean()

    def build_metric(self) -> Metric:
        return Closeness()


class Closeness(MeanMetric):
    def update(self, outputs, targets):
        super().update(torch.exp(-(outputs - targets).square().mean(1)))


def test_a_subclass_fits_and_tests(tmp_path):
    torch.manual_seed(0)
    data = loader(torch.rand(32, 2))
    task = Angle(2, **SMALL)
    before = task.backbone.conv1.weight.clone()
    run = trainer(tmp_path, max_steps=40, max_epochs=-1)
    untrained = run.test(task, data, verbose=False)[0]
    run.fit(task, data, data)
    trained = run.test(task, data, verbose=False)[0]
    assert trained["test/loss"] < 0.8 * untrained["test/loss"]
    assert trained["test/score"] > untrained["test/score"]
    assert trained["test/error"] == pytest.approx(1 - trained["test/score"])
    assert not torch.equal(before, task.backbone.conv1.weight)
    outputs = run.predict(task, data)
    assert torch.cat(outputs).shape == (32, 2)


def test_checkpoints_say_what_they_hold(tmp_path):
    run = trainer(tmp_path, max_steps=1)
    run.fit(Classification(4, **SMALL), loader(torch.zeros(16, dtype=torch.int64)))
    run.save_checkpoint(tmp_path / "a.ckpt")
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    expected = {"task": "Classification", "backbone": "resnet10_w16", "in_chans": 1, "num_classes": 4}
    expected["transfer"] = "full"
    assert content["lightning_tl"] == expected
    assert {key.split(".")[0] for key in content["state_dict"]} == {"backbone", "head"}
    # the next task starts from it, whatever its head
    task = MultiLabelClassification(7, init_from=tmp_path / "a.ckpt", **SMALL)
    assert torch.equal(task.backbone.conv1.weight, content["state_dict"]["backbone.conv1.weight"])
    assert task.key_report.head == ["head.weight", "head.bias"]
    assert task.head.weight.shape == (7, 128)


def test_memory_format_changes_nothing_but_speed():
    def outputs(channels_last):
        torch.manual_seed(0)
        task = Classification(4, backbone="resnet10_w16", channels_last=channels_last).eval()
        return task(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)))

    torch.testing.assert_close(outputs(True), outputs(False), rtol=1e-4, atol=1e-5)


def test_optimiser_and_schedule():
    task = Classification(4, **SMALL)
    assert isinstance(task.configure_optimizers(), torch.optim.AdamW)
    task.scheduler = lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 3)
    made = task.configure_optimizers()
    assert made["lr_scheduler"]["interval"] == "step"
    assert made["lr_scheduler"]["scheduler"].optimizer is made["optimizer"]
    assert sum(p.numel() for g in made["optimizer"].param_groups for p in g["params"]) == sum(
        p.numel() for p in task.parameters()
    )


@pytest.mark.parametrize("number", [0, -1])
def test_number_of_classes(number):
    with pytest.raises(UserError, match=rf"model.num_classes is {number}; it must be at least 1"):
        Classification(number, **SMALL)


def test_unknown_backbone():
    with pytest.raises(UserError, match=r"no backbone 'resnet10_w17'; did you mean 'resnet10_w16'"):
        Classification(4, backbone="resnet10_w17")


def test_missing_methods():
    class NoMetric(TransferTask):
        pass

    class NoLoss(TransferTask):
        def build_metric(self):
            return MeanMetric()

    with pytest.raises(TypeError, match=r"NoMetric must define build_metric\(\)"):
        NoMetric(4, **SMALL)
    with pytest.raises(TypeError, match=r"NoLoss must define loss\(outputs, targets\)"):
        NoLoss(4, **SMALL).training_step((torch.rand(2, 1, 16, 16), torch.zeros(2)), 0)
