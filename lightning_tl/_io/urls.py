"""Places: folders of this machine, and URLs on stores that fsspec supports (``s3://bucket/set``)."""

from __future__ import annotations

import re
from pathlib import Path

_PROTOCOL = re.compile(r"([a-z][a-z0-9+.-]+)://")


class Url(str):
    """A place on a store; ``/`` joins as it does for a path."""

    def __truediv__(self, name: str) -> Url:
        return Url(f"{self.rstrip('/')}/{name}")


def is_url(place: str | Path) -> bool:
    """Return whether a place is a URL, and not a path of this machine (``file://`` is one)."""
    return isinstance(place, str) and _PROTOCOL.match(place) is not None and not place.startswith("file://")


def to_place(place: str | Path) -> Path | Url:
    """Return a URL as :class:`Url`, and anything else as a path of this machine."""
    if isinstance(place, Path):
        return place
    return Url(place) if is_url(place) else Path(place.removeprefix("file://"))
