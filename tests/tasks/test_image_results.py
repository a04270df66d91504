"""Scores from what is kept of each image: the metric's own value, and its value when images count several times."""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lightning_tl.tasks import (
    Classification,
    MultiLabelClassification,
    ObjectDetection,
    SemanticSegmentation,
    SurfaceNormals,
)
from lightning_tl.tasks.image_results import MeanScores, bootstrap_weights

SMALL = {"backbone": "resnet10_w16"}
IMAGES = 23


def classes(generator):
    return torch.randn(IMAGES, 4, generator=generator), torch.randint(0, 4, (IMAGES,), generator=generator)


def labels(generator):
    """Coarse logits, so that many are equal; the last label never occurs."""
    logits = torch.randint(-3, 4, (IMAGES, 4), generator=generator).float()
    targets = (torch.rand(IMAGES, 4, generator=generator) < 0.4).float()
    targets[:, 3] = 0
    return logits, targets


def masks(generator):
    targets = torch.randint(0, 3, (IMAGES, 6, 7), generator=generator)
    targets[:, :2] = 255
    return torch.randn(IMAGES, 4, 6, 7, generator=generator), targets


def normals(generator):
    targets = torch.nn.functional.normalize(torch.randn(IMAGES, 3, 6, 7, generator=generator), dim=1)
    targets[:, :, :2] = 0
    return torch.randn(IMAGES, 3, 6, 7, generator=generator), targets


def boxes(generator):
    """True boxes, some of them crowds, and detections: shifted copies, copies of copies, and boxes of nothing."""
    outputs, targets = [], []
    for image in range(IMAGES):
        count = int(torch.randint(0, 5, (), generator=generator))
        corner = torch.rand(count, 2, generator=generator) * 60
        true = torch.cat([corner, corner + 8 + 30 * torch.rand(count, 2, generator=generator)], 1)
        kinds = torch.randint(1, 4, (count,), generator=generator)
        found = true.repeat(3, 1) + torch.randn(3 * count, 4, generator=generator)
        strays = torch.rand(3, 4, generator=generator) * 20 + torch.tensor([0.0, 0, 40, 40])
        found = torch.cat([found, strays])
        scores = (torch.rand(len(found), generator=generator) * 20).round() / 20
        guesses = torch.cat([kinds.repeat(3), torch.randint(1, 4, (3,), generator=generator)])
        outputs.append({"boxes": found, "scores": scores + torch.arange(len(found)) * 1e-5, "labels": guesses})
        crowd = (torch.rand(count, generator=generator) < 0.25).long()
        area = (true[:, 2:] - true[:, :2]).prod(1)
        targets.append(
            {"boxes": true, "labels": kinds, "iscrowd": crowd, "area": area, "image_id": torch.tensor(image)}
        )
    return outputs, targets


CASES = [
    (Classification, 4, classes),
    (MultiLabelClassification, 4, labels),
    (SemanticSegmentation, 4, masks),
    (SurfaceNormals, 3, normals),
    (ObjectDetection, 3, boxes),
]


def taken(values, order):
    return [values[i] for i in order] if isinstance(values, list) else values[torch.tensor(order)]


@pytest.mark.parametrize("task, count, make", CASES, ids=[case[0].task for case in CASES])
def test_weighted_images_are_repeated_images(task, count, make):
    """Against the metric that the task logs, given each image as often as its weight says."""
    model = task(num_classes=count, **SMALL)
    outputs, targets = make(torch.Generator().manual_seed(3))
    kept = model.build_image_results()
    for start in range(0, IMAGES, 5):
        kept.update(outputs[start : start + 5], targets[start : start + 5])
    weights = np.vstack([np.ones((1, IMAGES)), bootstrap_weights(IMAGES, 4)])
    scores = kept.scores(kept.results, weights)
    assert kept.score() == pytest.approx(scores[0], abs=1e-12)
    for row, score in zip(weights.astype(int), scores, strict=True):
        order = np.repeat(np.arange(IMAGES), row).tolist()
        metric = model.build_metric()
        for start in range(0, IMAGES, 7):
            part = order[start : start + 7]
            metric.update(taken(outputs, part), taken(targets, part))
        value = metric.compute()
        assert score == pytest.approx(float(value["score"] if isinstance(value, dict) else value), abs=2e-6)
    assert len(set(scores)) > 1


def test_a_label_that_does_not_occur_is_no_part_of_the_mean():
    model = MultiLabelClassification(3, **SMALL)
    targets = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    model.test_score.update(10 * targets - 5, targets)
    assert float(model.test_score.compute()) == 1.0


def test_the_standard_error_of_a_share():
    """Of right answers: the root of p(1 − p) / N, up to the error of 200 draws."""
    right = np.arange(500) < 350

    class Right(MeanScores):
        def sums(self, outputs, targets):
            return outputs == targets

    kept = Right()
    kept.update(torch.tensor(right), torch.ones(500, dtype=torch.bool))
    assert kept.score() == pytest.approx(0.7)
    assert kept.replicates.std(ddof=1) == pytest.approx((0.7 * 0.3 / 500) ** 0.5, rel=0.15)


def test_two_networks_on_the_same_images_are_paired():
    """One network that errs wherever the other does: the replicates' difference varies as the images it gains do."""
    first, second = Classification(2, **SMALL), Classification(2, **SMALL)
    targets = torch.zeros(400, dtype=torch.long)
    logits = torch.tensor([[1.0, 0.0]]).repeat(400, 1)
    worse = logits.clone()
    logits[:100] = torch.tensor([0.0, 1.0])
    worse[:110] = torch.tensor([0.0, 1.0])
    difference = []
    for model, outputs in ((first, logits), (second, worse)):
        kept = model.build_image_results()
        kept.update(outputs, targets)
        difference.append(kept.replicates)
    gained = 10 / 400
    assert (difference[0] - difference[1]).std(ddof=1) == pytest.approx((gained * (1 - gained) / 400) ** 0.5, rel=0.15)
    assert difference[0].std(ddof=1) > 2 * (difference[0] - difference[1]).std(ddof=1)


def test_the_same_images_have_the_same_hash():
    def hashed(targets, batch):
        kept = Classification(4, **SMALL).build_image_results()
        for start in range(0, IMAGES, batch):
            kept.update(torch.randn(IMAGES, 4)[start : start + batch], targets[start : start + batch])
        return kept.targets_hash

    _, targets = classes(torch.Generator().manual_seed(3))
    assert hashed(targets, 5) == hashed(targets, IMAGES)
    assert hashed(targets, 5) != hashed(targets.flip(0), 5)


def logged_by_a_test(model):
    images, targets = torch.randn(IMAGES, 3, 32, 32), torch.arange(IMAGES) % 4
    data = DataLoader(list(zip(images, targets, strict=True)), batch_size=8)
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
    return trainer.test(model, data, verbose=False)[0]


def test_a_test_logs_the_standard_error():
    metrics = logged_by_a_test(Classification(4, **SMALL))
    accuracy = metrics["test/score"]
    assert metrics["test/error_stderr"] == pytest.approx((accuracy * (1 - accuracy) / IMAGES) ** 0.5, rel=0.2)


class Unresampled(Classification):
    def build_image_results(self):
        return None


def test_a_task_without_image_results_logs_none():
    assert "test/error_stderr" not in logged_by_a_test(Unresampled(4, **SMALL))
