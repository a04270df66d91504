"""Mean average precision: of boxes as COCO defines it, and of labels; also when images count several times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision
from torchvision.ops import box_area, box_iou

from lightning_tl.tasks.image_results import Array, ImageResults, mean_of_real

# rounded to float32, as torchmetrics does: a recall of exactly 0.3 counts as below 0.3
_OVERLAPS = np.array(torch.linspace(0.5, 0.95, 10).tolist())
_RECALLS = np.array(torch.linspace(0, 1, 101).tolist())
_MOST = 100  # detections of a class in an image that COCO counts


class BoxAveragePrecision(MeanAveragePrecision):
    """``score`` (mAP@[.5:.95], crowds ignored as COCO does), ``map_50`` and ``map_75``.

    Predictions are dicts of ``boxes``, ``labels``, ``scores``, targets of ``boxes``, ``labels``, ``iscrowd``, ``area``.
    Without any box to find the values are NaN.
    """

    def __init__(self) -> None:
        super().__init__(box_format="xyxy", iou_type="bbox", backend="faster_coco_eval")

    def compute(self) -> dict[str, Any]:
        """Return the values by name."""
        values = super().compute()
        named = {"score": values["map"], "map_50": values["map_50"], "map_75": values["map_75"]}
        return {name: _real(value) for name, value in named.items()}


def _real(value: Tensor) -> Tensor:
    return torch.where(value < 0, torch.nan, value)  # COCO's -1 is: nothing to find


class LabelRanking(ImageResults):
    """Logits and labels ``[N, K]`` of images with several labels; score: average precision, the mean over labels."""

    def of_batch(self, outputs: Tensor, targets: Tensor) -> Mapping[str, Any]:
        """Keep logits and labels."""
        return {"logits": outputs.float(), "labels": targets.bool()}

    def scores(self, results: Mapping[str, Array], weights: Array) -> Array:
        """Return the means over the labels that occur."""
        values = []
        for logits, labels in zip(results["logits"].T, results["labels"].T, strict=True):
            order = np.argsort(-logits, kind="stable")
            last = np.append(np.diff(logits[order]) != 0, True)  # of images with the same logit
            weighted = weights[:, order]
            counted = weighted.cumsum(1)[:, last]
            right = (weighted * labels[order]).cumsum(1)[:, last]
            precision = np.divide(right, counted, out=np.zeros_like(right), where=counted > 0)
            gained = np.diff(right, prepend=0, axis=1)
            all_right = right[:, -1]
            area = (precision * gained).sum(1)
            values.append(np.divide(area, all_right, out=np.full_like(area, np.nan), where=all_right > 0))
        return mean_of_real(np.stack(values, 1))


class BoxMatches(ImageResults):
    """COCO's matches of detections and true boxes, image by image; score: mAP@[.5:.95].

    Kept are: for each image the number of true boxes of each class that count, and how many rows of ``detections`` it
    has; for each detection ``[class, score]``, and at each of the ten overlaps whether it is right (1), wrong (0), or
    does not count (-1), because it is on a crowd.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self._classes = num_classes

    def of_batch(self, outputs: Any, targets: Any) -> Mapping[str, Any]:
        """Match the detections of each image."""
        true, counts, detections, matches = [], [], [np.zeros((0, 2))], [np.zeros((0, len(_OVERLAPS)), np.int8)]
        for output, target in zip(outputs, targets, strict=True):
            single = target["labels"][target["iscrowd"] == 0].cpu()
            true.append(torch.bincount(single - 1, minlength=self._classes).numpy())
            rows = 0
            for label in output["labels"].unique().tolist():
                scores, found = _matched(output, target, label)
                detections.append(np.stack([np.full(len(scores), label - 1), scores], 1))
                matches.append(found)
                rows += len(scores)
            counts.append(rows)
        return {
            "true": np.stack(true),
            "counts": np.array(counts),
            "detections": np.concatenate(detections),
            "matches": np.concatenate(matches),
        }

    def scores(self, results: Mapping[str, Array], weights: Array) -> Array:
        """Return the means over overlaps and over the classes that occur."""
        image = np.repeat(np.arange(len(results["counts"])), results["counts"])
        true = weights @ results["true"]  # [R, K]
        values = np.full(true.shape, np.nan)
        for label in np.flatnonzero(results["true"].any(0)):
            rows = np.flatnonzero(results["detections"][:, 0] == label)
            rows = rows[np.argsort(-results["detections"][rows, 1], kind="stable")]
            of_rows = weights[:, image[rows]]
            precision = np.mean([_area(of_rows, match, true[:, label]) for match in results["matches"][rows].T], 0)
            values[:, label] = np.where(true[:, label] > 0, precision, np.nan)
        return mean_of_real(values)


def _matched(output: Mapping[str, Tensor], target: Mapping[str, Tensor], label: int) -> tuple[Array, Array]:
    """Match an image's detections of one class, the surest first: scores ``[n]`` and matches ``[n, overlaps]``."""
    chosen = output["labels"] == label
    order = output["scores"][chosen].argsort(descending=True, stable=True)[:_MOST]
    boxes, scores = output["boxes"][chosen][order], output["scores"][chosen][order]
    of_label = target["labels"] == label
    crowd = target["iscrowd"][of_label].bool()
    true = target["boxes"][of_label]
    overlap = box_iou(boxes.double(), true.double())
    if bool(crowd.any()):  # over a crowd, the share of the detection that lies in it counts
        areas, true_areas = box_area(boxes.double())[:, None], box_area(true.double())[None]
        inside = overlap * (areas + true_areas) / (1 + overlap)  # the intersection
        overlap = torch.where(crowd, inside / areas, overlap)
    table, crowds = overlap.cpu().numpy(), crowd.cpu().numpy()
    matches = np.zeros((len(table), len(_OVERLAPS)), np.int8)
    for column, least in enumerate(_OVERLAPS):
        free = ~crowds
        for row, overlaps in enumerate(table):
            best = np.where(free & (overlaps >= least), overlaps, -1)
            if len(best) and best.max() >= 0:
                free[len(best) - 1 - best[::-1].argmax()] = False  # of equal overlaps COCO takes the last
                matches[row, column] = 1
            elif bool((crowds & (overlaps >= least)).any()):
                matches[row, column] = -1
    return scores.double().cpu().numpy(), matches


def _area(weights: Array, match: Array, true: Array) -> Array:
    """Return the average precision over 101 recalls, as COCO does: ``[R]``.

    Args:
        weights: ``[R, n]`` of detections, the surest first.
        match: ``[n]``, 1 is right, 0 is wrong, -1 does not count.
        true: ``[R]``: number of true boxes.
    """
    if not len(match):
        return np.zeros(len(weights))
    right, counted = (weights * (match == 1)).cumsum(1), (weights * (match >= 0)).cumsum(1)
    precision = np.divide(right, counted, out=np.zeros_like(right), where=counted > 0)
    precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    recall = np.divide(right, true[:, None], out=np.zeros_like(right), where=true[:, None] > 0)
    areas = np.empty(len(weights))
    for row, (levels, values) in enumerate(zip(recall, precision, strict=True)):
        at = np.searchsorted(levels, _RECALLS, side="left")
        areas[row] = np.append(values, 0.0)[at].mean()
    return areas
