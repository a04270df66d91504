"""The digits 0 to 9 as thick pen strokes: control points by hand, varied as handwriting varies.

A digit stands in the x-z plane (x to the right, z up), is read from -y, and is about one unit high. The renderer
makes a second kind from Blender's built-in font; both take the same :class:`numpy.random.Generator`.
"""

from __future__ import annotations

import numpy as np

from data_gen.library.mesh import Floats, Mesh, merge, rotation, spline, sweep

# Each digit has several ways of being written. A way is strokes parted by "|"; a stroke is a smooth curve through
# points "x z", and one that starts with "o" is closed. Corners are where one stroke ends and the next begins.
_WAYS: dict[int, list[str]] = {
    0: [
        "o .5 1  .2 .85  .1 .5  .2 .15  .5 0  .8 .15  .9 .5  .8 .85",
        "o .55 1  .25 .75  .15 .4  .35 .02  .65 .1  .85 .5  .8 .88",
    ],
    1: [
        ".5 1  .5 .5  .5 0",
        ".25 .76  .4 .88  .52 1 | .52 1  .52 .5  .52 0",
        ".25 .78  .4 .9  .5 1 | .5 1  .5 .5  .5 0 | .22 0  .5 0  .8 0",
    ],
    2: [
        ".15 .76  .28 .95  .52 1  .76 .88  .78 .66  .6 .4  .1 0 | .1 0  .5 .01  .9 .02",
        ".18 .8  .45 1  .75 .85  .7 .5  .4 .12  .2 .02  .14 .16  .34 .17  .6 .03  .92 .06",
    ],
    3: [
        ".15 .88  .42 1  .7 .93  .74 .73  .58 .57  .36 .53 | .36 .53  .66 .49  .82 .28  .68 .06  .4 0  .12 .12",
        ".15 1  .45 1  .8 1 | .8 1  .62 .8  .42 .58 | .42 .58  .7 .5  .82 .27  .66 .05  .4 0  .14 .1",
    ],
    4: [
        ".28 1  .2 .7  .14 .42 | .14 .42  .5 .42  .88 .44 | .72 .95  .7 .5  .66 0",
        ".66 1  .38 .66  .08 .32 | .08 .32  .5 .32  .92 .32 | .66 1  .66 .5  .66 0",
        ".22 .98  .16 .62  .34 .46  .74 .56 | .78 .98  .75 .5  .7 0",
    ],
    5: [
        ".82 1  .5 1  .24 1 | .24 1  .22 .8  .18 .58 | .18 .58  .5 .64  .78 .5  .82 .25  .62 .03  .35 0  .1 .1",
        ".85 .98  .55 .98  .3 .96 | .3 .96  .22 .7  .5 .56  .74 .36  .68 .1  .4 0  .12 .08",
    ],
    6: [
        ".7 1  .4 .82  .2 .5  .18 .2  .42 0  .7 .06  .8 .27  .64 .46  .4 .45  .21 .28",
        ".5 1  .28 .6  .22 .2  .45 0  .7 .12  .68 .33  .45 .38  .25 .22",
    ],
    7: [
        ".12 1  .5 1  .86 1 | .86 1  .6 .52  .42 0",
        ".12 .97  .5 1  .86 .98 | .86 .98  .62 .55  .38 0 | .36 .5  .58 .51  .82 .53",
        ".14 .84  .14 .92  .15 .98 | .15 .98  .5 .97  .84 1 | .84 1  .64 .6  .55 0",
    ],
    8: [
        "o .5 .53  .24 .7  .28 .93  .5 1  .72 .93  .76 .7  .5 .53  .2 .32  .22 .08  .5 0  .78 .08  .8 .32",
        "o .5 1  .27 .92  .26 .66  .5 .54  .74 .66  .73 .92 | o .5 .54  .2 .42  .2 .1  .5 0  .8 .1  .8 .42",
    ],
    9: [
        ".78 .76  .62 .97  .36 .98  .18 .78  .28 .56  .54 .52  .78 .76 | .78 .76  .74 .4  .64 0",
        ".76 .78  .58 1  .3 .94  .2 .7  .4 .52  .68 .64  .8 .88  .8 .4  .58 .02  .25 .06",
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
    strokes = [np.array(stroke.strip(" o").split(), float).reshape(-1, 2) for stroke in way.split("|")]
    loops = [stroke.strip().startswith("o") for stroke in way.split("|")]
    squareness = float(rng.uniform(0, 0.9))
    parts = []
    for i, (points, closed) in enumerate(zip(_wobbled(strokes, rng, wobble), loops, strict=True)):
        curve = spline(points, per_segment=5, closed=closed)
        # Where strokes meet or cross they must not share a surface (it would shade itself black): each rises a little
        # above the one before it, and along itself.
        along = np.arange(len(curve)) / len(curve)
        rise = i + (0.5 * np.cos(2 * np.pi * along) if closed else along)
        path = np.stack([curve[:, 0], -0.03 * depth * rise, curve[:, 1]], 1)
        parts.append(sweep(path, thickness / 2, depth / 2, up=(0, 1, 0), closed=closed, squareness=squareness))
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
