"""`lightning-tl dataset stats`: a rendered data set's statistics and images on one page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from lightning_tl import html_page as html
from lightning_tl._io.atomic import write_atomically
from lightning_tl.data.preview import contact_sheet
from lightning_tl.data.rendered_images import RenderedImages
from lightning_tl.figure_style import narrow_figures, narrow_path
from lightning_tl.inspection.split_statistics import SplitStats, split_statistics
from lightning_tl.inspection.splits import split_folders
from lightning_tl.inspection.statistics_figures import class_figure, histogram_figure

_NARROW_COUNT = 8  # images on a contact sheet for narrow screens, one below the other
_MEANING = (
    "Mean ± standard deviation over images or objects. Brightness and its standard deviation in an image "
    "(contrast) are on a scale of 0 to 255. The side of a box is that of a square of its area, as a share of "
    "the image's."
)


def write_statistics(root: str | Path, out: Path, count: int = 24) -> Path:
    """Write ``stats.html`` (self-contained), the pictures in it, and ``stats.json``.

    Args:
        root: What ``lightning-tl render`` wrote, a folder or URL, or one of its splits.
        out: Folder to write to.
        count: Number of images on a contact sheet.

    Returns:
        Path of the page.
    """
    splits = [RenderedImages(folder) for folder in split_folders(root)]
    statistics = {images.manifest.split: split_statistics(images) for images in splits}
    out.mkdir(parents=True, exist_ok=True)
    figures = {"classes.png": class_figure, "histograms.png": histogram_figure}
    for name, draw in figures.items():
        draw(statistics, out / name)
        with narrow_figures():
            draw(statistics, narrow_path(out / name))
    for images in splits:
        sheet = out / f"sheet_{images.manifest.split}.png"
        contact_sheet(images, count).save(sheet)
        contact_sheet(images, min(count, _NARROW_COUNT), columns=1).save(narrow_path(sheet))
    write_atomically(
        out / "stats.json", json.dumps({split: each.summary() for split, each in statistics.items()}, indent=2)
    )

    head = ["split", "images", "objects", "objects per image", "brightness", "contrast", "side of a box"]
    rows = [
        [
            split,
            each.images,
            sum(each.classes.values()),
            *(_spread(values) for values in (each.per_image, each.brightness, each.contrast, each.sides)),
        ]
        for split, each in statistics.items()
    ]
    names = sorted({name for each in statistics.values() for name in each.classes})
    classes = html.table(
        ["category", *(f"objects in {split}" for split in statistics)],
        [[name, *(each.classes[name] for each in statistics.values())] for name in names],
        "all",
    )
    body = [
        html.paragraphs([_answer(split, each) for split, each in statistics.items()]),
        html.table(head, rows, "words"),
        html.paragraphs([_MEANING], "soft"),
        html.heading("Classes"),
        html.figure(out / "classes.png", "Objects of each category."),
        html.details(f"{len(names)} categories", classes),
        html.heading("Sizes, numbers, brightness"),
        html.figure(out / "histograms.png", "Share of the objects or images of each split."),
        html.heading("Images"),
        *(
            html.figure(out / f"sheet_{split}.png", f"{split}: colours with boxes, masks, normals")
            for split in statistics
        ),
    ]
    write_atomically(out / "stats.html", html.page(f"What {Path(root).name} shows", body))
    return out / "stats.html"


def _spread(values: list[float] | list[int]) -> str:
    return f"{np.mean(values):.3g} ± {np.std(values):.2g}" if values else ""


def _answer(split: str, statistics: SplitStats) -> str:
    counts = sorted(statistics.classes.values())
    absent = sum(count == 0 for count in counts)
    return (
        f"{split}: {statistics.images} images with {sum(counts)} objects of {len(counts) - absent} categories"
        + (f" ({absent} of {len(counts)} are in no image)" if absent else "")
        + (f"; a category has {counts[0]} to {counts[-1]} of them." if counts else ".")
    )
