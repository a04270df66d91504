"""A split's images one by one, with their labels checked, for exports and statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_tl.data.rendered_images import RenderedImages
from lightning_tl.errors import UserError
from lightning_tl.inspection.members import pixels


@dataclass(frozen=True)
class Frame:
    """One image of a split, with its labels; gives access to its other members."""

    images: RenderedImages
    index: int
    key: str
    labels: dict[str, Any]

    @property
    def split(self) -> str:
        """Return the split's name."""
        return self.images.manifest.split

    def colours(self) -> tuple[str, bytes]:
        """Return the colours' suffix, ``.png`` or ``.jpg``, and file content."""
        _, content = self.images.member(self.index, "rgb.png", "rgb.jpg")
        return (".png" if content.startswith(b"\x89PNG") else ".jpg"), content

    def depth(self) -> tuple[bytes, np.ndarray] | None:
        """Return the depth's file content and uint16 ``[H, W]``, millimetres; ``None`` if it was not rendered.

        Raises:
            UserError: It cannot be decoded.
        """
        try:
            content = self.images.member(self.index, "depth.png")[1]
        except UserError:
            return None  # it is optional
        try:
            return content, pixels(content)
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(
                f"{self.images.manifest.folder}: {self.key}.depth.png cannot be decoded ({error}): see lightning-tl "
                "dataset validate"
            ) from error


def read_frames(images: RenderedImages) -> Iterator[Frame]:
    """Yield a split's images in their order.

    Raises:
        UserError: Labels without objects, or of a category that the manifest lacks.
    """
    for index in range(len(images)):
        key, _ = images.member(index, "json")
        labels = images.labels(index)
        unknown = {thing["category"] for thing in labels["objects"]} - images.manifest.categories.keys()
        if unknown:
            raise UserError(
                f"{images.manifest.folder}: {key}.json: category {min(unknown)} is not in the manifest: see "
                "lightning-tl dataset validate"
            )
        yield Frame(images, index, key, labels)


Frames = Callable[[RenderedImages], Iterator[Frame]]
"""Yields the images of a split, and counts them on a progress bar."""
