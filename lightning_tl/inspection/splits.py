"""Finding the splits of a data set."""

from __future__ import annotations

from pathlib import Path

from lightning_tl._io.folders import read_file
from lightning_tl._io.urls import Url, to_place
from lightning_tl.data.rendered_images import read_manifest

SPLITS = ("train", "val")


def split_folders(root: str | Path) -> list[Path | Url]:
    """Return the splits in ``root`` (``train``, then ``val``), or ``root`` itself if it is one.

    Args:
        root: A folder, or the URL of one on a store that fsspec supports.

    Raises:
        UserError: Neither exists, or the store cannot be used or reached.
    """
    folder = to_place(root)
    if _exists(folder / "manifest.json"):
        return [folder]
    folders = [
        folder / name
        for name in SPLITS
        if (_exists(folder / name / "manifest.json") if isinstance(folder, Url) else (folder / name).is_dir())
    ]
    if not folders:
        read_manifest(folder / "train")  # says what is missing
    return folders


def _exists(file: Path | Url) -> bool:
    return read_file(file) is not None
