"""Pooled features of a backbone for the images of a rendered data set or a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn

from lightning_tl._io.urls import Url, to_place
from lightning_tl.checkpoint_files import read_checkpoint
from lightning_tl.data.batch_transform import BatchTransform
from lightning_tl.data.image_files import decode, open_image
from lightning_tl.data.image_folder import image_files
from lightning_tl.data.rendered_images import RenderedImages
from lightning_tl.errors import UserError
from lightning_tl.inspection.splits import split_folders
from lightning_tl.models import build_backbone, load_backbone, pooled_features
from lightning_tl.models.weights import backbone_state, network_state

Standardize = Literal["imagenet", "image"]


class Images(Protocol):
    """Images by index; images of one group (a scene) are similar."""

    def __len__(self) -> int: ...

    def rgb(self, index: int) -> np.ndarray:
        """Return colours, uint8 ``[H, W, 3]``."""

    def group(self, index: int) -> str:
        """Return the group of an image."""


class _Renders:
    def __init__(self, folder: Path | Url, count: int) -> None:
        images = RenderedImages(folder)
        self.images = RenderedImages(folder, min(count, len(images)))

    def __len__(self) -> int:
        return len(self.images)

    def rgb(self, index: int) -> np.ndarray:
        return self.images.rgb(index)

    def group(self, index: int) -> str:
        return self.images.member(index, "json")[0].split("-")[0]


class _Files:
    def __init__(self, folder: Path, count: int, seed: int) -> None:
        files = image_files(folder)
        chosen = np.random.default_rng(seed).permutation(len(files))[:count]
        self.files = [folder / files[place] for place in sorted(chosen.tolist())]

    def __len__(self) -> int:
        return len(self.files)

    def rgb(self, index: int) -> np.ndarray:
        name = str(self.files[index])
        return decode(open_image(self.files[index], name), name)

    def group(self, index: int) -> str:
        return str(index)


def open_images(root: str | Path, count: int, seed: int = 0) -> Images:
    """Open the images of a rendered data set (its first split's first ``count``), or of a folder (a random draw).

    Args:
        root: The folder; renders may be on a store that fsspec supports (``s3://bucket/set``).
        count: Largest number of images.
        seed: Seed of the draw.

    Raises:
        UserError: No such folder, or no images in it.
    """
    folder = to_place(root)
    if isinstance(folder, Url):
        return _Renders(split_folders(folder)[0], count)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    if any((at / "manifest.json").is_file() for at in (folder, folder / "train", folder / "val")):
        return _Renders(split_folders(folder)[0], count)
    files = _Files(folder, count, seed)
    if not len(files):
        raise UserError(f"{folder}: no images in it, and no manifest.json of a rendered data set")
    return files


@dataclass(frozen=True)
class Reference:
    """The network whose features are measured."""

    backbone: nn.Module
    in_chans: int
    loading: str


def open_reference(checkpoint: Path, backbone: str | None = None) -> Reference:
    """Load a checkpoint's backbone.

    Args:
        checkpoint: A checkpoint of this library, Lightning, torchvision or timm.
        backbone: Name of the backbone (``None``: from the checkpoint).

    Raises:
        UserError: The file cannot be read, does not name its backbone, or has another one.
    """
    content = read_checkpoint(checkpoint)
    made_by: Any = content.get("lightning_tl")
    named = backbone or (made_by.get("backbone") if isinstance(made_by, dict) else None)
    if named is None:
        raise UserError(f"checkpoint {checkpoint} does not say what its backbone is: give --backbone, as resnet50")
    state = backbone_state(network_state(content)[0])[0]
    # the first convolution reads the image
    first = state.get("conv1.weight", next((each for each in state.values() if each.ndim == 4), None))
    in_chans = 3 if first is None or first.ndim != 4 else int(first.shape[1])
    arguments = content.get("hyper_parameters")
    options = arguments.get("backbone_options") if isinstance(arguments, Mapping) else None
    network = build_backbone(str(named), in_chans, options=options)
    return Reference(network.eval().requires_grad_(False), in_chans, str(load_backbone(checkpoint, network)))


@torch.no_grad()
def features(
    reference: Reference,
    images: Images,
    size: int,
    standardize: Standardize = "imagenet",
    batch_size: int = 64,
    advance: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Return pooled features of the images, float64 ``[N, F]``.

    Args:
        reference: The network.
        images: The images; their middle square is resized.
        size: Side of the network's input, pixels.
        standardize: By ImageNet's colours, or each ``image`` by its own mean and deviation (as the small pre-training
            does); one-channel networks take the latter.
        batch_size: Images per batch.
        advance: Called with (done, images).

    Raises:
        UserError: A damaged image, a network of other than one or three channels, another ``standardize``.
    """
    if standardize not in get_args(Standardize):
        raise UserError(f"--standardize is '{standardize}'; valid: {', '.join(get_args(Standardize))}")
    if reference.in_chans not in (1, 3):
        raise UserError(f"the backbone takes {reference.in_chans} channels; images have 1 or 3")
    grey = reference.in_chans == 1
    transform = BatchTransform(
        size, grayscale=grey, standardize="imagenet" if standardize == "imagenet" and not grey else True
    )
    batches = []
    for start in range(0, len(images), batch_size):
        numbers = range(start, min(len(images), start + batch_size))
        batch = torch.from_numpy(np.stack([_square(images.rgb(index), size) for index in numbers]))
        inputs = transform(batch.permute(0, 3, 1, 2))
        batches.append(pooled_features(reference.backbone, inputs).double().numpy())
        if advance is not None:
            advance(numbers.stop, len(images))
    return np.concatenate(batches)


def _square(pixels: np.ndarray, size: int) -> np.ndarray:
    if pixels.shape[:2] == (size, size):
        return pixels
    return np.asarray(ImageOps.fit(Image.fromarray(pixels), (size, size), Image.Resampling.BILINEAR))
