"""Rendered data as boxes, masks and normals."""

from __future__ import annotations

from itertools import chain

import numpy as np
import torch

from data.modules import ready
from lightning_tl.data import Rendered, RenderedImages


def test_rendered_boxes(renders):
    data = ready(Rendered(renders, n=20, target="objdet", transform={"size": 64, "hflip": 0}, batch_size=4))
    images, targets = (list(chain.from_iterable(parts)) for parts in zip(*data.val_dataloader(), strict=True))
    stored = RenderedImages(renders / "val")
    for index, (image, target) in enumerate(zip(images, targets, strict=True)):
        assert image.shape == (3, 64, 64)
        assert int(target["image_id"]) == index
        mask, instances_ = stored.category(index), stored.instance(index)
        assert len(target["boxes"]) == len(np.unique(instances_)) - 1
        for box, label, area in zip(target["boxes"], target["labels"], target["area"], strict=True):
            left, top, right, bottom = (box / 2).int().tolist()
            category = {1: 1, 2: 2, 3: 4}[int(label)]
            inside = mask[top:bottom, left:right] == category
            assert int(area) == 4 * inside.sum() or inside.sum() * 4 > int(area)  # another of its kind may be there
            assert inside.any(0)[[0, -1]].all()  # the box is tight
            assert inside.any(1)[[0, -1]].all()


def test_rendered_masks(renders):
    transform = {"eval_shorter": 32, "crop": 24, "shorter": [24, 48]}
    data = ready(Rendered(renders, target="semseg", transform=transform, batch_size=4, eval_batch_size=24))
    assert data.num_classes == 4
    _, masks = next(iter(data.val_dataloader()))
    stored = RenderedImages(renders / "val")
    expected = np.stack([np.array([0, 1, 2, 9, 3])[stored.category(i)] for i in range(24)])
    np.testing.assert_array_equal(masks.numpy(), expected)
    assert masks.dtype == torch.int64
    images, masks = next(iter(data.train_dataloader()))
    assert images.shape == (4, 3, 24, 24)
    assert masks.shape == (4, 24, 24)


def test_rendered_normals(renders):
    transform = {"eval_shorter": 32, "crop": 24, "shorter": [24, 48]}
    data = ready(Rendered(renders, target="normal", transform=transform, batch_size=4, eval_batch_size=24))
    assert data.num_classes == 3
    assert data.transform.hflip == 0
    _, normals = next(iter(data.val_dataloader()))
    stored = RenderedImages(renders / "val")
    valid = np.stack([stored.instance(i) > 0 for i in range(24)])
    np.testing.assert_array_equal(normals.abs().sum(1).numpy() > 0, valid)
    torch.testing.assert_close(normals.norm(dim=1), torch.from_numpy(valid).float())
    facing = normals.movedim(1, -1)[torch.from_numpy(valid)]
    assert facing[:, 2].min() > 0.999  # the shapes face the camera
    images, normals = next(iter(data.train_dataloader()))
    assert images.shape == normals.shape == (4, 3, 24, 24)
