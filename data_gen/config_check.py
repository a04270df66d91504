"""Reading and checking render configurations from YAML or dicts: every error names the key and its valid values."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from data_gen.library import resolve
from data_gen.render_config import RenderConfig, SourceConfig
from lightning_tl.errors import UserError, nearest


def config_to_dict(config: RenderConfig) -> dict[str, Any]:
    """Return the configuration as nested dicts of plain values (pairs as lists), as JSON and YAML hold it."""
    return typing.cast(dict[str, Any], json.loads(json.dumps(dataclasses.asdict(config))))


def config_from_dict(values: Mapping[str, Any]) -> RenderConfig:
    """Build and check a configuration from nested plain values; missing keys keep their defaults.

    Raises:
        UserError: an unknown key or category, a value of the wrong type or out of range.
    """
    config = typing.cast(RenderConfig, _build(RenderConfig, values, ""))
    check_config(config)
    return config


def load_config(source: str | Path | Mapping[str, Any]) -> RenderConfig:
    """Read a configuration from a YAML file, or from a mapping as :func:`config_from_dict` does.

    Raises:
        UserError: the file does not exist, is not a YAML mapping, or has wrong values; names the file.
    """
    if isinstance(source, Mapping):
        return config_from_dict(source)
    path = Path(source)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the render configuration {path}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if values is not None and not isinstance(values, Mapping):
        raise UserError(f"{path} should hold keys and values, such as 'appearance: single', not {values!r}")
    try:
        return config_from_dict(values or {})
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


# Keys added after the first data sets. The hash ignores them at their defaults, so that older sets can still grow.
_LATER = {
    "sources": [],
    "objects.distractors": [0, 0],
    "camera.intrinsics": "",
    "camera.shift": 0.0,
    "lights.layout": "free",
    "lights.hdris": "",
    "lights.hdri_share": 1.0,
    "room.materials": "",
    "room.material_share": 1.0,
    "room.material_scale": [0.4, 1.5],
    "room.fixed_material": "",
}
# paths of the user's files: the hash uses their contents instead
_PLACES = ("camera.intrinsics", "lights.hdris", "room.materials")


def scene_hash(config: RenderConfig, contents: str = "") -> int:
    """Return a 64-bit hash of what decides the scenes: all of the configuration but seed, image and shard size.

    Args:
        config: the configuration; folders and files of the user count by their contents, not by their names.
        contents: the fingerprint of the contents (:attr:`data_gen.sources.Catalogue.fingerprint`).
    """
    values = config_to_dict(config)
    for key in ("seed", "image", "scenes_per_shard"):
        del values[key]
    for key, default in _LATER.items():
        *parents, name = key.split(".")
        group = values[parents[0]] if parents else values
        if group[name] == default:
            del group[name]
        elif key in _PLACES:
            group[name] = "given"
    for source in values.get("sources", []):
        del source["path"], source["csv"]
    if contents:
        values["contents"] = contents
    return int.from_bytes(hashlib.sha256(json.dumps(values, sort_keys=True).encode()).digest()[:8], "big")


def _build(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise UserError(f"'{where}' should hold keys and values, not {value!r}")
        hints = typing.get_type_hints(kind)
        for key in value:
            if key not in hints:
                raise UserError(f"unknown key '{_join(where, key)}'{nearest(key, hints)}")
        return typing.cast(Any, kind)(**{key: _build(hints[key], value[key], _join(where, key)) for key in value})
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:  # a kind or nothing
        return None if value is None else _build(args[0], value, where)
    if origin is Literal:
        if value not in args or isinstance(value, bool):
            raise UserError(f"'{where}' cannot be {value!r}{nearest(value, args)}")
        return value
    if origin is tuple and isinstance(value, (list, tuple)) and len(value) == len(args):
        return tuple(_build(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(args, value, strict=True)))
    if origin is list and isinstance(value, (list, tuple)):
        return [_build(args[0], v, f"{where}[{i}]") for i, v in enumerate(value)]
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise UserError(f"'{where}' should be {_words(kind)}, not {value!r}")


def _join(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


def _words(kind: Any) -> str:
    if isinstance(kind, types.GenericAlias):
        if kind.__origin__ is tuple:
            return "a pair [low, high]"
        return f"a list of {_words(kind.__args__[0]).removeprefix('a ')}s"
    if kind is SourceConfig:
        return "a group of keys and value"
    return {float: "a number", int: "a whole number", bool: "true or false", str: "a text"}.get(kind, str(kind))


# smallest and largest allowed value of each number (for a pair: of both ends)
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
    "objects.distractors": (0, 200),
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
    "camera.shift": (0, 0.5),
    "lights.count": (1, 20),
    "lights.energy": (0, 1e6),
    "lights.distance": (0.1, 100),
    "lights.elevation": (5, 90),
    "lights.radius": (0.001, 10),
    "lights.tint": (0, 1),
    "lights.ambient": (0, 100),
    "lights.hdri_share": (0, 1),
    "room.size": (0.5, 1000),
    "room.patterned": (0, 1),
    "room.pattern_scale": (0.01, 1000),
    "room.material_share": (0, 1),
    "room.material_scale": (0.01, 1000),
    "image.size": (8, 4096),
    "image.height": (0, 4096),
    "image.samples": (1, 65536),
    "image.bounces": (0, 64),
    "image.exposure": (0.001, 1000),
    "image.min_brightness": (0, 0.9),
    "image.jpeg_quality": (1, 100),
}


def check_config(config: RenderConfig) -> None:
    """Check the values, ranges and categories of a configuration.

    Raises:
        UserError: names the key, the value and the valid values.
    """
    _build(RenderConfig, config_to_dict(config), "")
    _check_sources(config)
    for key, (low, high) in _BOUNDS.items():
        value: Any = config
        for name in key.split("."):
            value = getattr(value, name)
        if value is None:  # only where a key may be empty: _build has checked that
            continue
        for number in value if isinstance(value, (tuple, list)) else (value,):
            if not (math.isfinite(number) and low <= number <= high):
                raise UserError(f"'{key}' is {number}, but must be from {low} to {high}")
        if isinstance(value, (tuple, list)) and value[0] > value[1]:
            raise UserError(f"'{key}' is [{value[0]}, {value[1]}], but the low end comes first")
    if 0 < config.image.height < 8:
        raise UserError(f"'image.height' is {config.image.height}, but must be 0 (as the width) or at least 8")
    reach = config.objects.size[1] / 2 + (config.objects.area if config.appearance == "multiple" else 0)
    if config.room.walls and reach > config.room.size / 2 - 0.1:
        raise UserError(
            f"objects reach {reach:g} m from the middle ('objects.area' and half of 'objects.size'), too far for a "
            f"room of {config.room.size:g} m with walls: widen 'room.size', or make those smaller"
        )
    if config.lights.hdris and config.room.walls:
        raise UserError("'lights.hdris' cannot light a closed room: set 'room.walls' to 0")
    if config.lights.hdris and config.light == "fix":
        raise UserError("'lights.hdris' is drawn from where 'light' is random, but it is 'fix': leave one of them out")
    if config.room.materials and config.background == "fix" and not config.room.fixed_material:
        raise UserError(
            "'room.materials' is drawn from where 'background' is random, but it is 'fix': name one material as "
            "'room.fixed_material', or leave 'room.materials' out"
        )
    if config.room.fixed_material and not config.room.materials:
        raise UserError("'room.fixed_material' names one of 'room.materials': give that folder")


def _check_sources(config: RenderConfig) -> None:
    builtin = [s for s in config.sources if s.kind == "builtin"]
    if not config.sources:
        resolve(config.categories, config.texture == "with")
    elif config.categories != RenderConfig().categories:
        raise UserError("'categories' is for data sets without 'sources': put it into a source of kind: builtin")
    elif not any(s.role == "object" for s in config.sources):
        raise UserError("'sources' holds only distractors: add a source with role: object")
    for i, source in enumerate(config.sources):
        where = f"sources[{i}]"
        if not (math.isfinite(source.weight) and source.weight > 0):
            raise UserError(
                f"'{where}.weight' is {source.weight}, but must be above 0; to leave a source out, delete it"
            )
        if source.models < 0:
            raise UserError(f"'{where}.models' is {source.models}, but must be 0 (all) or more")
        if source.max_faces < 100:
            raise UserError(f"'{where}.max_faces' is {source.max_faces}, but must be at least 100")
        if source.csv and source.kind != "folder":
            raise UserError(f"'{where}.csv' goes with kind: folder, not {source.kind}")
        if source in builtin:
            if source.path:
                raise UserError(
                    f"'{where}.path' is '{source.path}', but the built-in library has no folder: kind: folder?"
                )
            resolve(source.categories or ["all"], key=f"{where}.categories")
        elif not source.path:
            raise UserError(f"'{where}.path' is missing: the folder of the {source.kind} source")
