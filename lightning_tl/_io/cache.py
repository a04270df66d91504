"""The folder of files that can be made or fetched again."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "LIGHTNING_TL_CACHE"


def cache_folder() -> Path:
    """Return the cache folder: ``$LIGHTNING_TL_CACHE``, else ``~/.cache/lightning_tl``."""
    folder = os.environ.get(CACHE_VARIABLE)
    return Path(folder) if folder else Path.home() / ".cache" / "lightning_tl"
