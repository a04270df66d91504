"""Opening and decoding images, with errors that name the file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lightning_tl.data.geometry import Geometry
from lightning_tl.errors import UserError

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}


def open_image(file: Path | bytes, name: str) -> Image.Image:
    """Open an image: its header is read, its pixels are not.

    Args:
        file: Path or content.
        name: For messages.

    Raises:
        UserError: No such file, or no image.
    """
    try:
        return Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)
    except FileNotFoundError:
        raise UserError(f"{name}: no such file") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise undecodable(name, error) from None


def undecodable(name: str, error: Exception) -> UserError:
    """Return the error of an image that is damaged."""
    return UserError(f"{name}: cannot be decoded ({error}): replace it, or leave such images out by on_error: skip")


def pixels(image: Image.Image, geometry: Geometry, name: str) -> Tensor:
    """Decode colours: uint8 ``[3, H, W]``, no smaller than the plan needs, with the plan applied.

    Raises:
        UserError: The image is damaged.
    """
    height, width = geometry.decode_size
    try:
        image.draft("RGB", (width, height))  # a JPEG is decoded to half, a quarter or an eighth where that is enough
        array = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise undecodable(name, error) from None
    return geometry.image(torch.from_numpy(array).permute(2, 0, 1))


def mask(image: Image.Image, name: str) -> np.ndarray:
    """Decode a mask of integers: ``[H, W]``; a palette's indices stay what they are.

    Raises:
        UserError: The image is damaged, or has colours.
    """
    try:
        array = np.array(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise undecodable(name, error) from None
    if array.ndim != 2 or array.dtype.kind not in "uib":
        raise UserError(
            f"{name}: a mask has one integer a pixel, this has mode {image.mode}: save it as 8-bit greyscale PNG"
        )
    return array
