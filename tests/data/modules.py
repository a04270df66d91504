"""Data modules set up, and what their splits hold."""

from __future__ import annotations

import torch

from lightning_tl.data.batch_transform import IMAGENET_MEAN, IMAGENET_STD


def colours(images):
    """Undo the standardisation: bytes again."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (images * std + mean) * 255


def ready(data, stage="fit"):
    data.setup(stage)
    return data


def names(data):
    return {split: {part.name(i) for i in range(len(part))} for split, part in data.splits.items()}


def both(data):
    """Set up for training and for the test."""
    return ready(ready(data), "test")


def disjoint(parts):
    return all(not parts[a] & parts[b] for a, b in (("train", "val"), ("train", "test"), ("val", "test")))
