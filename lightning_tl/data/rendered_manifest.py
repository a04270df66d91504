"""Types, ranges and names in the manifest of a rendered split."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from lightning_tl._io.files import is_file_name
from lightning_tl.errors import shortened

_SHARD = re.compile(r"\d{6,12}(\.tar)?")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MOST = 65535  # ids and sides: masks have 16 bits


def manifest_problems(content: Any) -> Iterator[str]:
    """Yield what is wrong with the parts of a manifest that readers use, the first thing first.

    Names become parts of paths in exports, so they must be plain names. After a problem the rest may raise
    ``TypeError``: ask for the first only.

    Args:
        content: Content of ``manifest.json``.
    """
    for key in ("split", "categories", "image_size", "shards"):
        if key not in content:
            yield f"KeyError: '{key}'"
    if not is_file_name(content["split"]):
        yield f"split is {_said(content['split'])}, no plain name"
    yield from _categories(content["categories"])
    size = content["image_size"]
    if not isinstance(size, list) or len(size) != 2 or not all(_whole(side, 1, _MOST) for side in size):
        yield f"image_size is {_said(size)}, not [height, width]"
    if not isinstance(content["shards"], list):
        yield f"shards is {_said(content['shards'])}, not a list"
    for place, shard in enumerate(content["shards"]):
        at = f"shards[{place}]"
        if not isinstance(shard, dict):
            yield f"{at} is {_said(shard)}"
        for key in ("name", "images", "sha256"):
            if key not in shard:
                yield f"{at}: KeyError: '{key}'"
        if not isinstance(shard["name"], str) or not _SHARD.fullmatch(shard["name"]):
            yield f"{at}.name is {_said(shard['name'])}, not such as 000000.tar"
        if not _whole(shard["images"], 0, 10**7):
            yield f"{at}.images is {_said(shard['images'])}, no number of images"
        if not isinstance(shard["sha256"], str):
            yield f"{at}.sha256 is {_said(shard['sha256'])}, no SHA-256"


def _categories(categories: Any) -> Iterator[str]:
    if not isinstance(categories, dict) or not categories:
        yield f"categories is {_said(categories)}, not names by id"
    for number, name in categories.items():
        if not number.isascii() or not number.isdecimal() or str(int(number[:9])) != number or int(number) > _MOST:
            yield f"a category has the id {_said(number)}; ids are 1 to {_MOST}"
        if number == "0":
            yield "a category has the id 0, which is the background's"
        if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > 200:
            yield f"category {number} is called {_said(name)}; a name is a text"


def _whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _said(value: Any) -> str:
    return shortened(repr(value))
