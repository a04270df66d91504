"""The procedural toys, figures and machine parts: see :mod:`data_gen.library.shapes`."""

from __future__ import annotations

import numpy as np

from data_gen.library.mesh import Floats, Mesh, box, circle, cylinder, ellipsoid, lathe, merge, prism, spline, sweep

# toys and figures ---------------------------------------------------------------------------------------------------


def car(rng: np.random.Generator) -> Mesh:
    """Make a toy car."""
    cabin = box((rng.uniform(1.4, 2.0), 1.2, 0.65), taper=0.75).moved((-0.15, 0, 0.95)).painted(1)
    wheel = cylinder(0.42, 0.3, 16).rotated("x", 90).painted(1)
    wheels = [wheel.moved((x, y + 0.15, 0.42)) for x in (-1, 1) for y in (-0.7, 0.7)]
    return merge([box((3.3, 1.4, 0.65)).moved((0, 0, 0.35)), cabin, *wheels])


def house(rng: np.random.Generator) -> Mesh:
    """Make a house with a gabled roof and a chimney."""
    h, g = rng.uniform(1.2, 1.8), rng.uniform(0.9, 1.4)
    roof = prism([(-1.25, 0), (1.25, 0), (0, g)], 2.6).rotated("x", 90).moved((0, 1.3, h)).painted(1)
    return merge([box((2.1, 2.3, h)), roof, box((0.35, 0.35, g)).moved((0.6, 0.5, h + 0.3))])


def tree(rng: np.random.Generator) -> Mesh:
    """Make a fir tree of stacked cones."""
    tiers = int(rng.integers(2, 5))
    parts = [cylinder(0.22, 0.9, 10).painted(1)]
    for i in range(tiers):
        parts.append(cylinder(1.25 - 0.75 * i / tiers, 1.3, top=0.05).moved((0, 0, 0.7 + 0.75 * i)))
    return merge(parts)


def mushroom(rng: np.random.Generator) -> Mesh:
    """Make a mushroom."""
    r = rng.uniform(1.0, 1.5)
    cap = lathe([(0.25, 0), (r, 0), (r * 0.94, 0.35), (r * 0.6, 0.8), (0, 1.0)]).moved((0, 0, 1.3)).painted(1)
    return merge([lathe([(0, 0), (0.5, 0), (0.32, 0.6), (0.3, 1.35)]), cap])


def snowman(rng: np.random.Generator) -> Mesh:
    """Make a snowman with a hat."""
    b, c = rng.uniform(0.65, 0.8), rng.uniform(0.45, 0.55)
    z1 = 1.8 + b * 0.7
    z2 = z1 + b * 0.8 + c * 0.6
    balls = [ellipsoid(r).moved((0, 0, z)) for r, z in ((1.0, 0.95), (b, z1), (c, z2))]
    hat = merge([cylinder(0.6, 0.08), cylinder(0.38, 0.5)]).moved((0, 0, z2 + c * 0.75)).painted(1)
    nose = cylinder(0.1, 0.55, 10, top=0.0).rotated("x", 90).moved((0, -c * 0.9, z2)).painted(1)
    return merge([*balls, hat, nose])


def rocket(rng: np.random.Generator) -> Mesh:
    """Make a rocket with fins."""
    curve = spline([(0.5, 0.4), (0.75, 1.3), (0.6, 2.4), (0.03, 3.5)])
    fins = [box((0.9, 0.12, 1.1), taper=0.5).moved((0.6, 0, 0)).rotated("z", 120 * i).painted(1) for i in range(3)]
    return merge([lathe([(0, 0.4), *curve]).scaled((1, 1, rng.uniform(0.85, 1.1))), *fins])


def star(rng: np.random.Generator) -> Mesh:
    """Make a five-pointed star that stands upright."""
    outline = circle(1, 10) * np.where(np.arange(10) % 2, rng.uniform(0.4, 0.55), 1.0)[:, None]
    return prism(outline, 0.45).rotated("z", 90).rotated("x", 90)


def heart(rng: np.random.Generator) -> Mesh:
    """Make a heart that stands upright."""
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return prism(np.stack([x, y], 1)[::-1] / 16, rng.uniform(0.4, 0.8)).rotated("x", 90)


def arrow(rng: np.random.Generator) -> Mesh:
    """Make an upright arrow."""
    shaft = box((rng.uniform(0.4, 0.6), 0.4, 1.6))
    head = prism([(-0.85, 0), (0.85, 0), (0, rng.uniform(1.0, 1.4))], 0.4).rotated("x", 90).moved((0, 0.2, 1.6))
    return merge([shaft, head])


def chess_pawn(rng: np.random.Generator) -> Mesh:
    """Make a chess pawn."""
    waist = rng.uniform(0.3, 0.45)
    curve = spline([(0.7, 0.35), (waist, 1.0), (waist * 0.9, 1.7)])
    body = lathe([(0, 0), (0.85, 0), (0.9, 0.25), *curve, (0.55, 1.75), (0.5, 1.85), (0, 1.9)])
    return merge([body, ellipsoid(0.5).moved((0, 0, 2.25))])


def tower(rng: np.random.Generator) -> Mesh:
    """Make a castle tower with battlements."""
    h, count = rng.uniform(2.0, 2.6), 6
    teeth = [box((0.3, 0.4, 0.4)).moved((0.85, 0, h + 0.35)).rotated("z", 360 * i / count) for i in range(count)]
    rim = h + 0.4
    return merge([lathe([(0, 0), (1, 0), (0.8, h), (1.02, h), (1.02, rim), (0.7, rim), (0.7, h), (0, h)]), *teeth])


# machine parts ------------------------------------------------------------------------------------------------------


def _ring_prism(outline: Floats, hole: float, height: float) -> Mesh:
    """Raise an outline about the origin with a round hole through it."""
    inner = outline * (hole / np.linalg.norm(outline, axis=1, keepdims=True))
    rings = [(inner, 0.0), (outline, 0.0), (outline, height), (inner, height), (inner, 0.0)]
    vertices = np.stack([np.concatenate([r, np.full((len(r), 1), z)], 1) for r, z in rings])
    base = lathe(np.tile([[1.0, 0.0]], (5, 1)) + np.arange(5)[:, None] * [0.1, 0.2], len(outline), smooth=False)
    return Mesh(vertices.reshape(-1, 3), base.faces, base.slots, base.smooth)


def hex_nut(rng: np.random.Generator) -> Mesh:
    """Make a hexagonal nut."""
    corners = circle(1, 6)
    sides = zip(corners, np.roll(corners, -1, 0), strict=True)
    outline = np.concatenate([np.linspace(a, b, 4)[:-1] for a, b in sides])
    return _ring_prism(outline, rng.uniform(0.45, 0.6), rng.uniform(0.6, 0.9))


def bolt(rng: np.random.Generator) -> Mesh:
    """Make a bolt that stands on its hexagonal head."""
    length, turns = rng.uniform(1.8, 2.8), 7
    z = np.linspace(0.5, 0.5 + length, 2 * turns + 1)
    thread = lathe([(0.42 + 0.09 * (i % 2), x) for i, x in enumerate(z)] + [(0, float(z[-1]))], 16)
    return merge([prism(circle(0.95, 6), 0.55), thread])


def gear(rng: np.random.Generator) -> Mesh:
    """Make a gear wheel that stands upright."""
    teeth = int(rng.integers(8, 14))
    radius = np.tile([1.0, 1.0, 0.8, 0.8], teeth)
    return _ring_prism(circle(1, 4 * teeth) * radius[:, None], rng.uniform(0.2, 0.45), 0.4).rotated("x", 90)


def spring(rng: np.random.Generator) -> Mesh:
    """Make a coil spring."""
    turns = int(rng.integers(4, 7))
    a = np.linspace(0, 2 * np.pi * turns, 14 * turns + 1)
    return sweep(np.stack([np.cos(a), np.sin(a), a * rng.uniform(0.08, 0.11)], 1), 0.16, sides=6)


def pipe_elbow(rng: np.random.Generator) -> Mesh:
    """Make a bent pipe with two flanges."""
    a = np.linspace(0, np.pi / 2, 8)
    r = rng.uniform(0.9, 1.3)
    bend = np.stack([r - r * np.cos(a), 0 * a, 0.7 + r * np.sin(a)], 1)
    pipe = sweep([(0, 0, 0.1), (0, 0, 0.5), *bend, (r + 0.6, 0, 0.7 + r)], 0.42, up=(0, 1, 0), sides=14)
    flange = cylinder(0.75, 0.22, 18)
    return merge([pipe, flange, flange.rotated("y", 90).moved((r + 0.55, 0, 0.7 + r))])


def bracket(rng: np.random.Generator) -> Mesh:
    """Make an angle bracket with a rib."""
    h = rng.uniform(1.6, 2.2)
    rib = prism([(-0.8, 0), (0.7, 0), (-0.8, h * 0.7)], 0.2).rotated("x", 90).moved((0, 0.1, 0.2))
    return merge([box((2.0, 1.4, 0.2)), box((0.2, 1.4, h)).moved((-0.9, 0, 0)), rib])


def pulley(rng: np.random.Generator) -> Mesh:
    """Make a grooved wheel that stands upright in a fork."""
    groove = rng.uniform(0.55, 0.75)
    wheel = lathe([(0.15, 0), (1, 0), (1, 0.12), (groove, 0.3), (1, 0.48), (1, 0.6), (0.15, 0.6)])
    fork = [box((0.4, 0.1, 1.5)).moved((0, s * 0.42, 0)).painted(1) for s in (-1, 1)]
    return merge([wheel.rotated("x", 90).moved((0, 0.3, 1.3)), *fork, box((1.2, 1.1, 0.15)).painted(1)])
