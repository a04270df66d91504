"""Sampling of scenes with numpy only: each is a pure function of (configuration, contents, seed, split, scene index).

For frames and units see :mod:`data_gen.scene_spec`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_gen.config_check import check_config, config_from_dict, config_to_dict, load_config, scene_hash
from data_gen.library import Category, MaterialSpec
from data_gen.library.materials import Colour, sample_colour, sample_material
from data_gen.library.mesh import Floats, rotation
from data_gen.render_config import (
    CameraConfig,
    DigitsConfig,
    ImageConfig,
    LightsConfig,
    ObjectsConfig,
    RenderConfig,
    RoomConfig,
    SourceConfig,
)
from data_gen.scene_spec import LightSpec, MeshSpec, ObjectSpec, SceneSpec
from data_gen.sources import Catalogue, Lens, Source, open_catalogue
from lightning_tl.errors import UserError

__all__ = [
    "SPLITS",
    "CameraConfig",
    "DigitsConfig",
    "ImageConfig",
    "LightSpec",
    "LightsConfig",
    "MeshSpec",
    "ObjectSpec",
    "ObjectsConfig",
    "RenderConfig",
    "RoomConfig",
    "SceneSpec",
    "SourceConfig",
    "check_config",
    "config_from_dict",
    "config_to_dict",
    "load_config",
    "sample_scene",
    "scene_hash",
]

SPLITS = ("train", "val")
"""The splits of a data set; each has its own stream of seeds."""

_FILL_SINGLE, _FILL_GROUP = (0.6, 0.95), (0.9, 1.3)
"""Where ``camera.fill`` is empty. At (0.6, 0.95) half of the boxes of a group are under 8 px in images of 64 px."""

_FLOOR = MaterialSpec("plain", (0.3, 0.3, 0.3), (0.3, 0.3, 0.3), 1.0)


@dataclass(frozen=True)
class _Kind:
    """What an object will be: its category, perhaps a mesh, and its size in metres if that is not drawn."""

    category: Category
    mesh: MeshSpec | None = None
    size: float | None = None


def sample_scene(
    config: RenderConfig, seed: int, split: str, scene_index: int, catalogue: Catalogue | None = None
) -> SceneSpec:
    """Draw a scene.

    Args:
        config: what to draw; its ``seed`` and ``image`` are not used, except for the shape of the images.
        seed: 0 or more.
        split: one of :data:`SPLITS`.
        scene_index: 0 or more.
        catalogue: contents of the configuration's sources; ``None`` opens them for this scene.

    Raises:
        UserError: an unknown split or category, or no camera position fits.
    """
    if split not in SPLITS:
        raise UserError(f"unknown split '{split}'; valid: {', '.join(SPLITS)}")
    contents = catalogue or open_catalogue(config)
    entropy = (scene_hash(config, contents.fingerprint), seed, SPLITS.index(split))
    rng = np.random.default_rng((*entropy, 0, scene_index))
    # what came later is drawn from a stream of its own, so that earlier data sets stay what they were
    own = np.random.default_rng((*entropy, 2, scene_index))
    floor, walls, sky = _background(config, rng)
    lights = _lights(config, rng)
    lying = bool(rng.uniform() < config.objects.lying)
    kinds = _kinds(config, rng, own, entropy, scene_index, contents.objects)
    objects = _objects(config, rng, kinds, floor.colour, lying, ())
    if config.objects.distractors[1]:
        count = int(own.integers(config.objects.distractors[0], config.objects.distractors[1] + 1))
        more = [_draw(own, contents.distractors) for _ in range(count)]
        objects += _objects(config, own, more, floor.colour, lying, objects)
    fov = float(rng.uniform(*config.camera.fov))
    lens = contents.lens or _lens(config, own, fov)
    cameras = _cameras(config, rng, objects, lens, lying)
    scene_seed = int(rng.integers(2**31 - 1))
    if contents.materials and config.background == "fix":
        floor = _of_maps(floor, contents.materials[0].name, float(np.mean(config.room.material_scale)))
        walls = walls and floor
    elif contents.materials:
        floor = _from_maps(config, own, floor, contents)
        walls = walls and _from_maps(config, own, walls, contents)
    panorama, turn = "", 0.0
    if contents.hdris and config.light == "random" and own.uniform() < config.lights.hdri_share:
        panorama, turn = contents.hdris[own.integers(len(contents.hdris))].name, float(own.uniform(-180, 180))
        lights = ()
    return SceneSpec(
        split=split,
        scene=scene_index,
        seed=scene_seed,
        objects=objects,
        lights=lights,
        floor=floor,
        walls=walls,
        room=config.room.size,
        sky=sky,
        lens=lens,
        cameras=cameras,
        panorama=panorama,
        panorama_turn=turn,
    )


def _kinds(
    config: RenderConfig,
    rng: np.random.Generator,
    own: np.random.Generator,
    entropy: tuple[int, ...],
    scene: int,
    sources: tuple[Source, ...],
) -> list[_Kind]:
    """Draw the categories, meshes and sizes of a scene's labelled objects."""
    if config.appearance == "single":
        number, turn_index = _turn(sources, scene)
        source = sources[number]
        # a turn of all categories is shuffled, so that every prefix of the data set is balanced to within one each
        turn, place = divmod(turn_index, len(source.categories))
        stream = (*entropy, 1, turn) if len(sources) == 1 else (*entropy, 1, turn, number)
        order = np.random.default_rng(stream).permutation(len(source.categories))
        return [_kind(own, source, source.categories[order[place]])]
    low, high = config.objects.count
    count = int(rng.integers(low, high + 1))
    if len(sources) == 1:
        categories = sources[0].categories
        return [_kind(own, sources[0], categories[i]) for i in rng.integers(len(categories), size=count)]
    return [_draw(own, sources) for _ in range(count)]


def _turn(sources: tuple[Source, ...], scene: int) -> tuple[int, int]:
    """Return the source of a scene's only object, and the number of earlier scenes with that source.

    Sources take turns by their weights along a golden-ratio sequence, so that every prefix holds its share of each.
    """
    if len(sources) == 1:
        return 0, scene
    share = np.cumsum([s.config.weight for s in sources])
    place = ((np.arange(scene + 1) + 0.5) * 0.6180339887498949) % 1.0
    number = np.minimum(np.searchsorted(share / share[-1], place, side="right"), len(sources) - 1)
    return int(number[-1]), int((number[:-1] == number[-1]).sum())


def _draw(own: np.random.Generator, sources: tuple[Source, ...]) -> _Kind:
    weights = np.array([s.config.weight for s in sources])
    source = sources[own.choice(len(sources), p=weights / weights.sum())]
    return _kind(own, source, source.categories[own.integers(len(source.categories))])


def _kind(own: np.random.Generator, source: Source, category: Category) -> _Kind:
    if source.config.role == "distractor":
        category = Category(category.name, 0, category.textured)
    if not source.models:
        return _Kind(category)
    models = source.models[category.name]
    model = models[own.integers(len(models))]
    mesh = MeshSpec(source.number, model.file, model.sha256)
    return _Kind(category, mesh, model.extent if source.config.scale == "metric" else None)


def _lens(config: RenderConfig, own: np.random.Generator, fov: float) -> Lens:
    focal = 1 / (2 * float(np.tan(np.radians(fov) / 2)))
    x, y = (float(v) for v in own.uniform(-1, 1, 2) * config.camera.shift) if config.camera.shift else (0.0, 0.0)
    return Lens(focal, focal, x, y)


def _from_maps(
    config: RenderConfig, own: np.random.Generator, drawn: MaterialSpec, catalogue: Catalogue
) -> MaterialSpec:
    """Replace a procedural material by a PBR material, as often as the configuration says."""
    if own.uniform() >= config.room.material_share:
        return drawn
    chosen = catalogue.materials[own.integers(len(catalogue.materials))]
    return _of_maps(drawn, chosen.name, float(own.uniform(*config.room.material_scale)))


def _of_maps(drawn: MaterialSpec, name: str, scale: float) -> MaterialSpec:
    return MaterialSpec("plain", drawn.colour, drawn.second, round(scale, 4), drawn.roughness, name)


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
    if c.layout == "pair":
        return _lamp_pair(config, rng)
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


def _lamp_pair(config: RenderConfig, rng: np.random.Generator) -> tuple[LightSpec, ...]:
    """Draw one area lamp under the ceiling and one point lamp anywhere around the objects."""
    c, side = config.lights, config.room.size
    above = (*rng.uniform(-0.2 * side, 0.2 * side, 2), 0.95 * side)
    aside = _polar(rng.uniform(-180, 180), rng.uniform(*c.elevation), rng.uniform(*c.distance))
    if config.room.walls:
        line = np.array(aside) / np.linalg.norm(aside)
        x, y, z = line * min(np.linalg.norm(aside), _to_wall(np.zeros(3), line, side) - 0.1)
        aside = float(x), float(y), float(z)
    lamps = []
    for kind, place, widen in (("AREA", above, 2.0), ("POINT", aside, 1.0)):
        tint = 1 - c.tint * rng.uniform(0, 1, 3)
        lamps.append(
            LightSpec(
                kind=kind,
                location=(float(place[0]), float(place[1]), float(place[2])),
                energy=_watts(rng.uniform(*c.energy), float(np.linalg.norm(place))),
                radius=widen * float(rng.uniform(*c.radius)),
                colour=(float(tint[0]), float(tint[1]), float(tint[2])),
            )
        )
    return tuple(lamps)


def _watts(at_reference: float, distance: float) -> float:
    return at_reference * (distance / 1.5) ** 2


def _polar(azimuth: float, elevation: float, distance: float) -> tuple[float, float, float]:
    """Return the point at the given degrees about the vertical (0 is +x) and above the floor, metres away."""
    a, e = np.radians(azimuth), np.radians(elevation)
    x, y, z = distance * np.array([np.cos(a) * np.cos(e), np.sin(a) * np.cos(e), np.sin(e)])
    return float(x), float(y), float(z)


def _objects(
    config: RenderConfig,
    rng: np.random.Generator,
    kinds: list[_Kind],
    floor: Colour,
    lying: bool,
    there: tuple[ObjectSpec, ...],
) -> tuple[ObjectSpec, ...]:
    """Place objects one by one, each in a disc of its own; an object for which a hundred places fail is left out.

    The object of a scene with a single object is in the middle, and later objects (``there``) are around it.
    """
    c = config.objects
    placed: list[ObjectSpec] = []
    for kind in kinds:
        size, yaw = float(rng.uniform(*c.size)), float(rng.uniform(*c.yaw))
        size = size if kind.size is None else kind.size
        shape = _shape(config, rng, kind.category, lying and kind.mesh is None)
        material = (
            sample_material(
                rng, kind.category.textured and kind.mesh is None, c.pattern_scale, floor, c.contrast, c.glossy
            ),
            sample_material(rng, False, c.pattern_scale, floor, c.contrast, c.glossy),
        )
        for _ in range(100):
            radius, angle = c.area * np.sqrt(rng.uniform()), rng.uniform(0, 2 * np.pi)
            position = (float(radius * np.cos(angle)), float(radius * np.sin(angle)))
            if config.appearance == "single" and not there:
                position = (0.0, 0.0)
            if all(
                np.hypot(*np.subtract(position, o.position)) >= (size + o.size) / 2 + c.gap for o in (*there, *placed)
            ):
                number = len(there) + len(placed) + 1
                name, category = kind.category.name, kind.category.id
                placed.append(ObjectSpec(number, name, category, shape, size, position, yaw, material, kind.mesh))
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
    config: RenderConfig, rng: np.random.Generator, objects: tuple[ObjectSpec, ...], lens: Lens, lying: bool
) -> tuple[tuple[tuple[float, ...], ...], ...]:
    c = config.camera
    places = np.array([o.position for o in objects])
    sizes = np.array([o.size for o in objects])
    labelled = np.array([o.category_id > 0 for o in objects])
    centre = np.append(places[labelled].mean(0), 0.05 if lying else sizes[labelled].mean() / 2)
    # a digit is at most 0.4 deep, which is its height when it lies
    heights = sizes * [0.4 if o.shape["lying"] else 1.0 for o in objects]
    group = float((np.hypot(*(places - centre[:2]).T) + sizes / 2)[labelled].max())
    rows, columns = config.image.shape
    half = min(1 / lens.fx, rows / columns / lens.fy) / 2  # tangent of half the narrower field of view
    fill = c.fill or (_FILL_SINGLE if labelled.sum() == 1 else _FILL_GROUP)
    cameras = []
    for _ in range(c.views):
        for attempt in range(400):
            target = centre + c.offset * group * rng.uniform(-1, 1, 3) * [1, 1, 0.3 if lying else 1]
            elevation = rng.uniform(*c.elevation)
            azimuth, roll = rng.uniform(*c.azimuth) - 90, rng.uniform(*c.roll)
            distance = group / (rng.uniform(*fill) * half)
            if attempt >= 200:  # things too small to fill the frame from as far away as the camera must stay
                distance = max(distance, group + 1.2 * c.min_distance)
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
            raise UserError(
                "no camera fits: in 400 tries none was inside the room and 'camera.min_distance' "
                f"({c.min_distance} m) away from all objects; lower it, 'objects.area' or 'objects.count', "
                "or widen 'room.size'"
            )
    return tuple(cameras)


def _to_wall(start: Floats, line: Floats, room: float) -> float:
    """Return the distance from a point in the room along a unit vector to a wall or the ceiling, metres."""
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
