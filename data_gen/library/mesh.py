"""Triangle meshes in numpy, and the operations that build the procedural objects.

All lengths are in an object's own units: :func:`normalise` brings every finished object to the same size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Mesh:
    """Triangles with a material slot and a shading flag each.

    Attributes:
        vertices: positions, shape ``[V, 3]``.
        faces: vertex indices, counter-clockwise seen from outside, shape ``[F, 3]``.
        slots: index of each face's material, shape ``[F]``.
        smooth: whether a face is shaded smoothly, shape ``[F]``.
    """

    vertices: Floats
    faces: NDArray[np.int32]
    slots: NDArray[np.int32]
    smooth: NDArray[np.bool_]

    def moved(self, offset: ArrayLike) -> Mesh:
        """Return the mesh translated by ``offset`` (shape ``[3]``)."""
        return Mesh(self.vertices + np.asarray(offset, float), self.faces, self.slots, self.smooth)

    def scaled(self, factor: ArrayLike) -> Mesh:
        """Return the mesh scaled about its origin, by one positive factor or one per axis."""
        return Mesh(self.vertices * np.asarray(factor, float), self.faces, self.slots, self.smooth)

    def rotated(self, axis: str, degrees: float) -> Mesh:
        """Return the mesh turned about the axis ``"x"``, ``"y"`` or ``"z"`` through its origin."""
        return Mesh(self.vertices @ rotation(axis, degrees).T, self.faces, self.slots, self.smooth)

    def painted(self, slot: int) -> Mesh:
        """Return the mesh with all its faces in one material slot."""
        return Mesh(self.vertices, self.faces, np.full(len(self.faces), slot, np.int32), self.smooth)


def rotation(axis: str, degrees: float) -> Floats:
    """Return the 3 × 3 matrix of a right-handed turn about ``"x"``, ``"y"`` or ``"z"``."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = c
    matrix[i, j], matrix[j, i] = -s, s
    return matrix


def make(vertices: ArrayLike, faces: ArrayLike, smooth: bool) -> Mesh:
    """Build a one-material mesh from vertices ``[V, 3]`` and triangles ``[F, 3]``, without triangles of zero area."""
    v = np.asarray(vertices, float).reshape(-1, 3)
    f = np.asarray(faces, np.int32).reshape(-1, 3)
    area = np.linalg.norm(np.cross(v[f[:, 1]] - v[f[:, 0]], v[f[:, 2]] - v[f[:, 0]]), axis=1)
    f = f[area > 1e-10]
    return Mesh(v, f, np.zeros(len(f), np.int32), np.full(len(f), smooth))


def merge(parts: Sequence[Mesh]) -> Mesh:
    """Join meshes; vertices and slots are kept."""
    starts = np.cumsum([0] + [len(p.vertices) for p in parts[:-1]])
    return Mesh(
        np.concatenate([p.vertices for p in parts]),
        np.concatenate([p.faces + np.int32(s) for p, s in zip(parts, starts, strict=True)]).astype(np.int32),
        np.concatenate([p.slots for p in parts]),
        np.concatenate([p.smooth for p in parts]),
    )


def normalise(mesh: Mesh) -> Mesh:
    """Place the mesh on z = 0, centred in x and y, its height and its diameter about the z axis at most 1.

    So an object of size s (metres) always fits a cylinder of radius s / 2 and height s: that is what the scene's
    sampler separates, without having to build the mesh.
    """
    low, high = mesh.vertices.min(0), mesh.vertices.max(0)
    centred = mesh.vertices - [(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]]
    diameter = 2 * np.hypot(centred[:, 0], centred[:, 1]).max()
    return Mesh(centred / max(diameter, high[2] - low[2]), mesh.faces, mesh.slots, mesh.smooth)


def _grid_faces(rows: int, columns: int, close_rows: bool, close_columns: bool) -> NDArray[np.int32]:
    r = np.arange(rows if close_rows else rows - 1)[:, None]
    c = np.arange(columns if close_columns else columns - 1)[None]
    a, b = r * columns + c, r * columns + (c + 1) % columns
    d, e = ((r + 1) % rows) * columns + c, ((r + 1) % rows) * columns + (c + 1) % columns
    return np.stack([np.stack([a, b, e], -1), np.stack([a, e, d], -1)], 2).reshape(-1, 3).astype(np.int32)


def circle(radius: float, count: int) -> Floats:
    """Return the corners (x, y) of a regular polygon about the origin, counter-clockwise; shape ``[count, 2]``."""
    angle = np.arange(count) * (2 * np.pi / count)
    return radius * np.stack([np.cos(angle), np.sin(angle)], 1)


def lathe(profile: ArrayLike, segments: int = 24, smooth: bool = True) -> Mesh:
    """Turn a profile about the z axis.

    Args:
        profile: points (radius, z), shape ``[P, 2]``; going up outside and, for a hollow body, down inside.
        segments: corners of each ring.
        smooth: shade smoothly (edges over 35° stay sharp, see the renderer).
    """
    points = np.asarray(profile, float)
    ring = circle(1, segments)
    vertices = np.concatenate(
        [
            points[:, None, :1] * ring[None],
            np.broadcast_to(points[:, None, 1:], (len(points), segments, 1)),
        ],
        axis=2,
    )
    return make(vertices, _grid_faces(len(points), segments, False, True), smooth)


def cylinder(radius: float, height: float, segments: int = 24, top: float | None = None) -> Mesh:
    """Make a closed cylinder (or, with another ``top`` radius, a cone or a frustum) that stands on z = 0."""
    upper = radius if top is None else top
    return lathe([(0, 0), (radius, 0), (upper, height), (0, height)], segments, smooth=segments > 8)


def ellipsoid(radii: ArrayLike, rings: int = 10, segments: int = 20) -> Mesh:
    """Make an ellipsoid about the origin with the given half axes (one number or three)."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, rings + 1)
    return lathe(np.stack([np.cos(angle), np.sin(angle)], 1), segments).scaled(radii)


def box(size: ArrayLike, taper: float = 1.0) -> Mesh:
    """Make a box of ``size`` (x, y, z) centred in x and y on z = 0; ``taper`` scales its top face."""
    x, y, z = np.asarray(size, float)
    corners = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    return prism(np.asarray(corners) * [x / 2, y / 2], z, taper)


def prism(outline: ArrayLike, height: float, taper: float = 1.0, smooth: bool = False) -> Mesh:
    """Raise an outline along z.

    Args:
        outline: points (x, y), counter-clockwise, which all see the mean of the points; shape ``[P, 2]``.
        height: how far.
        taper: scale of the upper outline about that mean; 0 makes a pyramid.
        smooth: shade smoothly (edges over 35° stay sharp).
    """
    points = np.asarray(outline, float)
    centre = points.mean(0)
    rings = [centre + 0 * points, points, centre + taper * (points - centre), centre + 0 * points]
    heights = [0.0, 0.0, height, height]
    vertices = [np.concatenate([r, np.full((len(points), 1), z)], 1) for r, z in zip(rings, heights, strict=True)]
    return make(np.concatenate(vertices), _grid_faces(4, len(points), False, True), smooth)


def sweep(
    path: ArrayLike,
    half_width: float,
    half_depth: float | None = None,
    up: ArrayLike = (0, 0, 1),
    closed: bool = False,
    sides: int = 8,
    squareness: float = 0.0,
) -> Mesh:
    """Draw an oval along a path, with rounded ends.

    Args:
        path: points, shape ``[P, 3]``; the path must nowhere run along ``up``.
        half_width: half axis of the oval across the path and across ``up``.
        half_depth: half axis along ``up``; by default ``half_width``.
        up: a direction, shape ``[3]``.
        closed: join the last point to the first.
        sides: corners of the oval.
        squareness: 0 an ellipse, 1 nearly a rectangle.
    """
    points = np.asarray(path, float)
    depth = half_width if half_depth is None else half_depth
    step = np.roll(points, -1, 0) - np.roll(points, 1, 0)
    if not closed:
        step[0], step[-1] = points[1] - points[0], points[-1] - points[-2]
    tangent = step / np.maximum(np.linalg.norm(step, axis=1, keepdims=True), 1e-9)
    across = np.cross(np.asarray(up, float), tangent)
    across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-9)
    along = np.cross(tangent, across)
    angle = np.arange(sides) * (2 * np.pi / sides) + np.pi / sides
    oval = np.stack([np.cos(angle), np.sin(angle)], 1)
    oval = np.sign(oval) * np.abs(oval) ** (1 - 0.75 * squareness)
    scale = np.ones(len(points))
    if not closed:
        ends = [(1.0, 0.0), (0.8, 0.6), (0.35, 0.94)]
        head = [points[0] - tangent[0] * half_width * out for _, out in reversed(ends)]
        tail = [points[-1] + tangent[-1] * half_width * out for _, out in ends]
        points = np.concatenate([head, points[1:-1], tail])
        across = np.concatenate([np.repeat(across[:1], 3, 0), across[1:-1], np.repeat(across[-1:], 3, 0)])
        along = np.concatenate([np.repeat(along[:1], 3, 0), along[1:-1], np.repeat(along[-1:], 3, 0)])
        grow = [size for size, _ in reversed(ends)]
        scale = np.concatenate([grow, scale[1:-1], grow[::-1]])
    rings = (
        points[:, None]
        + across[:, None] * (oval[None, :, :1] * half_width * scale[:, None, None])
        + along[:, None] * (oval[None, :, 1:] * depth * scale[:, None, None])
    )
    faces = _grid_faces(len(points), sides, closed, True)
    if not closed:
        fan = np.arange(1, sides - 1)
        last = (len(points) - 1) * sides
        caps = [
            np.stack([np.zeros_like(fan), fan + 1, fan], 1),
            np.stack([np.full_like(fan, last), last + fan, last + fan + 1], 1),
        ]
        faces = np.concatenate([faces, *caps]).astype(np.int32)
    return make(rings, faces, smooth=True)


def spline(points: ArrayLike, per_segment: int = 6, closed: bool = False) -> Floats:
    """Pass a Catmull-Rom curve through points ``[P, D]``; returns ``[Q, D]``, ends included, no point twice."""
    p = np.asarray(points, float)
    before, after = (p[-1:], p[:2]) if closed else (2 * p[:1] - p[1:2], 2 * p[-1:] - p[-2:-1])
    padded = np.concatenate([before, p, after])
    t = np.arange(per_segment)[:, None] / per_segment
    pieces = []
    for i in range(len(padded) - 3):
        a, b, c, d = padded[i : i + 4]
        pieces.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
    curve = np.concatenate(pieces)
    return curve if closed else np.concatenate([curve, p[-1:]])
