"""Opening and decoding images, with errors that name the file."""

from __future__ import annotations

import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from lightning_tl._io.files import check_regular
from lightning_tl.errors import UserError, shortened

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
# Pillow's exceptions for files that it cannot read; a broken PNG is a SyntaxError
_IN_MEMORY = re.compile(r"(image file )?<_io\.BytesIO object at 0x[0-9a-f]+>")
_DAMAGED = (
    *(OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, EOFError),
    *(NotImplementedError, MemoryError, RuntimeError, struct.error, zlib.error, Image.DecompressionBombError),
)


class Undecodable(UserError):
    """A damaged image.

    Args:
        name: Name of the image.
        reason: Message of the decoder.
    """

    def __init__(self, name: str, reason: Exception) -> None:
        text = _IN_MEMORY.sub("it", " ".join(str(reason).split())) or type(reason).__name__
        super().__init__(f"{name}: cannot be decoded ({shortened(text)})")
        self.reason = reason


def existing_folder(root: str | Path) -> Path:
    """Return ``data.root`` as a path.

    Raises:
        UserError: There is no such folder; a relative one is looked for in the current folder.
    """
    path = Path(root)
    if not path.is_dir():
        what = "a file, not a folder" if path.exists() else "no such folder"
        where = "" if path.is_absolute() else f" in {Path.cwd()}, where the command runs"
        raise UserError(f"data.root is {root}: {what}{where}")
    return path


def open_image(file: Path | bytes, name: str) -> Image.Image:
    """Open an image: its header is decoded, its pixels are not.

    Args:
        file: Path or content.
        name: Name of the image, for messages.

    Raises:
        UserError: No such file, or a pipe, a device or a folder.
        Undecodable: The file is not an image.
    """
    if isinstance(file, Path):
        check_regular(file, name)
    try:
        return Image.open(io.BytesIO(file if isinstance(file, bytes) else file.read_bytes()))
    except _DAMAGED as error:
        raise Undecodable(name, error) from None


def decode(image: Image.Image, name: str, at_least: tuple[int, int] | None = None) -> np.ndarray:
    """Decode colours: uint8 ``[H, W, 3]``.

    Args:
        image: As ``open_image`` gives it.
        name: Name of the image, for messages.
        at_least: Sufficient height and width. A JPEG is then decoded to a half, a quarter or an eighth if that is no
            smaller, in a fraction of the time.

    Raises:
        Undecodable: The image is damaged.
    """
    height, width = at_least or (image.height, image.width)
    whole = min(image.height // max(1, height), image.width // max(1, width)) < 2
    if whole and image.format == "JPEG" and image.mode in ("RGB", "L"):
        pixels = _jpeg(image)
        if pixels is not None:
            return pixels
    try:
        image.draft("RGB", (width, height))
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except _DAMAGED as error:
        raise Undecodable(name, error) from None


def _jpeg(image: Image.Image) -> np.ndarray | None:
    """Decode by torchvision: the same pixels in about four fifths of the time. ``None`` if it cannot.

    Its PNG decoder is quicker too, but a damaged file ends the process.
    """
    file = getattr(image, "fp", None)
    if not isinstance(file, io.BytesIO):
        return None
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    try:
        content = torch.frombuffer(bytearray(file.getbuffer()), dtype=torch.uint8)
        return np.asarray(decode_jpeg(content, mode=ImageReadMode.RGB).permute(1, 2, 0))
    except RuntimeError:
        return None  # Pillow reads more formats, or says what is wrong


def mask(image: Image.Image, name: str) -> np.ndarray:
    """Decode a mask of integers: ``[H, W]``; a palette's indices stay what they are.

    Raises:
        Undecodable: The image is damaged.
        UserError: The mask has colours.
    """
    try:
        array = np.array(image)
    except _DAMAGED as error:
        raise Undecodable(name, error) from None
    if array.ndim != 2 or array.dtype.kind not in "uib":
        raise UserError(
            f"{name}: a mask has one integer a pixel, this has mode {image.mode}: save it as 8-bit greyscale PNG"
        )
    return array
