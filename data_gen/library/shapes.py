"""The procedural primitives, kitchenware, furniture and things of the house: one small function a category.

Every function takes a generator, which varies the proportions, and returns a mesh that stands on z = 0 in units of
its own. Slot 0 is the main material, slot 1 (where there is one) the second.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from data_gen.library.mesh import Mesh, box, circle, cylinder, ellipsoid, lathe, merge, prism, spline, sweep

Builder = Callable[[np.random.Generator], Mesh]


def _legs(x: float, y: float, height: float, thick: float) -> list[Mesh]:
    return [box((thick, thick, height)).moved((sx * x, sy * y, 0)) for sx in (-1, 1) for sy in (-1, 1)]


def _wall(profile: list[tuple[float, float]], thick: float) -> Mesh:
    """Turn an open outer profile (bottom to rim) into a hollow body with a wall."""
    inner = [(max(r - thick, 0.01), max(z, thick)) for r, z in reversed(profile)]
    return lathe([(0, 0), *profile, *inner, (0, thick)])


# primitives ---------------------------------------------------------------------------------------------------------


def cube(rng: np.random.Generator) -> Mesh:
    """Make a cube."""
    return box((1, 1, 1))


def sphere(rng: np.random.Generator) -> Mesh:
    """Make a sphere."""
    return ellipsoid(1.0, 12, 24)


def cylinder_(rng: np.random.Generator) -> Mesh:
    """Make a cylinder."""
    return cylinder(1, rng.uniform(1.4, 2.6))


def cone(rng: np.random.Generator) -> Mesh:
    """Make a cone."""
    return cylinder(1, rng.uniform(1.6, 2.6), top=0.0)


def pyramid(rng: np.random.Generator) -> Mesh:
    """Make a pyramid on a square."""
    return prism([(-1, -1), (1, -1), (1, 1), (-1, 1)], rng.uniform(1.4, 2.2), taper=0.0)


def torus(rng: np.random.Generator) -> Mesh:
    """Make a torus that stands upright."""
    ring = circle(1, 28)
    path = np.stack([ring[:, 0], 0 * ring[:, 0], ring[:, 1]], 1)
    return sweep(path, rng.uniform(0.22, 0.4), up=(0, 1, 0), closed=True, sides=12)


# kitchen ------------------------------------------------------------------------------------------------------------


def mug(rng: np.random.Generator) -> Mesh:
    """Make a mug with a handle."""
    h = rng.uniform(2.0, 2.8)
    body = _wall([(0.95, 0), (1, h)], 0.12)
    turn = spline([(0.95, h * 0.85), (1.5, h * 0.8), (1.65, h * 0.5), (1.45, h * 0.2), (0.95, h * 0.15)])
    return merge([body, sweep(np.stack([turn[:, 0], 0 * turn[:, 0], turn[:, 1]], 1), 0.1, 0.17, up=(0, 1, 0))])


def bottle(rng: np.random.Generator) -> Mesh:
    """Make a bottle with a cap."""
    n, s = rng.uniform(0.28, 0.4), rng.uniform(1.9, 2.5)
    body = lathe([(0, 0), (0.9, 0), (1, 0.12), (1, s), (0.8, s + 0.4), (n, s + 0.9), (n, 3.7), (0, 3.7)])
    return merge([body, cylinder(n * 1.25, 0.45).moved((0, 0, 3.6)).painted(1)])


def bowl(rng: np.random.Generator) -> Mesh:
    """Make a bowl."""
    a = np.linspace(0.25, np.pi / 2, 8)
    depth = rng.uniform(0.9, 1.3)
    return _wall([(1.6 * float(np.sin(x)), depth * (1 - float(np.cos(x)))) for x in a], 0.12)


def vase(rng: np.random.Generator) -> Mesh:
    """Make a vase of varied waist."""
    belly, neck = rng.uniform(0.9, 1.3), rng.uniform(0.3, 0.55)
    curve = spline([(0.6, 0), (belly, 0.9), (0.7, 1.9), (neck, 2.5), (neck + 0.3, 3.1)])
    return _wall([(float(r), float(z)) for r, z in curve], 0.1)


def plate(rng: np.random.Generator) -> Mesh:
    """Make a plate with a raised rim."""
    rim = rng.uniform(0.25, 0.45)
    return lathe([(0, 0), (0.9, 0), (1.6, rim), (1.56, rim + 0.08), (0.86, 0.1), (0, 0.1)])


def wine_glass(rng: np.random.Generator) -> Mesh:
    """Make a goblet."""
    h = rng.uniform(1.1, 1.6)
    return lathe(
        [
            (0, 0),
            (0.8, 0),
            (0.8, 0.08),
            (0.12, 0.2),
            (0.1, h),
            (0.5, h + 0.2),
            (0.85, h + 0.8),
            (0.75, h + 1.7),
            (0.68, h + 1.7),
            (0.76, h + 0.8),
            (0.4, h + 0.3),
            (0, h + 0.25),
        ]
    )


def teapot(rng: np.random.Generator) -> Mesh:
    """Make a teapot with spout, handle and lid."""
    body = ellipsoid((1.1, 1.1, rng.uniform(0.8, 1.0))).moved((0, 0, 0.85))
    spout = sweep([(0.8, 0, 0.6), (1.3, 0, 0.9), (1.6, 0, 1.35), (1.85, 0, 1.55)], 0.17, up=(0, 1, 0))
    turn = spline([(-0.9, 1.3), (-1.5, 1.4), (-1.75, 0.9), (-1.4, 0.45), (-0.95, 0.5)])
    handle = sweep(np.stack([turn[:, 0], 0 * turn[:, 0], turn[:, 1]], 1), 0.1, up=(0, 1, 0))
    lid = ellipsoid((0.6, 0.6, 0.2)).moved((0, 0, 1.68)).painted(1)
    return merge([body, spout, handle, lid, ellipsoid(0.14).moved((0, 0, 1.95)).painted(1)])


def bucket(rng: np.random.Generator) -> Mesh:
    """Make a bucket with its handle up."""
    body = _wall([(0.8, 0), (rng.uniform(1.05, 1.25), 1.8)], 0.08)
    a = np.linspace(0, np.pi, 14)
    arc = np.stack([1.05 * np.cos(a), 0 * a, 1.7 + 1.0 * np.sin(a)], 1)
    return merge([body, sweep(arc, 0.06, up=(0, 1, 0)).painted(1)])


# furniture ----------------------------------------------------------------------------------------------------------


def chair(rng: np.random.Generator) -> Mesh:
    """Make a chair: four legs, seat, back."""
    seat, t = rng.uniform(1.6, 1.9), 0.2
    parts = [*_legs(0.75, 0.7, seat, t), box((1.75, 1.65, 0.2)).moved((0, 0, seat)).painted(1)]
    parts += [box((t, t, 2.0)).moved((s * 0.75, 0.72, seat)) for s in (-1, 1)]
    bars = int(rng.integers(1, 4))
    for i in range(bars):
        parts.append(box((1.5, 0.1, 1.5 / bars - 0.12)).moved((0, 0.72, seat + 0.45 + i * 1.5 / bars)))
    return merge(parts)


def stool(rng: np.random.Generator) -> Mesh:
    """Make a stool: a round seat on three splayed legs."""
    h = rng.uniform(1.6, 2.3)
    foot, head = circle(0.95, 3), circle(0.45, 3)
    legs = [sweep([(*f, 0.1), (*c, h)], 0.1, up=(f[1], -f[0], 0)) for f, c in zip(foot, head, strict=True)]
    return merge([*legs, cylinder(0.95, 0.25).moved((0, 0, h)).painted(1)])


def table(rng: np.random.Generator) -> Mesh:
    """Make a table."""
    x, y, h = rng.uniform(1.5, 2.1), rng.uniform(0.9, 1.3), rng.uniform(1.4, 1.8)
    return merge([*_legs(x - 0.2, y - 0.2, h, 0.22), box((2 * x, 2 * y, 0.2)).moved((0, 0, h)).painted(1)])


def bench(rng: np.random.Generator) -> Mesh:
    """Make a bench with a slatted back."""
    parts = [box((0.2, 1.1, 0.9)).moved((s * 1.5, 0, 0)) for s in (-1, 1)]
    parts += [box((3.6, 0.32, 0.12)).moved((0, -0.4 + 0.4 * i, 0.9)).painted(1) for i in range(3)]
    parts += [box((0.15, 0.12, 1.2)).moved((s * 1.5, 0.55, 0.9)) for s in (-1, 1)]
    return merge([*parts, *[box((3.6, 0.1, 0.3)).moved((0, 0.5, 1.25 + 0.45 * i)).painted(1) for i in range(2)]])


def sofa(rng: np.random.Generator) -> Mesh:
    """Make a sofa: seat, back, two arms."""
    w = rng.uniform(2.6, 3.6)
    seat = box((w, 1.5, 0.5)).moved((0, 0, 0.35)).painted(1)
    back = box((w, 0.4, 1.5), taper=0.94).moved((0, 0.7, 0.2))
    arms = [box((0.4, 1.7, 1.05)).moved((s * (w / 2 + 0.1), 0, 0.1)) for s in (-1, 1)]
    return merge([seat, back, *arms, *_legs(w / 2 - 0.1, 0.6, 0.35, 0.2)])


def bookshelf(rng: np.random.Generator) -> Mesh:
    """Make a shelf with boards and books."""
    boards = int(rng.integers(3, 5))
    gap = 3.0 / boards
    parts = [box((0.12, 0.8, 3.1)).moved((s * 1.0, 0, 0)) for s in (-1, 1)]
    parts += [box((2.0, 0.8, 0.1)).moved((0, 0, i * gap)) for i in range(boards + 1)]
    for i in range(boards):
        width = rng.uniform(0.6, 1.6)
        books = box((width, 0.6, gap * rng.uniform(0.6, 0.8))).painted(1)
        parts.append(books.moved((-0.9 + width / 2, 0, i * gap + 0.1)))
    return merge(parts)


def lamp(rng: np.random.Generator) -> Mesh:
    """Make a table lamp: foot, stem, shade."""
    h, top = rng.uniform(1.5, 2.2), rng.uniform(0.35, 0.7)
    shade = lathe([(1.0, 0), (top, 1.1), (top - 0.06, 1.1), (0.94, 0)]).moved((0, 0, h - 0.3)).painted(1)
    return merge([cylinder(0.65, 0.18), cylinder(0.09, h + 0.5, 10), shade])


# things -------------------------------------------------------------------------------------------------------------


def crate(rng: np.random.Generator) -> Mesh:
    """Make a slatted crate."""
    w, h, bars = rng.uniform(1.6, 2.2), 1.6, 3
    parts = [box((w, 1.5, 0.12)), *[p.painted(1) for p in _legs(w / 2, 0.75, h, 0.2)]]
    for i in range(bars):
        z = 0.12 + i * h / bars
        parts += [box((w, 0.1, h / bars - 0.16)).moved((0, s * 0.75, z)) for s in (-1, 1)]
        parts += [box((0.1, 1.5, h / bars - 0.16)).moved((s * w / 2, 0, z)) for s in (-1, 1)]
    return merge(parts)


def barrel(rng: np.random.Generator) -> Mesh:
    """Make a barrel with two hoops."""
    belly = rng.uniform(1.15, 1.35)
    curve = spline([(0.9, 0), (belly, 1.25), (0.9, 2.5)], 8)
    hoops = [
        lathe([(r, z - 0.1), (r + 0.07, z - 0.1), (r + 0.07, z + 0.1), (r, z + 0.1)]).painted(1)
        for r, z in ((float(np.interp(z, curve[:, 1], curve[:, 0])), z) for z in (0.55, 1.95))
    ]
    return merge([lathe([(0, 0), *curve, (0, 2.5)]), *hoops])


def book(rng: np.random.Generator) -> Mesh:
    """Make a closed book that stands."""
    t = rng.uniform(0.3, 0.7)
    covers = [box((1.5, 0.08, 2.1)).moved((0, s * t / 2, 0)) for s in (-1, 1)]
    spine = box((0.08, t + 0.08, 2.1)).moved((-0.75, 0, 0))
    return merge([*covers, spine, box((1.4, t - 0.08, 1.95)).moved((0, 0, 0.07)).painted(1)])


def ladder(rng: np.random.Generator) -> Mesh:
    """Make a ladder, leaning on its own prop."""
    rungs = int(rng.integers(4, 7))
    parts = [sweep([(s * 0.6, -0.6, 0), (s * 0.45, 0.1, 3)], 0.09, up=(0, 1, 0)) for s in (-1, 1)]
    parts += [sweep([(s * 0.6, 0.8, 0), (s * 0.45, 0.1, 3)], 0.07, up=(0, 1, 0)).painted(1) for s in (-1, 1)]
    for f in (np.arange(rungs) + 0.7) / rungs:
        half = 0.6 - 0.15 * f
        parts.append(sweep([(-half, -0.6 + 0.7 * f, 3 * f), (half, -0.6 + 0.7 * f, 3 * f)], 0.07))
    return merge(parts)


def hammer(rng: np.random.Generator) -> Mesh:
    """Make a hammer that stands on its head."""
    stem = cylinder(0.16, rng.uniform(2.4, 3.0), 12).moved((0, 0, 0.3)).painted(1)
    return merge([box((1.5, 0.55, 0.55)), prism(circle(0.36, 12), 0.3).rotated("y", 90).moved((0.75, 0, 0.28)), stem])


def dumbbell(rng: np.random.Generator) -> Mesh:
    """Make a dumbbell."""
    r, w = rng.uniform(0.6, 0.9), rng.uniform(0.3, 0.6)
    weights = [cylinder(r, w).rotated("y", 90).moved((x, 0, r)) for x in (-1.1 - w, 1.1)]
    return merge([*[p.painted(1) for p in weights], cylinder(0.18, 2.4, 12).rotated("y", 90).moved((-1.2, 0, r))])


def candle(rng: np.random.Generator) -> Mesh:
    """Make a candle in a holder."""
    h = rng.uniform(1.4, 2.4)
    holder = _wall([(0.9, 0), (1.0, 0.35)], 0.1).painted(1)
    flame = lathe([(0, 0), (0.17, 0.2), (0.1, 0.45), (0, 0.65)], 12).moved((0, 0, h + 0.15)).painted(1)
    return merge([holder, cylinder(0.42, h).moved((0, 0, 0.1)), flame])


def umbrella(rng: np.random.Generator) -> Mesh:
    """Make an open umbrella that stands on its stick."""
    a = np.linspace(0.05, 1.15, 7)
    dome = [(1.9 * float(np.sin(x)), 1.6 + 1.2 * float(np.cos(x))) for x in reversed(a)]
    inner = [(r * 0.96, z - 0.06) for r, z in reversed(dome)]
    return merge([lathe([*dome, *inner], 12), cylinder(0.07, 2.9, 8).painted(1)])
