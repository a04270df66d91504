"""Readers and Lightning data modules: rendered shards, COCO, YOLO, ADE20K, image folders, torchvision, digits, text."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_tl.data.ade20k import ADE20K
    from lightning_tl.data.batch_transform import BatchTransform
    from lightning_tl.data.coco import CocoDetection
    from lightning_tl.data.digit_scenes import DigitScenes
    from lightning_tl.data.digits import Digits
    from lightning_tl.data.image_folder import ImageFolder
    from lightning_tl.data.rendered_images import RenderedImages
    from lightning_tl.data.rendered_module import Rendered
    from lightning_tl.data.text import Text
    from lightning_tl.data.text_examples import TextExamples
    from lightning_tl.data.torchvision_sets import TorchvisionDataset
    from lightning_tl.data.yolo import YoloDetection

__all__ = [
    "ADE20K",
    "BatchTransform",
    "CocoDetection",
    "DigitScenes",
    "Digits",
    "ImageFolder",
    "Rendered",
    "RenderedImages",
    "Text",
    "TextExamples",
    "TorchvisionDataset",
    "YoloDetection",
]

_HOMES = {
    "ADE20K": "ade20k",
    "BatchTransform": "batch_transform",
    "CocoDetection": "coco",
    "DigitScenes": "digit_scenes",
    "Digits": "digits",
    "ImageFolder": "image_folder",
    "Rendered": "rendered_module",
    "RenderedImages": "rendered_images",
    "Text": "text",
    "TextExamples": "text_examples",
    "TorchvisionDataset": "torchvision_sets",
    "YoloDetection": "yolo",
}


def __getattr__(name: str) -> Any:
    # on first use: reading and drawing shards does not need Lightning, whose import takes seconds
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
