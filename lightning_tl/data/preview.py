"""Contact sheets of rendered data: colours with boxes, masks and normals side by side."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Iterable

import numpy as np
from PIL import Image, ImageDraw

from lightning_tl.data.rendered_images import RenderedImages

_GAP, _TEXT = 4, 12


def category_color(number: int) -> tuple[int, int, int]:
    """Return a colour for a category or instance id; neighbours differ."""
    hue = number * 0.618034 % 1.0  # the golden ratio spreads any run of ids over the circle
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.65, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def _enlarge(pixels: np.ndarray, side: int) -> Image.Image:
    image = Image.fromarray(pixels)
    return image.resize(_scaled(*image.size, side), Image.Resampling.NEAREST)


def _scaled(width: int, height: int, side: int) -> tuple[int, int]:
    """Return width and height of a tile whose longer side is ``side``."""
    scale = side / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _boxes(images: RenderedImages, index: int, side: int) -> Image.Image:
    tile = _enlarge(images.rgb(index), side)
    draw = ImageDraw.Draw(tile)
    labels = images.labels(index)
    scale = side / max(labels["size"])
    for thing in labels["objects"]:
        x, y, w, h = (value * scale for value in thing["bbox"])
        color = category_color(thing["category"])
        draw.rectangle((x, y, x + w - 1, y + h - 1), outline=color)
        name = images.manifest.categories.get(thing["category"], "?")
        label_beside(draw, (x, y, x + w, y + h), name, color, tile.size)
    return tile


def label_beside(
    draw: ImageDraw.ImageDraw, box: tuple[float, ...], text: str, color: tuple[int, int, int], size: tuple[int, int]
) -> None:
    """Write a name above a box, or below it where there is no room, so that it hides nothing of the object.

    Args:
        draw: Of the picture.
        box: Left, top, right, bottom.
        text: The name.
        color: Behind the name.
        size: Width and height of the picture.
    """
    left, top, _, bottom = box
    width, height = (round(value) for value in draw.textbbox((0, 0), text)[2:])
    x = min(max(0.0, left), max(0.0, size[0] - width - 2.0))
    y = top - height - 2 if top - height - 2 >= 0 else min(bottom + 1, size[1] - height - 2.0)
    draw.rectangle((x, y, x + width + 1, y + height + 1), fill=color)
    draw.text((x + 1, y), text, fill="black")


def _masks(images: RenderedImages, index: int, side: int) -> Image.Image:
    instances = images.instance(index)
    colors = np.array([(40, 40, 40), *(category_color(i) for i in range(1, int(instances.max()) + 1))], np.uint8)
    return _enlarge(colors[instances], side)


def _normals(images: RenderedImages, index: int, side: int) -> Image.Image:
    return _enlarge(images.normal(index), side)


def contact_sheet(images: RenderedImages, count: int = 24, side: int = 128) -> Image.Image:
    """Return a contact sheet of images spread evenly over a data set: colours with boxes, instance masks, normals.

    Args:
        images: Images to show.
        count: Number of images.
        side: Longer side of a tile in pixels.
    """
    panels: tuple[Callable[[RenderedImages, int, int], Image.Image], ...] = (_boxes, _masks, _normals)
    chosen = np.unique(np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int))
    columns = max(1, min(4, len(chosen)))
    rows = -(-len(chosen) // columns)
    rows_of_pixels, columns_of_pixels = images.manifest.image_size
    across, down = _scaled(columns_of_pixels, rows_of_pixels, side)
    width, height = len(panels) * (across + 1) + _GAP, down + _TEXT + _GAP
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    for place, index in enumerate(chosen.tolist()):
        x, y = place % columns * width, place // columns * height
        draw.text((x, y), images.member(index, "json")[0], fill="black")
        for number, panel in enumerate(panels):
            sheet.paste(panel(images, index, side), (x + number * (across + 1), y + _TEXT))
    return sheet


def image_grid(images: Iterable[np.ndarray], columns: int, side: int = 48) -> Image.Image:
    """Return images as one picture, row by row.

    Args:
        images: Each uint8 ``[H, W]`` or ``[H, W, 3]``.
        columns: Images in a row.
        side: Longer side of a tile in pixels.
    """
    tiles = [_enlarge(image, side) for image in images]
    rows = -(-len(tiles) // columns)
    width, height = (max(tile.size[axis] for tile in tiles) + 1 for axis in (0, 1))
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    for place, tile in enumerate(tiles):
        sheet.paste(tile.convert("RGB"), (place % columns * width, place // columns * height))
    return sheet


def visible_pixels(image: np.ndarray) -> np.ndarray:
    """Return a standardised image ``[C, H, W]`` as uint8 ``[H, W]`` or ``[H, W, 3]``, scaled to the full range."""
    low, high = float(image.min()), float(image.max())
    scaled = np.round(255 * (image - low) / max(high - low, 1e-9)).astype(np.uint8)
    return scaled[0] if len(scaled) == 1 else scaled[:3].transpose(1, 2, 0)
