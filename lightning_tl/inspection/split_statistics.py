"""Statistics of a split of a rendered data set: objects by category, sizes, visibility, brightness."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lightning_tl.data.rendered_images import RenderedImages
from lightning_tl.inspection.frames import read_frames
from lightning_tl.progress import progress_bar

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass
class SplitStats:
    """Counts of a split.

    Attributes:
        images: Number of images.
        classes: Number of objects by name of category.
        per_image: Number of objects in each image.
        sides: Square root of each object's box over the image's area, 0 to 1.
        visible: Each object's visible fraction.
        brightness: Mean luma of each image, 0 to 255 (ITU-R 601 weights).
        contrast: Standard deviation of the luma within each image.
    """

    images: int = 0
    classes: Counter[str] = field(default_factory=Counter)
    per_image: list[int] = field(default_factory=list)
    sides: list[float] = field(default_factory=list)
    visible: list[float] = field(default_factory=list)
    brightness: list[float] = field(default_factory=list)
    contrast: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Return the counts, and mean, standard deviation, smallest and largest value of the rest."""
        spread = {}
        for name in ("per_image", "sides", "visible", "brightness", "contrast"):
            values = np.array(getattr(self, name), float)
            if len(values):
                spread[name] = {
                    "mean": float(values.mean()),
                    "std": float(values.std()),
                    "min": float(values.min()),
                    "max": float(values.max()),
                }
        return {"images": self.images, "objects": sum(self.classes.values()), "classes": dict(self.classes)} | spread


def split_statistics(images: RenderedImages) -> SplitStats:
    """Compute a split's statistics; each image's colours are decoded once.

    Raises:
        UserError: A damaged shard, image or label.
    """
    statistics = SplitStats(classes=Counter(dict.fromkeys(images.manifest.categories.values(), 0)))
    with progress_bar(f"counting {images.manifest.split}", "images") as advance:
        for frame in read_frames(images):
            luma = images.rgb(frame.index).astype(np.float32) @ _LUMA
            statistics.brightness.append(float(luma.mean()))
            statistics.contrast.append(float(luma.std()))
            statistics.images += 1
            statistics.per_image.append(len(frame.labels["objects"]))
            for thing in frame.labels["objects"]:
                statistics.classes[images.manifest.categories[thing["category"]]] += 1
                statistics.sides.append(float((thing["bbox"][2] * thing["bbox"][3] / luma.size) ** 0.5))
                statistics.visible.append(float(thing["visible_fraction"]))
            advance(statistics.images, len(images))
    return statistics
