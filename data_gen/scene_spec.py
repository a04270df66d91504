"""A scene as plain data: objects, positions, materials, lamps and cameras.

The world's frame: metres, z up, the floor at z = 0, digits face −y. A camera's frame is Blender's: x right, y up,
z towards the viewer.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_gen.library import MaterialSpec
from data_gen.library.materials import Colour
from data_gen.library.mesh import Floats
from data_gen.sources.lens import Lens


@dataclass(frozen=True)
class MeshSpec:
    """A mesh file of the user.

    Attributes:
        source: index of its source in the configuration's ``sources``.
        file: path relative to that source's folder.
        sha256: hash of the file and all files that it refers to.
    """

    source: int
    file: str
    sha256: str


@dataclass(frozen=True)
class ObjectSpec:
    """One object.

    Attributes:
        instance: value in ``instance.png``, 1 or more; distractors have the last numbers and are not drawn there.
        category: name.
        category_id: value in ``category.png``; 0 for a distractor.
        shape: arguments of :func:`data_gen.library.build`; for digits from the font also ``style``, ``bevel``.
        size: metres: the object fits a cylinder of this height and diameter.
        position: middle of its footprint on the floor (x, y), metres.
        yaw: degrees about the vertical.
        materials: one per slot; the first one replaces the colours that a mesh lacks.
        mesh: ``None`` for an object of the built-in library.
    """

    instance: int
    category: str
    category_id: int
    shape: dict[str, float | str]
    size: float
    position: tuple[float, float]
    yaw: float
    materials: tuple[MaterialSpec, ...]
    mesh: MeshSpec | None = None


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
    """All that the renderer needs to know about a scene.

    Attributes:
        split: ``"train"`` or ``"val"``.
        scene: index within the split.
        seed: seed of Cycles' sampler.
        objects: objects on the floor, labelled ones first.
        lights: lamps.
        floor: material of the floor.
        walls: material of the walls; ``None`` without walls.
        room: side of the floor, metres.
        sky: colour of the ambient light, linear RGB times its strength.
        panorama: name of the panorama that is the ambient light, scaled to the mean of ``sky``; empty: uniform.
        panorama_turn: degrees about the vertical.
        lens: focal lengths and principal point.
        cameras: camera-to-world matrices, 4 × 4, one per view.
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
    lens: Lens
    cameras: tuple[tuple[tuple[float, ...], ...], ...]
    panorama: str = ""
    panorama_turn: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return nested dicts of plain values, to print or to keep beside an error."""
        return dataclasses.asdict(self)

    def intrinsics(self, width: int, height: int | None = None) -> Floats:
        """Return the 3 × 3 camera matrix K for a size of image; pixel centres are at whole numbers.

        Args:
            width: pixels.
            height: pixels; ``None``: equal to ``width``.
        """
        rows = height or width
        x, y = (width - 1) / 2 + self.lens.x * width, (rows - 1) / 2 + self.lens.y * width
        return np.array([[self.lens.fx * width, 0, x], [0, self.lens.fy * width, y], [0, 0, 1]])
