"""Types and ranges of a rendered image's labels, the JSON in its shard."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from lightning_tl.errors import shortened

LABEL_KEYS = ("scene", "view", "size", "labels", "objects", "camera")
OBJECT_KEYS = ("instance", "category", "name", "bbox", "area", "visible_fraction")
_MOST = 2**31 - 1


def _whole(value: Any, count: int | None = None) -> bool:
    if count is not None:
        return isinstance(value, list) and len(value) == count and all(map(_whole, value))
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST


def label_problems(labels: Any) -> Iterator[str]:
    """Yield what is wrong with the types and ranges of an image's labels, the first thing first.

    Args:
        labels: Content of the JSON. After a problem the rest may raise ``KeyError``: ask for the first only.
    """
    if not isinstance(labels, dict):
        yield f"a {type(labels).__name__}, not an object"
        return
    yield from (f"no key '{key}'" for key in LABEL_KEYS if key not in labels)
    for key, numbers in (("scene", None), ("view", None), ("size", 2)):
        if not _whole(labels[key], numbers) or (numbers and 0 in labels[key]):
            yield f"{key} is {_said(labels[key])}"
    for key in ("labels", "objects"):
        if not isinstance(labels[key], list):
            yield f"{key} is {_said(labels[key])}, not a list"
    if not all(map(_whole, labels["labels"])):
        yield f"labels are {_said(labels['labels'])}, not category ids"
    for number, thing in enumerate(labels["objects"]):
        at = f"objects[{number}]"
        if not isinstance(thing, dict):
            yield f"{at} is {_said(thing)}"
        yield from (f"{at} has no key '{key}'" for key in OBJECT_KEYS if key not in thing)
        for key in ("instance", "category", "area"):
            if not _whole(thing[key]):
                yield f"{at}.{key} is {_said(thing[key])}"
        if not _whole(thing["bbox"], 4):
            yield f"{at}.bbox is {_said(thing['bbox'])}, not four whole numbers"
        fraction = thing["visible_fraction"]
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not _finite(fraction):
            yield f"{at}.visible_fraction is {_said(fraction)}"


def _finite(value: float) -> bool:
    return abs(value) <= _MOST and math.isfinite(value)


def _said(value: Any) -> str:
    return shortened(repr(value))
