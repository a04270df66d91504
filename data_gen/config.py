"""What can be configured about a rendered data set: nested dataclasses of plain values, read from YAML or dicts.

The four knobs ``appearance``, ``light``, ``background`` and ``texture`` are those of Mikami et al., *A Scaling Law for
Syn2real Transfer* (arXiv 2108.11018), Appendix B. A pair is always a range ``(low, high)`` sampled uniformly.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from data_gen.errors import DataGenError, nearest
from data_gen.library import resolve

Range = tuple[float, float]


@dataclass
class DigitsConfig:
    """How digits are written. Lengths are in heights of the digit.

    Args:
        font: share of digits made from Blender's built-in font; the others are pen strokes, varied like handwriting.
        thickness: width of the pen; for the font the outline grows and shrinks by a like amount.
        depth: extrusion.
        bevel: rounding of the font's edges.
        wobble: standard deviation of the strokes' control points.
        slant: shear, positive to the right.
        width: factor on the width.
        turn: degrees, counter-clockwise in the digit's own plane.
    """

    font: float = 0.35
    thickness: Range = (0.09, 0.22)
    depth: Range = (0.08, 0.3)
    bevel: Range = (0.0, 0.02)
    wobble: float = 0.035
    slant: Range = (-0.1, 0.4)
    width: Range = (0.7, 1.15)
    turn: Range = (-8.0, 8.0)


@dataclass
class ObjectsConfig:
    """Objects and where they stand.

    Args:
        count: fewest and most objects of a scene with ``appearance: multiple``.
        size: the larger of an object's height and diameter, metres.
        area: radius of the disc of floor that the objects stand on where there are several, metres.
        gap: least distance between two objects, metres.
        yaw: turn about the vertical, degrees; at 0 a digit faces the middle of the cameras' azimuths.
        lying: share of scenes in which objects lie on their backs; the cameras then look from above as they would have
            looked from the front (elevation e becomes 90° − e). Meant for digits.
        pattern_scale: repetitions of a pattern a metre, on objects of textured categories.
        contrast: least difference in lightness between an object's first colour and the floor's, 0 … 0.35.
        glossy: share of materials that shine; a purely diffuse surface is a third cheaper.
    """

    count: tuple[int, int] = (2, 10)
    size: Range = (0.35, 0.55)
    area: float = 0.9
    gap: float = 0.03
    yaw: Range = (-180.0, 180.0)
    lying: float = 0.0
    pattern_scale: Range = (4.0, 14.0)
    contrast: float = 0.12
    glossy: float = 0.0


@dataclass
class CameraConfig:
    """Cameras that look at a point of interest near the middle of the objects.

    Args:
        views: cameras a scene.
        azimuth: degrees about the vertical; 0 is in front (where digits face).
        elevation: degrees above the horizon.
        roll: degrees about the line of sight.
        fov: field of view, degrees.
        fill: diameter of the (group of) objects in widths of the image.
        offset: how far the point of interest strays from the middle, in radii of the group.
        min_distance: least distance from the camera to any object's surface, metres.
    """

    views: int = 4
    azimuth: Range = (-180.0, 180.0)
    elevation: Range = (10.0, 50.0)
    roll: Range = (-8.0, 8.0)
    fov: Range = (35.0, 50.0)
    fill: Range = (0.6, 0.95)
    offset: float = 0.15
    min_distance: float = 0.2


@dataclass
class LightsConfig:
    """Lamps and ambient light. With ``light: fix`` one area lamp and one point lamp stand still, at mid-range energy.

    Args:
        count: fewest and most lamps where light is random; more than one a scene gives softer, more varied shading.
        energy: watts of a lamp at 1.5 m (further lamps are stronger, by the square of the distance).
        distance: metres from the middle of the floor.
        elevation: degrees above the horizon.
        radius: radius of a point lamp, half the side of an area lamp, metres: how soft its shadows are.
        tint: how far a lamp's colour strays from white, 0 … 1.
        ambient: strength of the light from everywhere.
    """

    count: tuple[int, int] = (2, 3)
    energy: Range = (20.0, 60.0)
    distance: Range = (1.2, 2.2)
    elevation: Range = (25.0, 80.0)
    radius: Range = (0.08, 0.4)
    tint: float = 0.15
    ambient: Range = (0.15, 0.45)


@dataclass
class RoomConfig:
    """What stands around the objects.

    Args:
        walls: 4 closes the room (the paper's cube); 0 leaves a wide floor under an even sky, at half the cost.
        size: side of the room, metres; its height is the same.
        patterned: share of floors (and walls) with a pattern, where the background is random.
        pattern_scale: repetitions of a pattern a metre.
    """

    walls: Literal[0, 4] = 4
    size: float = 4.0
    patterned: float = 0.5
    pattern_scale: Range = (0.6, 5.0)


@dataclass
class ImageConfig:
    """What is rendered of a scene; the scene itself does not depend on it.

    Args:
        size: width and height, pixels.
        samples: light paths a pixel.
        bounces: how often light is passed on between surfaces.
        denoise: run Cycles' OpenImageDenoise (fast).
        exposure: factor on the light before the tone curve.
        depth: also write ``depth.png``.
        format: ``png`` or ``jpg`` for the colours.
        jpeg_quality: 1 … 100.
    """

    size: int = 64
    samples: int = 4
    bounces: int = 2
    denoise: bool = True
    exposure: float = 1.0
    depth: bool = False
    format: Literal["png", "jpg"] = "png"
    jpeg_quality: int = 92


@dataclass
class RenderConfig:
    """A rendered data set. Its images are a pure function of this configuration.

    Args:
        seed: another seed, other scenes.
        categories: names of categories, or of the groups ``digits``, ``shapes``, ``all``.
        appearance: ``single`` (one object a scene; categories come in balanced turns) or ``multiple`` (up to ten).
        light: ``fix`` or ``random`` lamps.
        background: ``fix`` or ``random`` floor, walls and sky.
        texture: ``with`` samples all the categories, ``without`` only those that have no texture. No texture is taken
            off an object.
        objects: see :class:`ObjectsConfig`.
        digits: see :class:`DigitsConfig`.
        camera: see :class:`CameraConfig`.
        lights: see :class:`LightsConfig`.
        room: see :class:`RoomConfig`.
        image: see :class:`ImageConfig`.
        scenes_per_shard: scenes a tar file; the shard is what an interruption can lose.
    """

    seed: int = 0
    categories: list[str] = field(default_factory=lambda: ["shapes"])
    appearance: Literal["single", "multiple"] = "multiple"
    light: Literal["fix", "random"] = "random"
    background: Literal["fix", "random"] = "random"
    texture: Literal["with", "without"] = "with"
    objects: ObjectsConfig = field(default_factory=ObjectsConfig)
    digits: DigitsConfig = field(default_factory=DigitsConfig)
    camera: CameraConfig = field(default_factory=CameraConfig)
    lights: LightsConfig = field(default_factory=LightsConfig)
    room: RoomConfig = field(default_factory=RoomConfig)
    image: ImageConfig = field(default_factory=ImageConfig)
    scenes_per_shard: int = 16


def config_to_dict(config: RenderConfig) -> dict[str, Any]:
    """Return the configuration as nested dicts of plain values (pairs as lists), as JSON and YAML hold it."""
    return typing.cast(dict[str, Any], json.loads(json.dumps(dataclasses.asdict(config))))


def config_from_dict(values: Mapping[str, Any]) -> RenderConfig:
    """Build and check a configuration from nested plain values; what is missing keeps its default.

    Raises:
        DataGenError: an unknown key or category, a value of the wrong kind or out of its range.
    """
    config = typing.cast(RenderConfig, _build(RenderConfig, values, ""))
    check_config(config)
    return config


def load_config(source: str | Path | Mapping[str, Any]) -> RenderConfig:
    """Read a configuration from a YAML file, or from a mapping as :func:`config_from_dict` does.

    Raises:
        DataGenError: there is no such file, it is no YAML mapping, or its values are wrong (with the file's name).
    """
    if isinstance(source, Mapping):
        return config_from_dict(source)
    path = Path(source)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataGenError(f"cannot read the render configuration {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataGenError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if values is not None and not isinstance(values, Mapping):
        raise DataGenError(f"{path} should hold keys and values, such as 'appearance: single', not {values!r}")
    try:
        return config_from_dict(values or {})
    except DataGenError as error:
        raise DataGenError(f"{path}: {error}") from None


def scene_hash(config: RenderConfig) -> int:
    """Return 64 bits that identify what scenes the configuration draws: all of it but seed, image and shard size."""
    values = config_to_dict(config)
    for key in ("seed", "image", "scenes_per_shard"):
        del values[key]
    return int.from_bytes(hashlib.sha256(json.dumps(values, sort_keys=True).encode()).digest()[:8], "big")


def _build(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise DataGenError(f"'{where}' should hold keys and values, not {value!r}")
        hints = typing.get_type_hints(kind)
        for key in value:
            if key not in hints:
                raise DataGenError(f"unknown key '{_join(where, key)}'{nearest(key, hints)}")
        return typing.cast(Any, kind)(**{key: _build(hints[key], value[key], _join(where, key)) for key in value})
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        if value not in args or isinstance(value, bool):
            raise DataGenError(f"'{where}' cannot be {value!r}{nearest(value, args)}")
        return value
    if origin is tuple and isinstance(value, (list, tuple)) and len(value) == len(args):
        return tuple(_build(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(args, value, strict=True)))
    if origin is list and isinstance(value, (list, tuple)):
        return [_build(args[0], v, f"{where}[{i}]") for i, v in enumerate(value)]
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise DataGenError(f"'{where}' should be {_words(kind)}, not {value!r}")


def _join(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


def _words(kind: Any) -> str:
    if isinstance(kind, types.GenericAlias):
        if kind.__origin__ is tuple:
            return "a pair [low, high]"
        return f"a list of {_words(kind.__args__[0]).removeprefix('a ')}s"
    return {float: "a number", int: "a whole number", bool: "true or false", str: "a text"}.get(kind, str(kind))


# least and greatest allowed value of each number (for a pair: of both its ends)
_BOUNDS: dict[str, tuple[float, float]] = {
    "seed": (0, 2**63 - 1),
    "scenes_per_shard": (1, 100_000),
    "objects.count": (1, 200),
    "objects.size": (0.01, 100),
    "objects.area": (0.01, 1000),
    "objects.gap": (0, 100),
    "objects.yaw": (-360, 360),
    "objects.lying": (0, 1),
    "objects.pattern_scale": (0.01, 1000),
    "objects.contrast": (0, 0.35),
    "objects.glossy": (0, 1),
    "digits.font": (0, 1),
    "digits.thickness": (0.02, 0.4),
    "digits.depth": (0.01, 2),
    "digits.bevel": (0, 0.05),
    "digits.wobble": (0, 0.2),
    "digits.slant": (-1, 1),
    "digits.width": (0.2, 3),
    "digits.turn": (-180, 180),
    "camera.views": (1, 99),
    "camera.azimuth": (-360, 360),
    "camera.elevation": (1, 89),
    "camera.roll": (-180, 180),
    "camera.fov": (5, 120),
    "camera.fill": (0.05, 2),
    "camera.offset": (0, 1),
    "camera.min_distance": (0.15, 100),
    "lights.count": (1, 20),
    "lights.energy": (0, 1e6),
    "lights.distance": (0.1, 100),
    "lights.elevation": (5, 90),
    "lights.radius": (0.001, 10),
    "lights.tint": (0, 1),
    "lights.ambient": (0, 100),
    "room.size": (0.5, 1000),
    "room.patterned": (0, 1),
    "room.pattern_scale": (0.01, 1000),
    "image.size": (8, 4096),
    "image.samples": (1, 65536),
    "image.bounces": (0, 64),
    "image.exposure": (0.001, 1000),
    "image.jpeg_quality": (1, 100),
}


def check_config(config: RenderConfig) -> None:
    """Check values, ranges and categories of a configuration, however it was built.

    Raises:
        DataGenError: naming the key, the value and what it may be.
    """
    _build(RenderConfig, config_to_dict(config), "")
    resolve(config.categories, config.texture == "with")
    for key, (low, high) in _BOUNDS.items():
        value: Any = config
        for name in key.split("."):
            value = getattr(value, name)
        for number in value if isinstance(value, (tuple, list)) else (value,):
            if not (math.isfinite(number) and low <= number <= high):
                raise DataGenError(f"'{key}' is {number}, but must be from {low} to {high}")
        if isinstance(value, (tuple, list)) and value[0] > value[1]:
            raise DataGenError(f"'{key}' is [{value[0]}, {value[1]}], but the low end comes first")
    reach = config.objects.size[1] / 2 + (config.objects.area if config.appearance == "multiple" else 0)
    if config.room.walls and reach > config.room.size / 2 - 0.1:
        raise DataGenError(
            f"objects reach {reach:g} m from the middle ('objects.area' and half of 'objects.size'), too far for a "
            f"room of {config.room.size:g} m with walls: widen 'room.size', or make those smaller"
        )
