"""Arrays and labels of the data format, from rendered passes and geometry. Uses only numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_gen.library.mesh import Floats
from data_gen.scene_spec import SceneSpec

FLIP = np.diag([1.0, -1.0, -1.0])
"""Between a camera with y up and z towards it (Blender's, and the normals') and one with y down and z away (K's)."""


MOST_GAIN = 8.0
"""How much longer a dark image is exposed at most: with more, its noise would be seen."""


@dataclass(frozen=True)
class View:
    """One image with its labels, as it is stored.

    Attributes:
        rgb: 8 bit, shape ``[H, W, 3]``.
        category: ids, 0 = background, uint16, shape ``[H, W]``.
        instance: ids, 0 = background, uint16, shape ``[H, W]``.
        normal: (n + 1) / 2 · 255 in the camera's frame, 8 bit, shape ``[H, W, 3]``; 128, 128, 128 = none.
        depth: millimetres along the viewing axis, uint16, 0 = none; or ``None``.
        labels: content of the ``.json`` member.
    """

    rgb: NDArray[np.uint8]
    category: NDArray[np.uint16]
    instance: NDArray[np.uint16]
    normal: NDArray[np.uint8]
    depth: NDArray[np.uint16] | None
    labels: dict[str, Any]


def film_filter(linear: NDArray[np.float32]) -> NDArray[np.float32]:
    """Spread each pixel's light slightly over its neighbours, as film does, so that edges are smoother.

    The samples of a pixel lie in a box of its width. With this binomial kernel the standard deviation of the whole is
    √(1/12 + 2 · 0.05) = 0.43 pixels, that of Blender's default filter (Blackman-Harris, 1.5 pixels). Samples
    drawn from the wider filter would each serve only one pixel and leave more noise.

    Args:
        linear: linear RGB, shape ``[H, W, 3]``.
    """
    for axis in (0, 1):
        widths = [(1, 1) if i == axis else (0, 0) for i in range(3)]
        wide = np.pad(linear, widths, mode="edge")
        before, after = (wide[:-2], wide[2:]) if axis == 0 else (wide[:, :-2], wide[:, 2:])
        linear = np.float32(0.9) * linear + np.float32(0.05) * (before + after)
    return linear


def tone_map(linear: NDArray[np.float32], exposure: float) -> NDArray[np.uint8]:
    """Convert linear light to 8-bit sRGB colours, shape ``[H, W, 3]``.

    The curve is Reinhard's with a white point (*Photographic Tone Reproduction for Digital Images*, 2002, eq. 4), per
    channel: c (1 + c / w²) / (1 + c), w = 4; then the sRGB transfer function (IEC 61966-2-1).

    Args:
        linear: shape ``[H, W, 3]``.
        exposure: factor on ``linear``.
    """
    c = np.maximum(linear, 0).astype(np.float32) * np.float32(exposure * 1.6)
    c = np.minimum(c * (1 + c / 16) / (1 + c), 1)
    srgb = np.where(c <= 0.0031308, 12.92 * c, 1.055 * np.power(np.maximum(c, 1e-9), 1 / 2.4) - 0.055)
    return np.round(srgb * 255).astype(np.uint8)


def exposed(linear: NDArray[np.float32], exposure: float, least: float) -> NDArray[np.uint8]:
    """Convert linear light to colours, with a longer exposure where the image would be too dark, as a camera does.

    Args:
        linear: shape ``[H, W, 3]``.
        exposure: factor on ``linear``; at most :data:`MOST_GAIN` times as much is used.
        least: lowest mean of the colours, as a share of white; 0: any.
    """
    colours = tone_map(linear, exposure)
    if least <= 0 or colours.mean() >= 255 * least:
        return colours
    low, high = 1.0, MOST_GAIN
    for _ in range(12):  # the mean rises with the gain
        gain = float(np.sqrt(low * high))
        low, high = (low, gain) if tone_map(linear, exposure * gain).mean() >= 255 * least else (gain, high)
    return tone_map(linear, exposure * high)


def camera_normals(world: NDArray[np.float32], camera_to_world: Floats) -> NDArray[np.uint8]:
    """Convert normals from the world's to the camera's frame (x right, y up, z towards it): unit length, 8 bit.

    Args:
        world: sums or means of unit normals, zero where there is no surface; shape ``[H, W, 3]``.
        camera_to_world: 4 × 4.
    """
    length = np.linalg.norm(world, axis=-1, keepdims=True)
    unit = world @ camera_to_world[:3, :3] / np.maximum(length, 1e-9)
    stored = np.round((unit + 1) / 2 * 255).astype(np.uint8)
    return np.where(length > 0.1, stored, np.uint8(128)).astype(np.uint8)


def depth_mm(depth: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Convert metres along the viewing axis to whole millimetres; 0 where nothing is nearer than 65.5 m."""
    mm = np.round(depth.astype(np.float64) * 1000)
    return np.where(mm < 65535.5, mm, 0).astype(np.uint16)


def silhouette(points: Floats, faces: NDArray[np.int32], height: int, width: int) -> NDArray[np.bool_]:
    """Return which pixel centres a mesh covers if nothing is in front of it.

    Args:
        points: projected vertices (x, y), pixel centres at whole numbers; shape ``[V, 2]``, NaN behind the camera.
        faces: triangles, shape ``[F, 3]``.
        height: of the image, pixels; as many are added above and below, so that parts outside the image count too.
        width: of the image, pixels; as many are added on the left and the right.

    Returns:
        Boolean mask, shape ``[3 height, 3 width]``.
    """
    canvas = np.zeros((3 * height, 3 * width), bool)
    tri = points[faces] + [width, height]
    tri = tri[np.isfinite(tri).all((1, 2))]
    low = np.maximum(np.ceil(tri.min(1)), 0).astype(np.int64)
    high = np.minimum(np.floor(tri.max(1)), [3 * width - 1, 3 * height - 1]).astype(np.int64)
    spans = np.maximum(high - low + 1, 0)
    counts = spans.prod(1)
    # every (triangle, pixel of its bounding box) at once
    which = np.repeat(np.arange(len(tri)), counts)
    rank = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
    x = low[which, 0] + rank % np.maximum(spans[which, 0], 1)
    y = low[which, 1] + rank // np.maximum(spans[which, 0], 1)
    corners = tri[which]
    edges = np.roll(corners, -1, 1) - corners
    side = edges[..., 0] * (y[:, None] - corners[..., 1]) - edges[..., 1] * (x[:, None] - corners[..., 0])
    inside = (side >= 0).all(1) | (side <= 0).all(1)
    canvas[y[inside], x[inside]] = True
    return canvas


def _project(vertices: Floats, world_to_camera: Floats, K: Floats) -> tuple[Floats, Floats]:
    """Return pixel coordinates ``[V, 2]`` (NaN behind the camera) and distances along the viewing axis ``[V]``."""
    seen = vertices @ world_to_camera[:3, :3].T + world_to_camera[:3, 3]
    depth = seen[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        points = (seen @ K.T)[:, :2] / depth[:, None]
    points[depth < 0.01] = np.nan
    return points, depth


def visible_fractions(
    instance: NDArray[np.uint16], meshes: list[tuple[Floats, NDArray[np.int32]]], world_to_camera: Floats, K: Floats
) -> list[float]:
    """Return the visible fraction of each object's silhouette.

    It is the area of the object's visible mask over the area that the object would cover by itself on an image of three
    times the width and height about the same axis (as BOP's ``visib_fract``): parts hidden by
    other objects and parts outside the frame both count as not visible. If the boxes of the projected vertices show
    that nothing can hide the object or cut it off, the fraction is exactly 1 and no silhouette is drawn.

    Args:
        instance: mask with ids 1 … N, shape ``[H, W]``; an object that is not drawn in it (a distractor) hides others.
        meshes: vertices in the world ``[V, 3]`` and triangles ``[F, 3]`` of objects 1 … N.
        world_to_camera: 4 × 4, K's frame (y down, z away).
        K: 3 × 3.

    Returns:
        N numbers, 0 … 1.
    """
    height, width = instance.shape
    seen = [_project(vertices, world_to_camera, K) for vertices, _ in meshes]
    boxes = [(*points.min(0), *points.max(0)) if np.isfinite(points).all() else None for points, _ in seen]
    areas = np.bincount(instance.ravel(), minlength=len(meshes) + 1)[1:]
    fractions = []
    for i, (points, depth) in enumerate(seen):
        if areas[i] == 0:
            fractions.append(0.0)
            continue
        box = boxes[i]
        whole = box is not None and min(box) > 0.5 and box[2] < width - 1.5 and box[3] < height - 1.5
        nearer = [j for j in range(len(seen)) if j != i and seen[j][1].min() < depth.max()]
        if whole and not any(_touch(boxes[j], box) for j in nearer):
            fractions.append(1.0)
            continue
        unoccluded = silhouette(points, meshes[i][1], height, width).sum()
        fractions.append(round(float(min(areas[i] / max(unoccluded, areas[i]), 1.0)), 4))
    return fractions


def _touch(box: tuple[float, ...] | None, other: tuple[float, ...] | None) -> bool:
    """Return whether two boxes (left, top, right, bottom) come within a pixel of each other, or one is unknown."""
    if box is None or other is None:
        return True
    return all(box[i] < other[i + 2] + 1 and other[i] < box[i + 2] + 1 for i in (0, 1))


def view_labels(
    spec: SceneSpec,
    view: int,
    instance: NDArray[np.uint16],
    meshes: list[tuple[Floats, NDArray[np.int32]]],
) -> dict[str, Any]:
    """Return the content of a view's ``.json`` member.

    Distractors and objects without a visible pixel are not listed. Boxes are those of the visible mask, in
    whole pixels.
    ``camera.world_to_camera`` is for K: x right, y down, z away from the camera, pixel centres at whole numbers.

    Args:
        spec: the scene.
        view: index of the camera.
        instance: mask, shape ``[H, W]``.
        meshes: as for :func:`visible_fractions`.
    """
    K = spec.intrinsics(instance.shape[1], instance.shape[0])
    to_camera = np.eye(4)
    to_camera[:3, :3] = FLIP
    to_camera = to_camera @ np.linalg.inv(np.array(spec.cameras[view]))
    fractions = visible_fractions(instance, meshes, to_camera, K)
    objects = []
    for o, fraction in zip(spec.objects, fractions, strict=True):
        rows, columns = np.nonzero(instance == o.instance)
        if not len(rows):
            continue
        x, y = int(columns.min()), int(rows.min())
        objects.append(
            {
                "instance": o.instance,
                "category": o.category_id,
                "name": o.category,
                "bbox": [x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1],
                "area": len(rows),
                "visible_fraction": fraction,
            }
        )
    return {
        "scene": spec.scene,
        "view": view,
        "size": list(instance.shape),
        "labels": sorted({o["category"] for o in objects}),
        "objects": objects,
        "camera": {"K": _rounded(K), "world_to_camera": _rounded(to_camera)},
    }


def _rounded(matrix: Floats) -> list[list[float]]:
    return [[round(float(x), 7) + 0.0 for x in row] for row in matrix]
