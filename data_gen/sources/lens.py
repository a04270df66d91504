"""A camera's intrinsics from a file, in units of the image's width."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from data_gen.render_config import ImageConfig
from lightning_tl.errors import UserError

_KEYS = ("fx", "fy", "cx", "cy", "width", "height")


@dataclass(frozen=True)
class Lens:
    """Intrinsics for any size of image of the same shape, all in widths of the image.

    Attributes:
        fx: focal length along the lines.
        fy: focal length along the columns.
        x: how far right of the middle the principal point lies.
        y: how far below it.
    """

    fx: float
    fy: float
    x: float = 0.0
    y: float = 0.0


def read_lens(path: Path, image: ImageConfig) -> Lens:
    """Read a ``camera.json`` of BOP's format (pixels, pixel centres at whole numbers).

    Args:
        path: path of the file.
        image: image settings; their shape must be that of the file's camera.

    Raises:
        UserError: the file cannot be read, a key is missing or wrong, or the images have another shape.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"'camera.intrinsics': cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path}: is not valid JSON ({error})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: should hold keys and values: {', '.join(_KEYS)}")
    numbers = {}
    for key in _KEYS:
        value = values.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise UserError(f"{path}: '{key}' is {'missing' if key not in values else repr(value)}; a number is needed")
        if value <= 0 and key not in ("cx", "cy"):
            raise UserError(f"{path}: '{key}' is {value}, but must be above 0 (pixels)")
        numbers[key] = float(value)
    width, height = numbers["width"], numbers["height"]
    rows, columns = image.shape
    expected = columns * height / width
    if abs(rows - expected) > 1:
        raise UserError(
            f"{path}: is for images of {width:g} × {height:g}, the render is {columns} × {rows}: "
            f"set 'image.height' to {round(expected)}"
        )
    fov = 2 * math.degrees(math.atan(width / 2 / numbers["fx"]))
    if not 5 <= fov <= 150:
        raise UserError(
            f"{path}: 'fx' {numbers['fx']:g} at a width of {width:g} is a field of view of {fov:.1f}°, "
            "but 5° to 150° can be rendered"
        )
    return Lens(
        numbers["fx"] / width,
        numbers["fy"] / width,
        (numbers["cx"] - (width - 1) / 2) / width,
        (numbers["cy"] - (height - 1) / 2) / width,
    )
