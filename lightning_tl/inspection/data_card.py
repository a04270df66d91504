"""The data card of an exported data set: a README.md with the header that the Hugging Face Hub reads."""

from __future__ import annotations

from pathlib import Path

import yaml

from lightning_tl._io.atomic import write_atomically
from lightning_tl.data.rendered_images import RenderedImages
from lightning_tl.markdown import code, escaped, table

#: Names of splits on the Hub.
_SPLITS = {"val": "validation"}
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))
_TASKS = {
    "parquet": ["object-detection", "image-segmentation", "image-classification"],
    "imagefolder": ["image-classification"],
}
_FILES = {"parquet": "data/{split}-*.parquet", "imagefolder": "{split}/**"}


def write_data_card(splits: list[RenderedImages], out: Path, form: str, license: str | None = None) -> None:
    """Write ``README.md``: licence where it is given, number of images, categories, how the images were made.

    Args:
        splits: The data set.
        out: Folder of the export.
        form: ``parquet`` or ``imagefolder``.
        license: Identifier of the licence, as ``cc-by-4.0``.
    """
    total = sum(map(len, splits))
    first = splits[0].manifest
    header = {
        "license": license,
        "task_categories": _TASKS[form],
        "size_categories": [next((name for most, name in _SIZES if total < most), "n>1M")],
        "tags": ["synthetic", "lightning-tl"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [
                    {
                        "split": _SPLITS.get(images.manifest.split, images.manifest.split),
                        "path": _FILES[form].format(split=images.manifest.split),
                    }
                    for images in splits
                ],
            }
        ],
    }
    height, width = first.image_size
    rows = [[_SPLITS.get(images.manifest.split, images.manifest.split), len(images)] for images in splits]
    parts = [
        "# Rendered images",
        f"Synthetic images of {width} x {height} px with labels, rendered by lightning-tl.",
        "## Images\n\n" + table(("split", "images"), rows),
        "## Categories\n\n"
        + table(
            ("number", "id in masks", "name"), [[i, n, first.categories[n]] for i, n in enumerate(first.categories)]
        ),
    ]
    made = _how_made(splits)
    parts += [f"## How they were made\n\n{made}"] if made else []
    parts += [] if license else ["No licence was given with this export."]
    text = yaml.safe_dump({key: value for key, value in header.items() if value}, sort_keys=False, allow_unicode=True)
    write_atomically(out / "README.md", f"---\n{text}---\n\n" + "\n\n".join(parts) + "\n")


def _how_made(splits: list[RenderedImages]) -> str:
    """Return configuration, seeds and versions, as far as the manifests have them."""
    known = {key: value for key, value in splits[0].manifest.made.items() if value not in (None, {}, [])}
    if not known:
        return ""
    text = yaml.safe_dump(known, sort_keys=False, allow_unicode=True)
    return escaped("The same configuration and seed render the same images:") + "\n\n" + code(text, "yaml")
