"""How images are prepared for a network in evaluation, in words that other projects can follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_tl.data.batch_transform import IMAGENET_MEAN, IMAGENET_STD, BatchTransform
from lightning_tl.data.transforms import CropTransform, ResizeTransform, ScaleCropTransform


def preprocessing(transform: object) -> dict[str, Any] | None:
    """Return what a transform does in evaluation, in this order; None for a transform that is not of this library.

    * ``center_crop_share``: share of each side that the central crop keeps.
    * ``resize``: ``[height, width]``; or ``resize_shorter``: length of the shorter edge, pixels.
    * ``center_crop``: side of the square that is cut out, pixels.
    * ``interpolation``, ``antialias``: of the resizing.
    * ``scale``: what the values 0 to 255 are multiplied by.
    * ``grayscale``: whether the colours are averaged with the weights 0.299, 0.587, 0.114.
    * ``mean`` and ``std`` of each channel, or ``standardize: image``: each image's own mean and deviation (plus 0.001).
    """
    found: dict[str, Any] = {}
    if isinstance(transform, BatchTransform):
        crop = None if transform.crop_scale in (None, (1, 1)) else transform.crop_scale
        if crop is not None:
            found["center_crop_share"] = sum(crop) / 2
        found |= {"resize": [transform.size] * 2, "interpolation": "bilinear", "antialias": crop is None}
        found |= {"scale": 1 / 255, "grayscale": transform.grayscale}
        if transform.standardize == "imagenet":
            found |= {"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}
        elif transform.standardize:
            found["standardize"] = "image"
        return found
    if isinstance(transform, ResizeTransform):
        found["resize"] = [transform.size] * 2
    elif isinstance(transform, CropTransform):
        found |= {"resize_shorter": transform.eval_resize, "center_crop": transform.size}
    elif isinstance(transform, ScaleCropTransform):
        found["resize_shorter"] = transform.eval_shorter
    else:
        return None
    found |= {"interpolation": "bilinear", "antialias": True, "scale": 1 / 255, "grayscale": False}
    return found | {"mean": list(transform.mean), "std": list(transform.std)}


def input_size(steps: Mapping[str, Any] | None) -> int | None:
    """Return the side of the square that preprocessing ends with, pixels; None where images keep their shape."""
    steps = steps or {}
    if "center_crop" in steps:
        return int(steps["center_crop"])
    return int(steps["resize"][0]) if "resize" in steps else None


def class_names(data: object) -> list[str] | None:
    """Return the names of a data module's classes, in the order of the head's outputs; None where it has none."""
    names = getattr(data, "classes", None)
    if isinstance(names, Sequence) and not isinstance(names, str) and names:
        return [str(name) for name in names]
    return None
