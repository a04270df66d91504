"""Checks of one rendered image: its members against each other and against the manifest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from lightning_tl._io.json_text import parse_json
from lightning_tl.data.rendered_labels import label_problems
from lightning_tl.inspection.members import colours, pixels

THUMBNAIL = 16
#: a channel's range up to which an image counts as of a single colour
_FLAT = 2
# 8 bits a component leave the length within 0.7 % of 1
_LENGTH = 0.03
# interpolated normals turn a little away at a silhouette
_AWAY, _AWAY_SHARE = -0.25, 0.02
_NO_NORMAL = 128
_IDENTITY = np.eye(3)
_COMPONENT = (np.arange(256) / 127.5 - 1).astype(np.float32)

Say = Callable[[str, str], None]


@dataclass(frozen=True)
class Expected:
    """Properties that the manifest gives for every image.

    Attributes:
        size: Height and width, pixels.
        categories: id → name.
    """

    size: tuple[int, int]
    categories: dict[int, str]


@dataclass
class Seen:
    """Data of an image for the checks of the whole set.

    Attributes:
        thumbnail: uint8 ``[THUMBNAIL, THUMBNAIL, 3]``, or ``None`` if it cannot be decoded.
        objects: Category ids, one per object.
    """

    thumbnail: np.ndarray | None
    objects: list[int]


def check_image(key: str, parts: dict[str, bytes], expected: Expected, say: Say) -> Seen:
    """Check one image's members.

    Args:
        key: ``<scene>-<view>``.
        parts: Extension → content.
        expected: Properties from the manifest.
        say: Called with a fault's code and detail.
    """
    for name in ("category.png", "instance.png", "normal.png", "json"):
        if name not in parts:
            say("member-missing", f"no {key}.{name}")
    thumbnail = _colours(key, parts, expected, say)
    labels = _labels(key, parts["json"], expected, say) if "json" in parts else None
    masks = {}
    for name, dimensions in (("category", 2), ("instance", 2), ("normal", 3), ("depth", 2)):
        mask = _pixels(f"{key}.{name}.png", parts.get(f"{name}.png"), dimensions, expected, say)
        if mask is not None:
            masks[name] = mask
    if labels is None:
        return Seen(thumbnail, [])
    camera = _camera(labels["camera"], say)
    if "normal" in masks:
        _normals(masks["normal"], masks.get("instance"), camera, say)
    if "instance" in masks:
        _objects(masks["instance"], masks.get("category"), labels["objects"], say)
        if "depth" in masks and camera is not None:
            _standing(masks["instance"], masks["depth"], labels["objects"], camera, say)
    _visibility(labels["objects"], expected, say)
    if not labels["objects"]:
        say("no-object", "no object is listed")
    return Seen(thumbnail, [thing["category"] for thing in labels["objects"]])


def _colours(key: str, parts: dict[str, bytes], expected: Expected, say: Say) -> np.ndarray | None:
    name = next((name for name in ("rgb.png", "rgb.jpg") if name in parts), None)
    if name is None:
        say("member-missing", f"no {key}.rgb.png or {key}.rgb.jpg")
        return None
    try:
        size, reduced = colours(parts[name], 128)
    except (OSError, SyntaxError, ValueError) as error:
        say("undecodable", f"{key}.{name}: {error}")
        return None
    if size != expected.size:
        say("size", f"{key}.{name} is {size[0]} x {size[1]}, not {_by(expected.size)}")
    thumbnail = np.asarray(Image.fromarray(reduced).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))
    # means vary no more than pixels do, and are fewer
    if _range(thumbnail) <= _FLAT and _range(reduced) <= _FLAT:
        say("empty", f"{key}.{name} has one colour, about {tuple(thumbnail[0, 0].tolist())}")
    return thumbnail


def _range(image: np.ndarray) -> int:
    return int(np.ptp(image, axis=(0, 1)).max())


def _pixels(name: str, content: bytes | None, dimensions: int, expected: Expected, say: Say) -> np.ndarray | None:
    if content is None:
        return None
    try:
        array = pixels(content)
    except (OSError, SyntaxError, ValueError) as error:
        say("undecodable", f"{name}: {error}")
        return None
    if array.shape[:2] != expected.size or array.ndim != dimensions:
        say("size", f"{name} is of shape {list(array.shape)}, not {_by(expected.size)}")
        return None
    return array


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _labels(key: str, content: bytes, expected: Expected, say: Say) -> dict[str, Any] | None:
    try:
        labels = parse_json(content)
    except ValueError as error:
        say("undecodable", f"{key}.json: {error}")
        return None
    problem = next(label_problems(labels), None)
    if problem is not None:
        say("label-format", f"{key}.json: {problem}")
        return None
    if f"{labels['scene']:07d}-{labels['view']:02d}" != key:
        say("ids", f"{key}.json says scene {labels['scene']}, view {labels['view']}")
    if tuple(labels["size"]) != expected.size:
        say("size", f"{key}.json says {labels['size']}, not {list(expected.size)}")
    instances = [thing["instance"] for thing in labels["objects"]]
    if len(set(instances)) < len(instances):
        say("ids", f"{key}.json has an instance twice: {instances}")
    for thing in labels["objects"]:
        known = expected.categories.get(thing["category"])
        if known is None:
            say("unknown-category", f"instance {thing['instance']} is of category {thing['category']}")
        elif known != thing["name"]:
            said = f"'{thing['name']}', category {thing['category']} is '{known}'"
            say("unknown-category", f"instance {thing['instance']} is called {said}")
    visible = sorted({thing["category"] for thing in labels["objects"]})
    if sorted(labels["labels"]) != visible:
        say("labels", f"labels are {labels['labels']}, the objects' categories {visible}")
    return dict(labels)


def _objects(instance: np.ndarray, category: np.ndarray | None, objects: list[dict[str, Any]], say: Say) -> None:
    areas = np.bincount(instance.ravel())
    boxes = ndimage.find_objects(instance.astype(np.int32))
    lookup = np.zeros(len(areas), np.int64)
    listed = {0}
    for thing in objects:
        number = thing["instance"]
        listed.add(number)
        if number >= len(areas) or number < 1 or areas[number] == 0:
            say("no-pixels", f"instance {number} ({thing['name']}) has no pixel in the mask")
            continue
        lookup[number] = thing["category"]
        rows, columns = boxes[number - 1]
        box = [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start]
        if thing["bbox"] != box:
            say("box", f"instance {number} has the box {thing['bbox']}, its mask {box}")
        if thing["area"] != areas[number]:
            say("area", f"instance {number} has the area {thing['area']}, its mask {areas[number]}")
    for number in set(np.flatnonzero(areas).tolist()) - listed:
        say("unlisted-instance", f"instance {number} has {areas[number]} pixels and is not listed")
    if category is not None:
        wrong = lookup[instance] != category
        if wrong.any():
            there = ", ".join(map(str, np.unique(instance[wrong]).tolist()[:5]))
            say("category-mask", f"{int(wrong.sum())} pixels of instance {there} are of another category in the mask")


def _visibility(objects: list[dict[str, Any]], expected: Expected, say: Say) -> None:
    height, width = expected.size
    for thing in objects:
        fraction, (x, y, w, h) = thing["visible_fraction"], thing["bbox"]
        what = f"instance {thing['instance']} ({thing['name']}) is {fraction:.0%} visible"
        if not 0 < fraction <= 1:
            say("visible-fraction", f"instance {thing['instance']} has the visible fraction {fraction}")
        elif fraction < 0.25 and (x == 0 or y == 0 or x + w == width or y + h == height):
            say("clipped", f"{what}, its box {thing['bbox']} at the edge")
        elif fraction < 0.05:
            say("hidden", what)


@dataclass(frozen=True)
class _Camera:
    k: np.ndarray
    rotation: np.ndarray
    shift: np.ndarray


def _camera(camera: Any, say: Say) -> _Camera | None:
    try:
        k, pose = np.array(camera["K"], float), np.array(camera["world_to_camera"], float)
    except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
        say("label-format", f"camera: {type(error).__name__}: {error}")
        return None
    if k.shape != (3, 3) or pose.shape != (4, 4) or not (np.isfinite(k).all() and np.isfinite(pose).all()):
        say("camera", f"K is of shape {list(k.shape)}, world_to_camera {list(pose.shape)}, or a value is not finite")
        return None
    if k[0, 0] <= 0 or k[1, 1] <= 0 or k[2].tolist() != [0, 0, 1]:
        say("camera", f"K is {k.tolist()}: focal lengths must be above 0 and the last row 0, 0, 1")
        return None
    rotation = pose[:3, :3]
    straight = np.abs(rotation @ rotation.T - _IDENTITY).max() < 1e-3 and _determinant(rotation.tolist()) > 0
    if not straight or pose[3].tolist() != [0, 0, 0, 1]:
        say("camera", "world_to_camera is not a rotation and a shift")
        return None
    return _Camera(k, rotation, pose[:3, 3])


def _determinant(m: list[list[float]]) -> float:
    (a, b, c), (d, e, f), (g, h, i) = m
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


def _camera_rays(shape: tuple[int, ...], k: np.ndarray) -> np.ndarray:
    return _rays(shape[0], shape[1], (k[0, 0], k[1, 1], k[0, 2], k[1, 2]))[0]


@lru_cache(maxsize=8)
def _rays(height: int, width: int, k: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the points that the pixels see at distance 1 along the viewing axis (x right, y down), ``[H, W, 3]``.

    And the unit vectors from there to the camera in the normals' frame (y up, z towards the camera), ``[3, H W]``.
    """
    y, x = np.mgrid[:height, :width].astype(np.float32)
    rays = np.stack([(x - k[2]) / k[0], (y - k[3]) / k[1], np.ones_like(x)], -1)
    towards = rays / np.linalg.norm(rays, axis=-1, keepdims=True) * np.array([-1, 1, 1], np.float32)
    return rays, np.ascontiguousarray(towards.reshape(-1, 3).T)


def _normals(stored: np.ndarray, instance: np.ndarray | None, camera: _Camera | None, say: Say) -> None:
    components = stored.reshape(-1, 3).T
    present = (components[0] != _NO_NORMAL) | (components[1] != _NO_NORMAL) | (components[2] != _NO_NORMAL)
    if instance is not None:
        labelled = instance.ravel() != 0
        without = np.count_nonzero(labelled & ~present)
        # pixels on the outline, half background, may have none
        if without > 0.2 * np.count_nonzero(labelled):
            say("normal-missing", f"{without} pixels of objects have no normal")
    x, y, z = _COMPONENT[components]
    squared = x * x + y * y + z * z
    wrong = present & (np.abs(squared - 1) > 2 * _LENGTH)
    count = np.count_nonzero(present)
    if wrong.any():
        lengths = f"{np.sqrt(squared[wrong].min()):.2f} to {np.sqrt(squared[wrong].max()):.2f}"
        say("normal-length", f"{np.count_nonzero(wrong)} of {count} normals have lengths from {lengths}")
    elif camera is not None and count:
        k = camera.k
        right, up, back = _rays(stored.shape[0], stored.shape[1], (k[0, 0], k[1, 1], k[0, 2], k[1, 2]))[1]
        away = np.count_nonzero(present & (x * right + y * up + z * back < _AWAY))
        if away > max(1.0, _AWAY_SHARE * count):
            say("normal-facing", f"{away} of {count} normals face away from the camera")


def _standing(
    instance: np.ndarray, depth: np.ndarray, objects: list[dict[str, Any]], camera: _Camera, say: Say
) -> None:
    """Find objects whose lowest visible point is far above the floor, the plane z = 0 of the world."""
    rays = _camera_rays(depth.shape, camera.k)
    for thing in objects:
        mask = (instance == thing["instance"]) & (depth > 0)
        if thing["visible_fraction"] < 0.99 or not mask.any():
            continue
        points = rays[mask] * (depth[mask][:, None] / 1000.0)
        z = (points - camera.shift) @ camera.rotation[:, 2]
        low, high = np.percentile(z, [1, 99])
        # from above a ball's lowest visible point is at most a third of what is seen of it above the floor
        if low > 0.5 * (high - low) + 0.05:
            say("hovering", f"instance {thing['instance']} ({thing['name']}): {low * 1000:.0f} mm above the floor")
