"""PBR materials in the layout of ambientCG, and panoramas for ambient light."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lightning_tl.errors import UserError, nearest

_MAP = re.compile(
    r"(.+)_(Color|NormalGL|Roughness|Displacement|AmbientOcclusion|Metalness|NormalDX|Opacity)$", re.IGNORECASE
)
_IMAGES = (".jpg", ".jpeg", ".png")
_USED = ("color", "normalgl", "roughness", "metalness")
_NEEDED = "color"
PANORAMAS = (".hdr", ".exr")


@dataclass(frozen=True)
class PbrMaterial:
    """A PBR material: one image file per map.

    Attributes:
        name: start of its file names, with the folder relative to the root.
        maps: files by ``color`` (always there), ``normalgl``, ``roughness``, ``metalness``.
        sha256: hash of all maps.
    """

    name: str
    maps: dict[str, str]
    sha256: str


@dataclass(frozen=True)
class Panorama:
    """A panorama that gives the ambient light.

    Attributes:
        name: path relative to the root.
        file: path.
        sha256: hash of its content.
        mean: mean of its channels over the sphere.
    """

    name: str
    file: str
    sha256: str
    mean: float


def find_materials(root: Path, notes: list[str]) -> tuple[PbrMaterial, ...]:
    """Find PBR materials: files ``NAME_Color.jpg`` with ``NAME_NormalGL.jpg`` and so on, in any folder below ``root``.

    Displacement and occlusion maps are not used: objects stand on a flat floor, and the renderer computes occlusion.

    Args:
        root: the folder.
        notes: list to which a line is appended about files that cannot be used.

    Raises:
        UserError: the folder does not exist, or has none that can be used.
    """
    sets: dict[tuple[str, str], dict[str, Path]] = {}
    for path in _below(root, "room.materials"):
        match = _MAP.fullmatch(path.stem)
        if match and path.suffix.lower() in _IMAGES:
            sets.setdefault((str(path.parent), match[1]), {})[match[2].lower()] = path
    materials, faults = [], []
    for (folder, stem), maps in sorted(sets.items()):
        name = (Path(folder).relative_to(root) / stem).as_posix()
        if _NEEDED not in maps:
            faults.append(f"{name} has no {stem}_Color.jpg")
            continue
        try:
            used = {kind: maps[kind] for kind in _USED if kind in maps}
            for path in used.values():
                _check_image(path)
        except UserError as error:
            faults.append(str(error))
            continue
        digest = hashlib.sha256(b"".join(hashlib.sha256(p.read_bytes()).digest() for p in used.values())).hexdigest()
        materials.append(PbrMaterial(name, {kind: str(path) for kind, path in used.items()}, digest))
    if not materials:
        why = "; ".join(faults[:3]) or "unpack those of ambientCG there: NAME/NAME_1K-JPG_Color.jpg, …"
        raise UserError(f"'room.materials': no usable PBR material in {root}: {why}")
    if faults:
        notes.append(f"room.materials: {len(faults)} of {len(sets)} materials cannot be used: {'; '.join(faults[:5])}")
    return tuple(materials)


def named_material(materials: tuple[PbrMaterial, ...], name: str) -> PbrMaterial:
    """Return the material of a name, such as ``Fabric001`` for the files ``Fabric001_1K-JPG_Color.jpg`` and so on.

    Raises:
        UserError: no such material.
    """
    own = {material.name.rpartition("/")[2]: material for material in materials}
    for key, material in own.items():
        if key == name or key.startswith(f"{name}_"):
            return material
    names = sorted(key.partition("_")[0] for key in own)
    raise UserError(f"'room.fixed_material' is '{name}', which is not in 'room.materials'{nearest(name, names)}")


def find_hdris(root: Path, notes: list[str]) -> tuple[Panorama, ...]:
    """Find panoramas, in any folder below ``root``.

    Args:
        root: the folder.
        notes: list to which a line is appended about files that cannot be used.

    Raises:
        UserError: the folder does not exist, or has none that can be used.
    """
    paths = [p for p in _below(root, "lights.hdris") if p.suffix.lower() in PANORAMAS]
    panoramas, faults = [], []
    for path in paths:
        try:
            mean = _panorama_mean(path)
        except UserError as error:
            faults.append(str(error))
            continue
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        panoramas.append(Panorama(path.relative_to(root).as_posix(), str(path), digest, mean))
    if not panoramas:
        why = "; ".join(faults[:3]) or f"put files of {' or '.join(PANORAMAS)} there"
        raise UserError(f"'lights.hdris': no usable panorama in {root}: {why}")
    if faults:
        notes.append(f"lights.hdris: {len(faults)} of {len(paths)} panoramas cannot be used: {'; '.join(faults[:5])}")
    return tuple(panoramas)


def _below(root: Path, key: str) -> list[Path]:
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise UserError(f"'{key}': {root} {what}; relative paths are from {Path.cwd()}")
    return sorted(p for p in root.rglob("*") if p.is_file() and not p.name.startswith("."))


def _check_image(path: Path) -> None:
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be decoded ({error})") from None


def _panorama_mean(path: Path) -> float:
    """Return a panorama's mean over the sphere; lines near the poles count less."""
    # both are read as OpenCV is imported; what it would print stands in the error
    os.environ.setdefault("OPENCV_IO_ENABLE_OPENEXR", "1")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    import cv2

    try:
        pixels = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    except cv2.error as error:
        raise UserError(f"{path} cannot be decoded ({' '.join(str(error).split())[:100]})") from None
    if pixels is None:
        raise UserError(f"{path} cannot be decoded: is it complete?")
    height, width = pixels.shape[:2]
    if width != 2 * height:
        raise UserError(f"{path} is {width} × {height}, but a panorama is twice as wide as high")
    weights = np.sin(np.pi * (np.arange(height) + 0.5) / height)
    mean = float((pixels.mean((1, 2)) * weights).sum() / weights.sum())
    if not np.isfinite(mean) or mean <= 0:
        raise UserError(f"{path} is black, or holds numbers that are not finite")
    return mean
