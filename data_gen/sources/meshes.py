"""Reading a mesh file of the user into plain arrays with trimesh, and checking it.

Vertices are merged by position, and texture coordinates and colours belong to the corners of triangles. So a scan that
was cut for its texture is shaded without seams.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_gen.library.mesh import Floats, Mesh, normalise, rotation
from lightning_tl.errors import UserError

FORMATS = (".obj", ".ply", ".glb", ".gltf", ".stl")
UNITS = {"m": 1.0, "cm": 0.01, "mm": 0.001, "inch": 0.0254}
_TEXTURE_SIDE = 1024
# turns that bring a file's axis to the world's z
_UPRIGHT = {"z": ("x", 0), "-z": ("x", 180), "y": ("x", 90), "-y": ("x", -90), "x": ("y", -90), "-x": ("y", 90)}


@dataclass(frozen=True)
class Surface:
    """Colour or image of some of a model's triangles; without either, a procedural material is used.

    Attributes:
        colour: linear RGB, 0 … 1.
        image: sRGB texture, 8 bit, shape ``[H, W, 3]``, the first line on top.
    """

    colour: tuple[float, float, float] | None = None
    image: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Model:
    """A mesh with its colours and textures.

    Attributes:
        mesh: upright (z up), normalised as :func:`data_gen.library.mesh.normalise` does; slots index ``surfaces``.
        uv: texture coordinates of the triangles' corners, ``[F, 3, 2]``, or ``None``.
        colours: sRGB colours of the triangles' corners, 8 bit, ``[F, 3, 3]``, or ``None``.
        surfaces: one per slot.
        extent: the larger of the height and the diameter of the upright mesh, metres.
        sha256: hash of the file and all files that it refers to.
        files: all of these files, including missing ones.
        missing: files that could not be read: name and reason.
    """

    mesh: Mesh
    uv: NDArray[np.float32] | None
    colours: NDArray[np.uint8] | None
    surfaces: tuple[Surface, ...]
    extent: float
    sha256: str
    files: tuple[Path, ...]
    missing: tuple[str, ...]

    @property
    def textured(self) -> bool:
        """Whether it has an image or vertex colours."""
        return self.colours is not None or any(s.image is not None for s in self.surfaces)


@dataclass
class _Files:
    """Resolves the files that a mesh refers to: ignores case in names, hashes them, and records missing ones."""

    folder: Path
    used: dict[str, Path] = field(default_factory=dict)
    absent: list[Path] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)

    def get(self, name: str) -> bytes:
        wanted = name.strip().strip('"').replace("\\", "/")
        path = self.folder / wanted
        if not path.is_file():
            # written on a system that ignores case, or with the path of another machine
            there = {p.name.lower(): p for p in self.folder.iterdir()}
            path = there.get(Path(wanted).name.lower(), path)
        try:
            data = path.read_bytes()
        except OSError:
            note = f"{wanted} is missing"
            if note not in self.missing:
                self.missing.append(note)
                self.absent.append(self.folder / wanted)
            raise
        if wanted not in self.used:
            self.used[wanted] = path
            self.digests.append(hashlib.sha256(data).hexdigest())
        return data

    __getitem__ = get

    def namespaced(self, namespace: str) -> _Files:
        return _Files(self.folder / namespace, self.used, self.absent, self.missing, self.digests)

    def keys(self) -> list[str]:
        return [p.name for p in self.folder.iterdir()]

    def __contains__(self, name: str) -> bool:
        return (self.folder / name).is_file()


def read_model(path: Path, up: str = "z", units: str = "m") -> Model:
    """Read a mesh.

    Args:
        path: a file in one of :data:`FORMATS`.
        up: the file's axis that points up: ``x``, ``y``, ``z``, ``-x``, ``-y`` or ``-z``.
        units: of the file, one of :data:`UNITS`.

    Raises:
        UserError: the file cannot be read, or has nothing to render.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if not data.strip():
        raise UserError(f"{path}: the file is empty: export or download it again")
    if path.suffix.lower() not in FORMATS:
        raise UserError(
            f"{path}: {path.suffix or 'a file without an extension'} is not read; valid: {', '.join(FORMATS)}"
        )
    files = _Files(path.parent)
    parts = _parts(path, data, files)
    files.missing += [note for name, used in files.used.items() for note in _unusable(name, used)]
    vertices = np.concatenate([p.vertices for p in parts])
    starts = np.cumsum([0] + [len(p.vertices) for p in parts[:-1]])
    faces = np.concatenate([p.faces + s for p, s in zip(parts, starts, strict=True)])
    slots = np.concatenate([np.full(len(p.faces), i) for i, p in enumerate(parts)])
    turned = vertices @ rotation(*_UPRIGHT[up]).T
    merged, inverse = np.unique(turned + 0.0, axis=0, return_inverse=True)
    faces = inverse.reshape(-1)[faces]
    corners = merged[faces]
    span = float(np.ptp(merged[faces.ravel()], axis=0).max())
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
    kept = area > 1e-12 * span**2
    if not kept.any():
        raise UserError(f"{path}: degenerate: none of its {len(faces)} triangles has an area; repair it or take it out")
    used, compact = np.unique(faces[kept], return_inverse=True)
    points = merged[used]
    if np.ptp(points[:, 2]) < 1e-5 * span:
        raise UserError(
            f"{path}: degenerate: it is flat and would lie within the floor; give it a thickness, or another 'up' axis"
        )
    count = int(kept.sum())
    mesh = Mesh(points, compact.reshape(-1, 3).astype(np.int32), slots[kept].astype(np.int32), np.ones(count, bool))
    low, high = points.min(0), points.max(0)
    middle = (low + high)[:2] / 2
    extent = max(2 * float(np.hypot(*(points[:, :2] - middle).T).max()), float(high[2] - low[2])) * UNITS[units]
    uv = np.concatenate([p.uv for p in parts])[kept] if any(p.has_uv for p in parts) else None
    colours = np.concatenate([p.colours for p in parts])[kept] if any(p.has_colours for p in parts) else None
    whole = hashlib.sha256("".join([hashlib.sha256(data).hexdigest(), *sorted(files.digests)]).encode()).hexdigest()
    return Model(
        mesh=normalise(mesh),
        uv=uv,
        colours=colours,
        surfaces=tuple(p.surface for p in parts),
        extent=extent,
        sha256=whole,
        files=(path, *files.used.values(), *files.absent),
        missing=tuple(files.missing),
    )


def _unusable(name: str, file: Path) -> Iterator[str]:
    """Return what trimesh ignores silently: a file of materials without one, a texture that is no picture."""
    from PIL import Image

    if name.lower().endswith(".mtl"):
        if b"newmtl" not in file.read_bytes():
            yield f"{file.name} holds no material"
    elif not name.lower().endswith(".bin"):
        try:
            Image.open(file).close()
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            yield f"{file.name} cannot be decoded ({type(error).__name__}): it is no picture"


@dataclass(frozen=True)
class _Part:
    vertices: Floats
    faces: NDArray[np.int64]
    uv: NDArray[np.float32]
    has_uv: bool
    colours: NDArray[np.uint8]
    has_colours: bool
    surface: Surface


def _parts(path: Path, data: bytes, files: _Files) -> list[_Part]:
    """Read the file's meshes, each at its position in the file's scene."""
    import trimesh

    resolver: Any = files
    kind = path.suffix.lower()[1:]
    try:
        if kind == "gltf":
            json.loads(data)  # trimesh would name another file
        scene = trimesh.load_scene(io.BytesIO(data), file_type=kind, resolver=resolver, process=False)
        placed = [(scene.geometry[name], *scene.graph.get(node)) for node, name in _nodes(scene)]
        parts = [_part(geometry, matrix, path, files) for geometry, matrix, _ in placed if hasattr(geometry, "faces")]
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(
            f"{path}: cannot be read as {path.suffix[1:].upper()} ({reason}): is it complete? "
            "Export or download it again"
        ) from None
    parts = [p for p in parts if len(p.faces)]
    if not parts:
        what = "points without faces (a point cloud)" if placed else "nothing"
        raise UserError(f"{path}: holds {what}: a mesh with triangles is needed")
    return parts


def _nodes(scene: Any) -> list[tuple[str, str]]:
    return [(node, scene.graph[node][1]) for node in scene.graph.nodes_geometry]


def _part(geometry: Any, matrix: Floats, path: Path, files: _Files) -> _Part:
    faces = np.asarray(geometry.faces, np.int64).reshape(-1, 3)
    vertices = np.asarray(geometry.vertices, float).reshape(-1, 3)
    if len(faces) and (faces.min() < 0 or faces.max() >= len(vertices)):
        raise UserError(
            f"{path}: a face refers to vertex {int(faces.max())}, but there are {len(vertices)}: export it again"
        )
    visual = geometry.visual
    kind = getattr(visual, "kind", None)
    uv = np.zeros((len(faces), 3, 2), np.float32)
    coordinates = getattr(visual, "uv", None) if kind == "texture" else None
    has_uv = coordinates is not None and len(coordinates) == len(vertices) and bool(np.isfinite(coordinates).all())
    if has_uv:
        uv = np.asarray(coordinates, np.float32)[faces]
    colours = np.full((len(faces), 3, 3), 200, np.uint8)
    if kind == "vertex":
        colours = np.asarray(visual.vertex_colors, np.uint8)[faces][..., :3]
    elif kind == "face":
        colours = np.repeat(np.asarray(visual.face_colors, np.uint8)[:, None, :3], 3, 1)
    surface = _surface(getattr(visual, "material", None), has_uv, path, files) if kind == "texture" else Surface()
    _check_numbers(path, vertices, faces)
    moved = vertices @ matrix[:3, :3].T + matrix[:3, 3]
    if np.linalg.det(matrix[:3, :3]) < 0:
        faces, uv, colours = faces[:, ::-1], uv[:, ::-1], colours[:, ::-1]
    return _Part(moved, faces, uv, has_uv, colours, kind in ("vertex", "face"), surface)


def _surface(material: Any, has_uv: bool, path: Path, files: _Files) -> Surface:
    """Read a trimesh material; the defaults that trimesh makes for missing materials count as none."""
    physical = hasattr(material, "baseColorFactor")
    picture = material.baseColorTexture if physical else getattr(material, "image", None)
    embedded = path.suffix.lower() in (".glb", ".gltf")
    if picture is not None and has_uv and (embedded or any(not n.lower().endswith(".mtl") for n in files.used)):
        try:
            return Surface(image=_pixels(picture))
        except (OSError, ValueError, SyntaxError) as error:
            name = getattr(picture, "filename", "") or next(
                (n for n in files.used if not n.lower().endswith(".mtl")), "its image"
            )
            files.missing.append(f"{Path(name).name} cannot be decoded ({error})")
            return Surface()
    if physical and material.baseColorFactor is not None:
        return Surface(colour=_linear(material.baseColorFactor))
    stands = any(n.lower().endswith(".mtl") for n in files.used)
    if not physical and stands and getattr(material, "diffuse", None) is not None:
        return Surface(colour=_linear(material.diffuse))
    return Surface()


def _linear(colour: Any) -> tuple[float, float, float]:
    """Return the linear colour that trimesh keeps as 0 … 255 without having changed its curve."""
    values = np.clip(np.asarray(colour, float)[:3] / 255, 0, 1)
    return float(values[0]), float(values[1]), float(values[2])


def _pixels(picture: Any) -> NDArray[np.uint8]:
    """Return an image as RGB, reduced if it is larger than renders can show."""
    from PIL import Image

    if max(picture.size) > _TEXTURE_SIDE:
        scale = _TEXTURE_SIDE / max(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.convert("RGB").resize(size, Image.Resampling.BOX)
    return np.array(picture.convert("RGB"), np.uint8)


def _check_numbers(path: Path, vertices: Floats, faces: NDArray[np.int64]) -> None:
    bad: NDArray[np.bool_] = np.asarray(~np.isfinite(vertices).all(1))
    if bad[faces].any():
        raise UserError(
            f"{path}: {int(bad.sum())} of {len(vertices)} vertices are not finite numbers: repair it or take it out"
        )
