"""A scene as plain data, drawn by numpy alone: a pure function of (configuration, seed, split, scene index).

The world's frame: metres, z up, the floor at z = 0, digits face −y. A camera's frame is Blender's: x right, y up,
z towards the viewer.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_gen.config import (
    CameraConfig,
    DigitsConfig,
    ImageConfig,
    LightsConfig,
    ObjectsConfig,
    RenderConfig,
    RoomConfig,
    check_config,
    config_from_dict,
    config_to_dict,
    load_config,
    scene_hash,
)
from data_gen.errors import DataGenError
from data_gen.library import Category, MaterialSpec, resolve
from data_gen.library.geometry import Floats, rotation
from data_gen.library.materials import Colour, sample_colour, sample_material

__all__ = [
    "SPLITS",
    "CameraConfig",
    "DigitsConfig",
    "ImageConfig",
    "LightSpec",
    "LightsConfig",
    "ObjectSpec",
    "ObjectsConfig",
    "RenderConfig",
    "RoomConfig",
    "SceneSpec",
    "check_config",
    "config_from_dict",
    "config_to_dict",
    "load_config",
    "sample_scene",
    "scene_hash",
]

SPLITS = ("train", "val")
"""The splits of a data set; each has its own stream of seeds."""

_FLOOR = MaterialSpec("plain", (0.3, 0.3, 0.3), (0.3, 0.3, 0.3), 1.0)


@dataclass(frozen=True)
class ObjectSpec:
    """One object.

    Attributes:
        instance: value in ``instance.png``, 1 or more.
        category: name.
        category_id: value in ``category.png``.
        shape: what :func:`data_gen.library.build` takes, and for digits from the font ``style``, ``bevel``.
        size: metres: the object fits a cylinder of this height and diameter.
        position: of the middle of its footprint on the floor (x, y), metres.
        yaw: degrees about the vertical.
        materials: one a slot.
    """

    instance: int
    category: str
    category_id: int
    shape: dict[str, float | str]
    size: float
    position: tuple[float, float]
    yaw: float
    materials: tuple[MaterialSpec, ...]


@dataclass(frozen=True)
class LightSpec:
    """One lamp.

    Attributes:
        kind: ``"POINT"`` or ``"AREA"`` (a square that faces the middle of the floor).
        location: metres.
        energy: watts.
        radius: radius, or half the side, metres.
        colour: linear RGB.
    """

    kind: str
    location: tuple[float, float, float]
    energy: float
    radius: float
    colour: Colour


@dataclass(frozen=True)
class SceneSpec:
    """All that the renderer needs to know of a scene.

    Attributes:
        split: ``"train"`` or ``"val"``.
        scene: index within the split.
        seed: for Cycles' sampler.
        objects: what stands on the floor.
        lights: lamps.
        floor: material of the floor.
        walls: material of the walls; ``None`` without walls.
        room: side of the floor, metres.
        sky: colour of the light from everywhere, linear RGB times its strength.
        fov: field of view, degrees.
        cameras: camera-to-world matrices, 4 × 4, a view each.
    """

    split: str
    scene: int
    seed: int
    objects: tuple[ObjectSpec, ...]
    lights: tuple[LightSpec, ...]
    floor: MaterialSpec
    walls: MaterialSpec | None
    room: float
    sky: Colour
    fov: float
    cameras: tuple[tuple[tuple[float, ...], ...], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return nested dicts of plain values, to print or to keep beside an error."""
        return dataclasses.asdict(self)

    def intrinsics(self, size: int) -> Floats:
        """Return the 3 × 3 camera matrix K for square images of ``size`` pixels; pixel centres are at whole numbers."""
        focal = size / (2 * np.tan(np.radians(self.fov) / 2))
        return np.array([[focal, 0, (size - 1) / 2], [0, focal, (size - 1) / 2], [0, 0, 1]])


def sample_scene(config: RenderConfig, seed: int, split: str, scene_index: int) -> SceneSpec:
    """Draw a scene.

    Args:
        config: what to draw; its own ``seed`` and ``image`` play no part.
        seed: 0 or more.
        split: one of :data:`SPLITS`.
        scene_index: 0 or more.

    Raises:
        DataGenError: an unknown split or category, or a camera that fits nowhere.
    """
    if split not in SPLITS:
        raise DataGenError(f"unknown split '{split}'; valid: {', '.join(SPLITS)}")
    entropy = (scene_hash(config), seed, SPLITS.index(split))
    rng = np.random.default_rng((*entropy, 0, scene_index))
    chosen = resolve(config.categories, config.texture == "with")
    floor, walls, sky = _background(config, rng)
    lights = _lights(config, rng)
    lying = bool(rng.uniform() < config.objects.lying)
    if config.appearance == "single":
        # a turn of all categories is shuffled, so that every prefix of the data set is balanced to within one each
        turn, place = divmod(scene_index, len(chosen))
        order = np.random.default_rng((*entropy, 1, turn)).permutation(len(chosen))
        kinds = [chosen[order[place]]]
    else:
        low, high = config.objects.count
        kinds = [chosen[i] for i in rng.integers(len(chosen), size=rng.integers(low, high + 1))]
    objects = _objects(config, rng, kinds, floor.colour, lying)
    fov = float(rng.uniform(*config.camera.fov))
    cameras = _cameras(config, rng, objects, fov, lying)
    return SceneSpec(
        split=split,
        scene=scene_index,
        seed=int(rng.integers(2**31 - 1)),
        objects=objects,
        lights=lights,
        floor=floor,
        walls=walls,
        room=config.room.size,
        sky=sky,
        fov=fov,
        cameras=cameras,
    )


def _background(config: RenderConfig, rng: np.random.Generator) -> tuple[MaterialSpec, MaterialSpec | None, Colour]:
    surfaces = []
    for _ in range(2):
        patterned = bool(rng.uniform() < config.room.patterned)
        surfaces.append(sample_material(rng, patterned, config.room.pattern_scale, (0, 0, 0), 0.0, 0.0))
    tint, strength = sample_colour(rng), rng.uniform(*config.lights.ambient)
    if config.background == "fix":
        surfaces, tint = [_FLOOR, _FLOOR], (1.0, 1.0, 1.0)
    if config.light == "fix":
        strength = float(np.mean(config.lights.ambient))
    # mostly white light, a little of the tint
    sky = np.round(strength * (0.75 + 0.25 * np.asarray(tint) / max(max(tint), 1e-6)), 5)
    return surfaces[0], surfaces[1] if config.room.walls else None, (float(sky[0]), float(sky[1]), float(sky[2]))


def _lights(config: RenderConfig, rng: np.random.Generator) -> tuple[LightSpec, ...]:
    c = config.lights
    if config.light == "fix":
        energy, distance, radius = float(np.mean(c.energy)), float(np.mean(c.distance)), float(np.mean(c.radius))
        places = [("AREA", -50.0, 65.0), ("POINT", -125.0, 35.0)]
        white = (1.0, 1.0, 1.0)
        if config.room.walls:
            distance = min(distance, config.room.size / 2 - 0.1)
        watts = _watts(energy, distance)
        return tuple(LightSpec(k, _polar(a, e, distance), watts, radius, white) for k, a, e in places)
    lights = []
    for _ in range(rng.integers(c.count[0], c.count[1] + 1)):
        kind = str(rng.choice(["AREA", "POINT"]))
        # lamps stand on the cameras' side more often than not: things seen are mostly lit
        azimuth = rng.uniform(-180, 180) if rng.uniform() < 0.3 else rng.uniform(-170, -10)
        elevation, distance = rng.uniform(*c.elevation), rng.uniform(*c.distance)
        if config.room.walls:
            distance = min(
                distance, _to_wall(np.zeros(3), np.array(_polar(azimuth, elevation, 1.0)), config.room.size) - 0.1
            )
        tint = 1 - c.tint * rng.uniform(0, 1, 3)
        lights.append(
            LightSpec(
                kind=kind,
                location=_polar(azimuth, elevation, distance),
                energy=_watts(rng.uniform(*c.energy), distance),
                radius=float(rng.uniform(*c.radius)),
                colour=(float(tint[0]), float(tint[1]), float(tint[2])),
            )
        )
    return tuple(lights)


def _watts(at_reference: float, distance: float) -> float:
    return at_reference * (distance / 1.5) ** 2


def _polar(azimuth: float, elevation: float, distance: float) -> tuple[float, float, float]:
    """Return the point at the given degrees about the vertical (0 is +x) and above the floor, metres away."""
    a, e = np.radians(azimuth), np.radians(elevation)
    x, y, z = distance * np.array([np.cos(a) * np.cos(e), np.sin(a) * np.cos(e), np.sin(e)])
    return float(x), float(y), float(z)


def _objects(
    config: RenderConfig, rng: np.random.Generator, kinds: list[Category], floor: Colour, lying: bool
) -> tuple[ObjectSpec, ...]:
    """Place the objects in turn, each in a disc of its own; one for which a hundred places fail is left out."""
    c = config.objects
    placed: list[ObjectSpec] = []
    for kind in kinds:
        size, yaw = float(rng.uniform(*c.size)), float(rng.uniform(*c.yaw))
        shape = _shape(config, rng, kind, lying)
        material = (
            sample_material(rng, kind.textured, c.pattern_scale, floor, c.contrast, c.glossy),
            sample_material(rng, False, c.pattern_scale, floor, c.contrast, c.glossy),
        )
        for _ in range(100):
            radius, angle = c.area * np.sqrt(rng.uniform()), rng.uniform(0, 2 * np.pi)
            position = (float(radius * np.cos(angle)), float(radius * np.sin(angle)))
            if config.appearance == "single":
                position = (0.0, 0.0)
            if all(np.hypot(*np.subtract(position, o.position)) >= (size + o.size) / 2 + c.gap for o in placed):
                placed.append(ObjectSpec(len(placed) + 1, kind.name, kind.id, shape, size, position, yaw, material))
                break
    return tuple(placed)


def _shape(config: RenderConfig, rng: np.random.Generator, kind: Category, lying: bool) -> dict[str, float | str]:
    d = config.digits
    shape: dict[str, float | str] = {"seed": int(rng.integers(2**31)), "lying": int(lying)}
    if not kind.name.startswith("digit_"):
        return shape
    shape["style"] = "font" if rng.uniform() < d.font else "stroke"
    shape["wobble"] = d.wobble
    for key in ("thickness", "depth", "bevel", "slant", "width", "turn"):
        shape[key] = float(rng.uniform(*getattr(d, key)))
    return shape


def _cameras(
    config: RenderConfig, rng: np.random.Generator, objects: tuple[ObjectSpec, ...], fov: float, lying: bool
) -> tuple[tuple[tuple[float, ...], ...], ...]:
    c = config.camera
    places = np.array([o.position for o in objects])
    sizes = np.array([o.size for o in objects])
    centre = np.append(places.mean(0), 0.05 if lying else sizes.mean() / 2)
    # a digit is at most 0.4 deep, which is its height when it lies
    heights = sizes * (0.4 if lying else 1.0)
    group = float((np.hypot(*(places - centre[:2]).T) + sizes / 2).max())
    cameras = []
    for _ in range(c.views):
        for _attempt in range(200):
            target = centre + c.offset * group * rng.uniform(-1, 1, 3) * [1, 1, 0.3 if lying else 1]
            elevation = rng.uniform(*c.elevation)
            azimuth, roll = rng.uniform(*c.azimuth) - 90, rng.uniform(*c.roll)
            distance = group / (rng.uniform(*c.fill) * np.tan(np.radians(fov) / 2))
            line = np.array(_polar(azimuth, 90 - elevation if lying else elevation, 1.0))
            if config.room.walls:
                distance = min(distance, _to_wall(target, line, config.room.size) - 0.1)
            eye = target + distance * line
            # surfaces lie within half a size of an object's axis and below its height
            aside = np.maximum(np.hypot(*(places - eye[:2]).T) - sizes / 2, 0)
            clear = np.hypot(aside, np.maximum(eye[2] - heights, 0)).min()
            if distance > 0 and clear >= c.min_distance and eye[2] > 0.02:
                cameras.append(_look_at(eye, target, roll))
                break
        else:
            raise DataGenError(
                "no camera fits: in 200 tries none was inside the room and 'camera.min_distance' "
                f"({c.min_distance} m) away from all objects; lower it, 'objects.area' or 'objects.count', "
                "or widen 'room.size'"
            )
    return tuple(cameras)


def _to_wall(start: Floats, line: Floats, room: float) -> float:
    """Return how far it is from a point in the room along a unit vector to a wall or the ceiling, metres."""
    ahead = np.where(line >= 0, [room / 2, room / 2, room], [-room / 2, -room / 2, 0])
    with np.errstate(divide="ignore"):
        return float(np.where(line == 0, np.inf, (ahead - start) / line).min())


def _look_at(eye: Floats, target: Floats, roll: float) -> tuple[tuple[float, ...], ...]:
    """Return the camera-to-world matrix of a camera that is upright but for a turn about its line of sight."""
    back = (eye - target) / np.linalg.norm(eye - target)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([right, np.cross(back, right), back], 1) @ rotation("z", roll)
    matrix[:3, 3] = eye
    return tuple(tuple(float(x) for x in row) for row in matrix)
