from __future__ import annotations

import contextlib
import io
import re

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tasks.toy import Squares, Toy, lists, trainer, whole

from lightning_tl.errors import UserError
from lightning_tl.tasks import ObjectDetection
from lightning_tl.tasks.average_precision import BoxAveragePrecision

SMALL = {
    "backbone": "resnet10_w16",
    "anchor_sizes": (8, 16, 24, 32, 48),
    "fpn_channels": 32,
    "representation_size": 64,
    "detector": {"box_batch_size_per_image": 32, "rpn_post_nms_top_n_train": 100, "rpn_post_nms_top_n_test": 50},
}


def perturbed(seed, images=12, classes=4):
    """Ground truth with a crowd here and there, and detections: moved, missed, doubled, mislabelled, made up."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for number in range(images):
        n = int(rng.integers(0, 6))
        corner, side = rng.uniform(0, 300, (n, 2)), rng.uniform(5, 150, (n, 2))
        boxes, labels = np.hstack([corner, corner + side]), rng.integers(1, classes + 1, n)
        crowd = (rng.random(n) < 0.15).astype(int)
        truth.append({"boxes": boxes, "labels": labels, "iscrowd": crowd, "area": side.prod(1), "image_id": number})
        kept = rng.random(n) < 0.8
        moved = boxes[kept] + rng.normal(0, 6, (kept.sum(), 4)) * rng.random((kept.sum(), 1))
        extra = rng.uniform(0, 200, (int(rng.integers(0, 4)), 2))
        guessed = np.where(rng.random(kept.sum()) < 0.9, labels[kept], rng.integers(1, classes + 1, kept.sum()))
        all_boxes = np.vstack([moved, boxes[kept][:1] + 2, np.hstack([extra, extra + 40])])
        all_labels = np.hstack([guessed, labels[kept][:1], rng.integers(1, classes + 1, len(extra))])
        found.append({"boxes": all_boxes, "labels": all_labels, "scores": rng.random(len(all_boxes))})
    return truth, found


def xywh(box):
    return [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]


def pycocotools(truth, found):
    images = [{"id": row["image_id"]} for row in truth]
    annotations, detections = [], []
    for row, seen in zip(truth, found, strict=True):
        for box, label, crowd, area in zip(row["boxes"], row["labels"], row["iscrowd"], row["area"], strict=True):
            entry = {"image_id": row["image_id"], "category_id": int(label), "bbox": xywh(box), "area": float(area)}
            annotations.append(entry | {"iscrowd": int(crowd), "id": len(annotations) + 1})
        for box, label, score in zip(seen["boxes"], seen["labels"], seen["scores"], strict=True):
            entry = {"image_id": row["image_id"], "category_id": int(label), "bbox": xywh(box), "score": float(score)}
            detections.append(entry)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"images": images, "annotations": annotations, "categories": [{"id": i} for i in range(1, 5)]}
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:3]


def tensors(rows):
    types = {"labels": torch.int64, "iscrowd": torch.int64, "image_id": torch.int64}
    return [
        {name: torch.tensor(value, dtype=types.get(name, torch.float32)) for name, value in r.items()} for r in rows
    ]


@pytest.mark.parametrize("seed", range(3))
def test_score_is_pycocotools(seed):
    truth, found = perturbed(seed)
    metric = BoxAveragePrecision()
    for start in range(0, len(truth), 5):
        metric.update(tensors(found[start : start + 5]), tensors(truth[start : start + 5]))
    values = metric.compute()
    expected = pycocotools(truth, found)
    assert 0.1 < expected[0] < 0.95
    assert [float(values[name]) for name in ("score", "map_50", "map_75")] == pytest.approx(list(expected), abs=1e-6)


def test_score_does_not_change_with_the_aspect_ratio():
    truth, found = perturbed(0)
    stretched = BoxAveragePrecision()
    for row in truth + found:
        row["boxes"] = row["boxes"] * [2.0, 0.7, 2.0, 0.7]
    stretched.update(tensors(found), tensors(truth))
    assert float(stretched.compute()["score"]) == pytest.approx(pycocotools(*perturbed(0))[0], abs=1e-6)


def task(**more):
    torch.manual_seed(0)
    return ObjectDetection(3, **(SMALL | more))


def test_all_layers_are_trained():
    net = task()
    images, targets = lists([Squares("objdet")[i] for i in range(4)])
    net.log_dict = lambda *_, **__: None
    _, loss = net.outputs_and_loss(images, targets, "train")
    loss.backward()
    assert all(p.requires_grad and p.grad is not None for p in net.parameters())
    before = net.backbone.bn1.running_mean.clone()
    net.outputs_and_loss(images, targets, "train")
    assert not torch.equal(before, net.backbone.bn1.running_mean)  # batch norm is not frozen


def test_validation_loss_draws_nothing_from_the_global_generator():
    net = task().eval()
    images, targets = lists([Squares("objdet")[i] for i in range(4)])
    targets[0]["iscrowd"] = torch.tensor([1])  # an evaluation target may be a crowd
    with torch.no_grad():
        state = torch.get_rng_state()
        _, first = net.outputs_and_loss(images, targets, "val")
        assert torch.equal(state, torch.get_rng_state())
        torch.manual_seed(7)
        _, second = net.outputs_and_loss(images, targets, "val")
    assert torch.equal(first, second)
    assert first > 0


def test_training_and_testing(tmp_path):
    net, data = task(), Toy("objdet")
    run = trainer(tmp_path, max_steps=4)
    run.fit(net, data)
    assert {"train/loss", "train/loss_classifier", "train/loss_objectness"} <= set(run.callback_metrics)
    (result,) = run.test(net, data, verbose=False)
    assert {"test/loss", "test/score", "test/error", "test/map_50", "test/map_75"} <= set(result)
    assert result["test/error"] == pytest.approx(1 - result["test/score"])
    found = run.predict(net, data.test_dataloader())
    assert set(found[0][0]) == {"boxes", "labels", "scores"}


def test_nothing_to_find_is_an_error(tmp_path):
    net = task()
    images, targets = lists([Squares("objdet")[0]])
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    targets = [targets[0] | empty | {"iscrowd": torch.zeros(0, dtype=torch.int64), "area": torch.zeros(0)}]
    with pytest.raises(UserError, match=r"test/score is not a number: the test split contains nothing to score"):
        trainer(tmp_path).test(net, whole([(images, targets)]), verbose=False)


def _target(**more):
    return Squares("objdet")[0][1] | more


@pytest.mark.parametrize(
    "target,message",
    [
        ({"boxes": torch.zeros(0, 4)}, r"target 0 of the batch lacks labels, iscrowd, area, image_id; it has boxes"),
        (_target(boxes=torch.zeros(1, 5)), r"image_id 0: boxes are [1, 5] and labels [1], not [n, 4] and [n]"),
        (_target(labels=torch.tensor([1, 2])), r"image_id 0: boxes are [1, 4] and labels [2], not [n, 4] and [n]"),
        (_target(labels=torch.tensor([0])), r"image_id 0: label 0, but labels are 1 to num_classes=3"),
        (_target(labels=torch.tensor([4])), r"image_id 0: label 4, but labels are 1 to num_classes=3"),
        (
            _target(boxes=torch.tensor([[5.0, 5, 5, 9]])),
            r"image_id 0: box 0 is empty: [5.0, 5.0, 5.0, 9.0] (x1, y1, x2, y2 in px)",
        ),
        (_target(iscrowd=torch.tensor([1])), r"image_id 0: a crowd's box is among the training targets"),
        (torch.zeros(3), r"ObjectDetection takes batches of lists of images [C, H, W] and of dicts"),
    ],
)
def test_wrong_targets(tmp_path, target, message):
    with pytest.raises(UserError, match=re.escape(message)):
        trainer(tmp_path).fit(task(), whole([([Squares("objdet")[0][0]], [target])]))
