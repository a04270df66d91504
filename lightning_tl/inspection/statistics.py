"""`lightning-tl dataset stats`: what a rendered data set shows, in numbers and pictures on one page."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lightning_tl.data.rendered_images import RenderedImages
from lightning_tl.inspection.export import frames, write
from lightning_tl.inspection.splits import split_folders
from lightning_tl.progress import progress_bar

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass
class SplitStats:
    """Counts of a split.

    Attributes:
        images: Number of images.
        classes: Objects by category's name.
        per_image: Objects in each image.
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
        """Return the counts, and mean, standard deviation, least and greatest of the rest."""
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


def statistics(images: RenderedImages) -> SplitStats:
    """Count what a split's images show; each image's colours are decoded once.

    Raises:
        UserError: A damaged shard, image or label.
    """
    found = SplitStats(classes=Counter(dict.fromkeys(images.manifest.categories.values(), 0)))
    with progress_bar(f"counting {images.manifest.split}", "images") as advance:
        for frame in frames(images):
            luma = images.rgb(frame.index).astype(np.float32) @ _LUMA
            found.brightness.append(float(luma.mean()))
            found.contrast.append(float(luma.std()))
            found.images += 1
            found.per_image.append(len(frame.labels["objects"]))
            for thing in frame.labels["objects"]:
                found.classes[images.manifest.categories[thing["category"]]] += 1
                found.sides.append(float((thing["bbox"][2] * thing["bbox"][3] / luma.size) ** 0.5))
                found.visible.append(float(thing["visible_fraction"]))
            advance(found.images, len(images))
    return found


def write_statistics(root: str | Path, out: Path, count: int = 24) -> Path:
    """Write ``stats.html`` (self-contained), the pictures in it, and ``stats.json``.

    Args:
        root: What ``lightning-tl render`` wrote, a folder or URL, or one of its splits.
        out: Folder to write to.
        count: Images on a contact sheet.

    Returns:
        The page.
    """
    from lightning_tl import page as html
    from lightning_tl.data.preview import contact_sheet
    from lightning_tl.inspection.histograms import class_figure, histogram_figure

    splits = [RenderedImages(folder) for folder in split_folders(root)]
    found = {images.manifest.split: statistics(images) for images in splits}
    out.mkdir(parents=True, exist_ok=True)
    class_figure(found, out / "classes.png")
    histogram_figure(found, out / "histograms.png")
    for images in splits:
        contact_sheet(images, count).save(out / f"sheet_{images.manifest.split}.png")
    write(out / "stats.json", json.dumps({split: each.summary() for split, each in found.items()}, indent=2))

    head = ["split", "images", "objects", "objects an image", "brightness", "contrast", "box side / image side"]
    rows = [
        [
            split,
            each.images,
            sum(each.classes.values()),
            *(_spread(values) for values in (each.per_image, each.brightness, each.contrast, each.sides)),
        ]
        for split, each in found.items()
    ]
    names = sorted({name for each in found.values() for name in each.classes})
    classes = html.table(
        ["category", *(f"objects in {split}" for split in found)],
        [[name, *(each.classes[name] for each in found.values())] for name in names],
        "all",
    )
    body = [
        html.paragraphs([_answer(split, each) for split, each in found.items()]),
        html.table(head, rows),
        html.heading("Classes"),
        html.figure(out / "classes.png", "Objects of each category."),
        html.details(f"{len(names)} categories", classes),
        html.heading("Sizes, numbers, brightness"),
        html.figure(out / "histograms.png", "Share of the objects or images of each split."),
        html.heading("Images"),
        *(html.figure(out / f"sheet_{split}.png", f"{split}: colours with boxes, masks, normals") for split in found),
    ]
    write(out / "stats.html", html.page(f"What {Path(root).name} shows", body))
    return out / "stats.html"


def _spread(values: list[float] | list[int]) -> str:
    return f"{np.mean(values):.3g} ± {np.std(values):.2g}" if values else ""


def _answer(split: str, found: SplitStats) -> str:
    counts = sorted(found.classes.values())
    absent = sum(count == 0 for count in counts)
    return (
        f"{split}: {found.images} images with {sum(counts)} objects of {len(counts) - absent} categories"
        + (f" ({absent} of {len(counts)} are in no image)" if absent else "")
        + (f", {counts[0]} to {counts[-1]} objects each." if counts else ".")
    )
