"""The augmentations of photographs, one family for each kind of task (Mikami et al., arXiv 2108.11018, Appendix A)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from jsonargparse import ArgumentError, ArgumentParser
from torchvision.transforms import v2

from lightning_tl.data.batch_transform import IMAGENET_MEAN, IMAGENET_STD, BatchTransform
from lightning_tl.data.image_geometry import Geometry
from lightning_tl.errors import UserError, nearest

Colors = tuple[float, float, float]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the CPU's random numbers within the block, and restore their state afterwards."""
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


class Plan(Protocol):
    """A family of transforms: draws a geometric plan for an image, and scales its colours."""

    mean: Colors
    std: Colors

    def plan(self, height: int, width: int, training: bool) -> Geometry:
        """Return the plan for an image; in training from torch's random numbers."""


def _check(transform: Plan, sizes: Sequence[str], probabilities: Sequence[str] = ("hflip",)) -> None:
    for name in sizes:
        if getattr(transform, name) < 8:
            raise UserError(f"transform.{name} is {getattr(transform, name)}; it must be at least 8 px")
    for name in probabilities:
        if not 0 <= getattr(transform, name) <= 1:
            raise UserError(f"transform.{name} is {getattr(transform, name)}; it is a probability, between 0 and 1")
    if min(transform.std) <= 0:
        raise UserError(f"transform.std is {transform.std}; it must be above 0")


def _range(name: str, value: tuple[float, float], low: float, high: float = float("inf")) -> None:
    if not low < value[0] <= value[1] <= high:
        raise UserError(f"transform.{name} is {value}; it must be [low, high] with {low:g} < low <= high <= {high:g}")


@dataclass
class ResizeTransform:
    """Resize to a square, mirror: for detection and several labels.

    Args:
        size: Side of the output in pixels.
        hflip: Probability with which a training image is mirrored.
        mean: Of the colours in [0, 1], subtracted.
        std: Of the colours in [0, 1], divided by.
    """

    size: int = 640
    hflip: float = 0.5
    mean: Colors = IMAGENET_MEAN
    std: Colors = IMAGENET_STD

    def __post_init__(self) -> None:
        _check(self, ["size"])

    def plan(self, height: int, width: int, training: bool) -> Geometry:
        """Return the plan for an image of a height and width in pixels."""
        flip = training and bool(torch.rand(()) < self.hflip)
        return Geometry((height, width), (self.size, self.size), flip=flip)


@dataclass
class CropTransform:
    """A random part resized to a square, mirrored; in evaluation resized and its centre: for one label.

    Args:
        size: Side of the output in pixels.
        scale: Range of the share of the image's area that a random part has.
        ratio: Range of its width over its height.
        hflip: Probability with which a training image is mirrored.
        eval_resize: Length of the shorter edge after resizing in evaluation, pixels, before the centre is cut out.
        mean: Of the colours in [0, 1], subtracted.
        std: Of the colours in [0, 1], divided by.
    """

    size: int = 224
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: float = 0.5
    eval_resize: int = 256
    mean: Colors = IMAGENET_MEAN
    std: Colors = IMAGENET_STD

    def __post_init__(self) -> None:
        _check(self, ["size", "eval_resize"])
        _range("scale", self.scale, 0, 1)
        _range("ratio", self.ratio, 0)
        if self.eval_resize < self.size:
            raise UserError(f"transform.eval_resize is {self.eval_resize}, less than transform.size {self.size}")

    @cached_property
    def _random(self) -> v2.RandomResizedCrop:
        return v2.RandomResizedCrop(self.size, self.scale, self.ratio)

    def plan(self, height: int, width: int, training: bool) -> Geometry:
        """Return the plan for an image of a height and width in pixels."""
        if training:
            box = self._random.make_params([torch.empty(1, height, width, device="meta")])
            crop = (box["top"], box["left"], box["height"], box["width"])
            flip = bool(torch.rand(()) < self.hflip)
            return Geometry((height, width), (self.size, self.size), crop, flip=flip)
        size = _shorter(height, width, self.eval_resize)
        window = (round((size[0] - self.size) / 2), round((size[1] - self.size) / 2), self.size, self.size)
        return Geometry((height, width), size, window=window)


@dataclass
class ScaleCropTransform:
    """Resize at random, cut out a square, mirror; in evaluation only resize: for masks and normals.

    Args:
        crop: Side of the output in pixels; smaller images are padded.
        shorter: Range of the length of the shorter edge after resizing, pixels.
        hflip: Probability with which a training image is mirrored.
        eval_shorter: Length of the shorter edge after resizing in evaluation, pixels.
        mean: Of the colours in [0, 1], subtracted.
        std: Of the colours in [0, 1], divided by.
    """

    crop: int = 480
    shorter: tuple[int, int] = (260, 1040)
    hflip: float = 0.5
    eval_shorter: int = 520
    mean: Colors = IMAGENET_MEAN
    std: Colors = IMAGENET_STD

    def __post_init__(self) -> None:
        _check(self, ["crop", "eval_shorter"])
        _range("shorter", self.shorter, 7)

    def plan(self, height: int, width: int, training: bool) -> Geometry:
        """Return the plan for an image of a height and width in pixels."""
        if not training:
            return Geometry((height, width), _shorter(height, width, self.eval_shorter))
        low, high = self.shorter
        size = _shorter(height, width, int(torch.randint(low, high + 1, ())))
        top, left = (int(torch.randint(0, max(0, edge - self.crop) + 1, ())) for edge in size)
        flip = bool(torch.rand(()) < self.hflip)
        return Geometry((height, width), size, window=(top, left, self.crop, self.crop), flip=flip)


def _shorter(height: int, width: int, edge: int) -> tuple[int, int]:
    if height <= width:
        return edge, max(edge, int(edge * width / height))
    return max(edge, int(edge * height / width)), edge


def without_enlarging(transform: Plan, edge: int) -> Plan:
    """Return a transform of lower sizes where its output is larger than the images, else the transform itself.

    Args:
        transform: A transform.
        edge: Shorter edge of the images in pixels.
    """
    if isinstance(transform, ResizeTransform) and transform.size > edge:
        return replace(transform, size=edge)
    if isinstance(transform, CropTransform) and transform.size > edge:
        return replace(transform, size=edge, eval_resize=edge)
    if isinstance(transform, ScaleCropTransform) and transform.crop > edge:
        ratio = edge / transform.crop
        low, high = (max(8, round(ratio * value)) for value in transform.shorter)
        evaluated = max(8, round(ratio * transform.eval_shorter))
        return replace(transform, crop=edge, shorter=(low, high), eval_shorter=evaluated)
    return transform


AnyTransform = BatchTransform | ResizeTransform | CropTransform | ScaleCropTransform
#: type of a module's ``transform``: the transform itself, or its settings as plain values
TransformSetting = dict[str, Any] | AnyTransform | None


def build_transform(transform: TransformSetting, target: str, *families: type[Any], **defaults: Any) -> Any:
    """Return a transform of the first family that has all keys of the settings.

    Args:
        transform: A transform, a dictionary of its settings, or ``None``: the first family's defaults.
        target: The task, for messages.
        families: Families that this task supports.
        defaults: Settings of the first family that differ from its own defaults.

    Raises:
        UserError: A key or a value that the families do not take.
    """
    if isinstance(transform, families):
        return transform
    if transform is not None and not isinstance(transform, dict):
        wanted = " or ".join(family.__name__ for family in families)
        raise UserError(f"data.transform is a {type(transform).__name__}; {target} takes a {wanted}")
    known = [{field.name for field in fields(family)} for family in families]
    settings = dict(transform or {})
    for family, names in zip(families, known, strict=True):
        if settings.keys() <= names:
            if family is families[0]:
                settings = defaults | settings
            return _typed(family, settings)
    valid = set().union(*known)
    unknown = [key for key in settings if key not in valid]
    if unknown:
        raise UserError(f"data.transform of {target} has no key '{unknown[0]}'{nearest(unknown[0], valid)}")
    raise UserError(
        f"data.transform mixes keys of several transforms ({', '.join(settings)}); {target} takes either "
        + " or ".join("{" + ", ".join(sorted(names)) + "}" for names in known)
    )


def _typed(family: type[Any], settings: dict[str, Any]) -> Any:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(family)
    try:
        checked = parser.parse_object(settings)
    except ArgumentError as error:
        raise UserError(f"data.transform: {' '.join(str(error).split())}") from None
    return family(**checked.as_dict())
