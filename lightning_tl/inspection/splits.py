"""Which splits a folder of renders has."""

from __future__ import annotations

from pathlib import Path

from lightning_tl.data.remote import Url, read
from lightning_tl.data.shards import read_manifest

SPLITS = ("train", "val")


def split_folders(root: Path) -> list[Path]:
    """Return the splits in ``root`` (``train``, then ``val``), or ``root`` itself where it is one.

    Raises:
        UserError: Neither.
    """
    if (root / "manifest.json").is_file():
        return [root]
    found = [root / name for name in SPLITS if (root / name).is_dir()]
    if not found:
        read_manifest(root / "train")  # says what is missing
    return found


def split_urls(root: Url) -> list[Url]:
    """Return the same of a data set on a store.

    Raises:
        UserError: No splits there, or the store cannot be used or reached.
    """
    for places in ([root], [root / name for name in SPLITS]):
        found = [url for url in places if read(url / "manifest.json") is not None]
        if found:
            return found
    read_manifest(root / "train")  # says what is missing
    return []
