"""Which splits a data set has."""

from __future__ import annotations

from pathlib import Path

from lightning_tl.data.rendered_images import read_manifest
from lightning_tl.data.shard_cache import Url, place, read

SPLITS = ("train", "val")


def split_folders(root: str | Path) -> list[Path | Url]:
    """Return the splits in ``root`` (``train``, then ``val``), or ``root`` itself where it is one.

    Args:
        root: A folder, or the URL of one on a store that fsspec reaches.

    Raises:
        UserError: Neither is there, or the store cannot be used or reached.
    """
    folder = place(root)
    if _exists(folder / "manifest.json"):
        return [folder]
    found = [
        folder / name
        for name in SPLITS
        if (_exists(folder / name / "manifest.json") if isinstance(folder, Url) else (folder / name).is_dir())
    ]
    if not found:
        read_manifest(folder / "train")  # says what is missing
    return found


def _exists(file: Path | Url) -> bool:
    return read(file) is not None if isinstance(file, Url) else file.is_file()
