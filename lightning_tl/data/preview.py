"""Contact sheets of rendered data: colours with boxes, masks and normals side by side."""

from __future__ import annotations

import colorsys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw

from lightning_tl.data.rendered_images import RenderedImages

_GAP, _TEXT, _SWATCH = 4, 12, 11


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
        draw.rectangle((x, y, x + w - 1, y + h - 1), outline=category_color(thing["category"]))
    return tile


def _caption(images: RenderedImages, index: int, width: int) -> list[list[tuple[int, int, str]]]:
    """Return an image's key and the names of its categories in lines: x, category (0: the key), text.

    The names stand outside the image: on it they would hide small objects.
    """
    counts = Counter(thing["category"] for thing in images.labels(index)["objects"])
    texts = [(0, images.member(index, "json")[0])]
    for category, count in sorted(counts.items()):
        name = images.manifest.categories.get(category, "?")
        texts.append((category, name if count == 1 else f"{name} ({count})"))
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    lines: list[list[tuple[int, int, str]]] = [[]]
    x = 0
    for category, text in texts:
        wide = round(draw.textlength(text)) + (_SWATCH if category else 0)
        if lines[-1] and x + wide > width:
            lines.append([])
            x = 0
        lines[-1].append((x, category, text))
        x += wide + 2 * _GAP
    return lines


def free_place(
    size: tuple[float, float],
    box: tuple[float, ...],
    picture: tuple[int, int],
    taken: Sequence[tuple[float, ...]],
    others: Sequence[tuple[float, ...]] = (),
) -> tuple[float, float]:
    """Return where to write a name beside a box: where it hides as little as possible.

    Args:
        size: Width and height of the name.
        box: Left, top, right, bottom.
        picture: Width and height of the picture; the name stays inside.
        taken: Boxes of the names written so far; to hide one of these is worst.
        others: Boxes of all objects.
    """
    (width, height), (left, top, right, bottom) = size, box
    tries = [(left, top - height), (left, bottom), (right - width, top - height), (right - width, bottom)]
    tries += [(right, top), (left - width, top), (right, bottom - height), (left - width, bottom - height)]
    tries += [(left, top), (left, bottom - height)]  # inside, where nothing else is free
    inside = [
        (min(max(0.0, x), max(0.0, picture[0] - width)), min(max(0.0, y), max(0.0, picture[1] - height)))
        for x, y in tries
    ]

    def hidden(at: tuple[float, float]) -> float:
        here = (at[0], at[1], at[0] + width, at[1] + height)
        return 4 * sum(_overlap(here, other) for other in taken) + sum(_overlap(here, other) for other in others)

    return min(inside, key=hidden)


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _masks(images: RenderedImages, index: int, side: int) -> Image.Image:
    instances = images.instance(index)
    colors = np.array([(40, 40, 40), *(category_color(i) for i in range(1, int(instances.max()) + 1))], np.uint8)
    return _enlarge(colors[instances], side)


def _normals(images: RenderedImages, index: int, side: int) -> Image.Image:
    return _enlarge(images.normal(index), side)


def contact_sheet(images: RenderedImages, count: int = 24, side: int = 128, columns: int = 4) -> Image.Image:
    """Return a contact sheet of images spread evenly over a data set: colours with boxes, instance masks, normals.

    Args:
        images: Images to show.
        count: Number of images.
        side: Longer side of a tile in pixels.
        columns: Images in a row.
    """
    panels: tuple[Callable[[RenderedImages, int, int], Image.Image], ...] = (_boxes, _masks, _normals)
    chosen = np.unique(np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int))
    columns = max(1, min(columns, len(chosen)))
    rows = -(-len(chosen) // columns)
    rows_of_pixels, columns_of_pixels = images.manifest.image_size
    across, down = _scaled(columns_of_pixels, rows_of_pixels, side)
    width = len(panels) * (across + 1) + _GAP
    captions = [_caption(images, index, width - _GAP) for index in chosen.tolist()]
    above = _TEXT * max(map(len, captions), default=1)
    height = down + above + _GAP
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    for place, index in enumerate(chosen.tolist()):
        x, y = place % columns * width, place // columns * height
        for line, parts in enumerate(captions[place]):
            for at, category, text in parts:
                _write(draw, (x + at, y + line * _TEXT), category, text)
        for number, panel in enumerate(panels):
            sheet.paste(panel(images, index, side), (x + number * (across + 1), y + above))
    return sheet


def _write(draw: ImageDraw.ImageDraw, at: tuple[int, int], category: int, text: str) -> None:
    x, y = at
    if category:
        draw.rectangle((x, y + 2, x + _SWATCH - 4, y + _TEXT - 3), fill=category_color(category))
        x += _SWATCH
    draw.text((x, y), text, fill="black")


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
