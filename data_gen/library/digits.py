"""The digits 0 to 9 as thick pen strokes: control points by hand, varied as handwriting varies.

A digit stands in the x-z plane (x to the right, z up), is read from -y, and is about one unit high. The renderer
makes a second kind from Blender's built-in font; both take the same :class:`numpy.random.Generator`.
"""

from __future__ import annotations

import numpy as np

from data_gen.library.geometry import Floats, Mesh, merge, rotation, spline, sweep

# Each digit has several ways of being written; each way is a list of strokes (x, z), and a stroke is a smooth curve.
# Corners are where one stroke ends and the next begins. A name with "o" closes the curve.
_Stroke = tuple[str, list[tuple[float, float]]]
_WAYS: dict[int, list[list[_Stroke]]] = {
    0: [
        [("o", [(0.5, 1), (0.2, 0.85), (0.1, 0.5), (0.2, 0.15), (0.5, 0), (0.8, 0.15), (0.9, 0.5), (0.8, 0.85)])],
        [("o", [(0.55, 1), (0.25, 0.75), (0.15, 0.4), (0.35, 0.02), (0.65, 0.1), (0.85, 0.5), (0.8, 0.88)])],
    ],
    1: [
        [("-", [(0.5, 1), (0.5, 0.5), (0.5, 0)])],
        [("-", [(0.25, 0.76), (0.4, 0.88), (0.52, 1)]), ("-", [(0.52, 1), (0.52, 0.5), (0.52, 0)])],
        [
            ("-", [(0.25, 0.78), (0.4, 0.9), (0.5, 1)]),
            ("-", [(0.5, 1), (0.5, 0.5), (0.5, 0)]),
            ("-", [(0.22, 0), (0.5, 0), (0.8, 0)]),
        ],
    ],
    2: [
        [
            ("-", [(0.15, 0.76), (0.28, 0.95), (0.52, 1), (0.76, 0.88), (0.78, 0.66), (0.6, 0.4), (0.1, 0)]),
            ("-", [(0.1, 0), (0.5, 0.01), (0.9, 0.02)]),
        ],
        [
            (
                "-",
                [(0.18, 0.8), (0.45, 1), (0.75, 0.85), (0.7, 0.5), (0.4, 0.12), (0.2, 0.02), (0.14, 0.16)]
                + [(0.34, 0.17), (0.6, 0.03), (0.92, 0.06)],
            )
        ],
    ],
    3: [
        [
            ("-", [(0.15, 0.88), (0.42, 1), (0.7, 0.93), (0.74, 0.73), (0.58, 0.57), (0.36, 0.53)]),
            ("-", [(0.36, 0.53), (0.66, 0.49), (0.82, 0.28), (0.68, 0.06), (0.4, 0), (0.12, 0.12)]),
        ],
        [
            ("-", [(0.15, 1), (0.45, 1), (0.8, 1)]),
            ("-", [(0.8, 1), (0.62, 0.8), (0.42, 0.58)]),
            ("-", [(0.42, 0.58), (0.7, 0.5), (0.82, 0.27), (0.66, 0.05), (0.4, 0), (0.14, 0.1)]),
        ],
    ],
    4: [
        [
            ("-", [(0.28, 1), (0.2, 0.7), (0.14, 0.42)]),
            ("-", [(0.14, 0.42), (0.5, 0.42), (0.88, 0.44)]),
            ("-", [(0.72, 0.95), (0.7, 0.5), (0.66, 0)]),
        ],
        [
            ("-", [(0.66, 1), (0.38, 0.66), (0.08, 0.32)]),
            ("-", [(0.08, 0.32), (0.5, 0.32), (0.92, 0.32)]),
            ("-", [(0.66, 1), (0.66, 0.5), (0.66, 0)]),
        ],
        [
            ("-", [(0.22, 0.98), (0.16, 0.62), (0.34, 0.46), (0.74, 0.56)]),
            ("-", [(0.78, 0.98), (0.75, 0.5), (0.7, 0)]),
        ],
    ],
    5: [
        [
            ("-", [(0.82, 1), (0.5, 1), (0.24, 1)]),
            ("-", [(0.24, 1), (0.22, 0.8), (0.18, 0.58)]),
            ("-", [(0.18, 0.58), (0.5, 0.64), (0.78, 0.5), (0.82, 0.25), (0.62, 0.03), (0.35, 0), (0.1, 0.1)]),
        ],
        [
            ("-", [(0.85, 0.98), (0.55, 0.98), (0.3, 0.96)]),
            ("-", [(0.3, 0.96), (0.22, 0.7), (0.5, 0.56), (0.74, 0.36), (0.68, 0.1), (0.4, 0), (0.12, 0.08)]),
        ],
    ],
    6: [
        [
            (
                "-",
                [(0.7, 1), (0.4, 0.82), (0.2, 0.5), (0.18, 0.2), (0.42, 0), (0.7, 0.06), (0.8, 0.27), (0.64, 0.46)]
                + [(0.4, 0.45), (0.21, 0.28)],
            )
        ],
        [("-", [(0.5, 1), (0.28, 0.6), (0.22, 0.2), (0.45, 0), (0.7, 0.12), (0.68, 0.33), (0.45, 0.38), (0.25, 0.22)])],
    ],
    7: [
        [("-", [(0.12, 1), (0.5, 1), (0.86, 1)]), ("-", [(0.86, 1), (0.6, 0.52), (0.42, 0)])],
        [
            ("-", [(0.12, 0.97), (0.5, 1), (0.86, 0.98)]),
            ("-", [(0.86, 0.98), (0.62, 0.55), (0.38, 0)]),
            ("-", [(0.36, 0.5), (0.58, 0.51), (0.82, 0.53)]),
        ],
        [
            ("-", [(0.14, 0.84), (0.14, 0.92), (0.15, 0.98)]),
            ("-", [(0.15, 0.98), (0.5, 0.97), (0.84, 1)]),
            ("-", [(0.84, 1), (0.64, 0.6), (0.55, 0)]),
        ],
    ],
    8: [
        [
            (
                "o",
                [(0.5, 0.53), (0.24, 0.7), (0.28, 0.93), (0.5, 1), (0.72, 0.93), (0.76, 0.7), (0.5, 0.53)]
                + [(0.2, 0.32), (0.22, 0.08), (0.5, 0), (0.78, 0.08), (0.8, 0.32)],
            )
        ],
        [
            ("o", [(0.5, 1), (0.27, 0.92), (0.26, 0.66), (0.5, 0.54), (0.74, 0.66), (0.73, 0.92)]),
            ("o", [(0.5, 0.54), (0.2, 0.42), (0.2, 0.1), (0.5, 0), (0.8, 0.1), (0.8, 0.42)]),
        ],
    ],
    9: [
        [
            ("-", [(0.78, 0.76), (0.62, 0.97), (0.36, 0.98), (0.18, 0.78), (0.28, 0.56), (0.54, 0.52), (0.78, 0.76)]),
            ("-", [(0.78, 0.76), (0.74, 0.4), (0.64, 0)]),
        ],
        [
            (
                "-",
                [(0.76, 0.78), (0.58, 1), (0.3, 0.94), (0.2, 0.7), (0.4, 0.52), (0.68, 0.64), (0.8, 0.88)]
                + [(0.8, 0.4), (0.58, 0.02), (0.25, 0.06)],
            )
        ],
    ],
}


def stroke_digit(digit: int, rng: np.random.Generator, thickness: float, depth: float, wobble: float) -> Mesh:
    """Write a digit with a thick pen.

    Args:
        digit: 0 to 9.
        rng: chooses the way of writing and the wobble.
        thickness: width of the pen, in heights of the digit.
        depth: depth of the stroke (along y), in heights of the digit.
        wobble: standard deviation of the control points, in heights of the digit.

    Returns:
        A mesh of one material; not yet normalised.
    """
    ways = _WAYS[digit]
    way = ways[rng.integers(len(ways))]
    strokes = _wobbled([np.asarray(points, float) for _, points in way], rng, wobble)
    squareness = rng.uniform(0, 0.9)
    parts = []
    for (kind, _), points in zip(way, strokes, strict=True):
        curve = spline(points, per_segment=5, closed=kind == "o")
        path = np.stack([curve[:, 0], np.zeros(len(curve)), curve[:, 1]], 1)
        parts.append(
            sweep(path, thickness / 2, depth / 2, up=(0, 1, 0), closed=kind == "o", squareness=float(squareness))
        )
    return merge(parts)


def _wobbled(strokes: list[Floats], rng: np.random.Generator, wobble: float) -> list[Floats]:
    """Move the control points; points that coincide (where strokes meet) move together."""
    keys = {tuple(p) for points in strokes for p in points}
    shift = {key: rng.normal(0, wobble, 2) for key in sorted(keys)}
    return [np.array([p + shift[tuple(p)] for p in points]) for points in strokes]


def styled(mesh: Mesh, slant: float, width: float, turn: float) -> Mesh:
    """Shear, widen and turn a digit within its plane.

    Args:
        mesh: a digit in the x-z plane.
        slant: x moved per unit of height.
        width: factor on x.
        turn: degrees, counter-clockwise as it is read (from -y).
    """
    shear = np.array([[width, 0, slant], [0, 1, 0], [0, 0, 1]])
    return Mesh(mesh.vertices @ (rotation("y", -turn) @ shear).T, mesh.faces, mesh.slots, mesh.smooth)
