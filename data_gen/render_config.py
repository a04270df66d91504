"""The configuration of a rendered data set: nested dataclasses of plain values.

The four knobs ``appearance``, ``light``, ``background`` and ``texture`` are those of Mikami et al., *A Scaling Law for
Syn2real Transfer* (arXiv 2108.11018), Appendix B. A pair is always a range ``(low, high)`` sampled uniformly.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Range = tuple[float, float]
Device = Literal["cpu", "cuda", "optix", "auto"]


@dataclass
class SourceConfig:
    """Where objects come from. A relative ``path`` starts at the folder in which the command runs.

    Args:
        kind: ``builtin`` (the procedural library), ``folder`` (meshes: a folder or file per category), ``bop`` (a data
            set of the BOP challenge) or ``shapenet`` (``synsetId/modelId/models/…``).
        path: the folder; empty for ``builtin``.
        role: ``object`` (labelled) or ``distractor`` (rendered, not labelled).
        weight: relative frequency of objects from this source, among the sources of its role.
        categories: categories to use; empty: all. For ``builtin`` also the groups ``digits``, ``shapes``, ``all``.
        csv: table with columns ``file`` and ``category``: only the listed files are used. The table and its files are
            relative to ``path``.
        units: length unit of the files: ``m``, ``cm``, ``mm`` or ``inch``; empty: ``mm`` for ``bop``, else ``m``.
        up: the axis that points up in the files; empty: ``z``, but ``y`` for ``.glb``, ``.gltf`` and ``shapenet``.
        scale: ``fit``: sizes are drawn from ``objects.size``, as for built-in objects; ``metric``: the files' own.
        textured: whether they count as textured for ``texture: without``: ``yes``, ``no``, or ``auto`` (those with an
            image or with colours at their vertices; all of BOP's but T-LESS and ITODD).
        models: largest number of models per category, the first by name; 0: all.
        max_faces: larger meshes are reduced to this number of triangles.
        oversized: what to do with larger meshes: ``decimate``, ``skip`` or ``error``.
        broken: what to do with files that cannot be used: ``error`` (names all of them) or ``skip`` (counts them).
    """

    kind: Literal["builtin", "folder", "bop", "shapenet"] = "folder"
    path: str = ""
    role: Literal["object", "distractor"] = "object"
    weight: float = 1.0
    categories: list[str] = field(default_factory=list)
    csv: str = ""
    units: Literal["", "m", "cm", "mm", "inch"] = ""
    up: Literal["", "x", "y", "z", "-x", "-y", "-z"] = ""
    scale: Literal["fit", "metric"] = "fit"
    textured: Literal["auto", "yes", "no"] = "auto"
    models: int = 0
    max_faces: int = 50_000
    oversized: Literal["decimate", "skip", "error"] = "decimate"
    broken: Literal["error", "skip"] = "error"


@dataclass
class DigitsConfig:
    """How digits are written. Lengths are in heights of the digit.

    Args:
        font: share of digits made from Blender's built-in font; the others are pen strokes, varied like handwriting.
        thickness: width of the pen; for the font the outline grows and shrinks by a similar amount.
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
    """Objects and their positions.

    Args:
        count: fewest and most objects of a scene with ``appearance: multiple``.
        size: the larger of an object's height and diameter, metres.
        area: radius of the disc of floor that the objects stand on if there are several, metres.
        gap: least distance between two objects, metres.
        yaw: turn about the vertical, degrees; at 0 a digit faces the middle of the cameras' azimuths.
        lying: share of scenes in which objects lie on their backs; the cameras then look from above as they would have
            looked from the front (elevation e becomes 90° − e). Meant for digits.
        pattern_scale: repetitions of a pattern per metre, on objects of textured categories.
        contrast: least difference in lightness between an object's first colour and the floor's, 0 … 0.35.
        glossy: share of materials that shine.
        distractors: fewest and most unlabelled objects of a scene, from the sources of that role; without one from the
            built-in shapes.
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
    distractors: tuple[int, int] = (0, 0)


@dataclass
class CameraConfig:
    """Cameras that look at a point of interest near the middle of the objects.

    Args:
        views: number of cameras per scene.
        azimuth: degrees about the vertical; 0 is in front (where digits face).
        elevation: degrees above the horizon.
        roll: degrees about the line of sight.
        fov: field of view, degrees.
        fill: diameter of the (group of) objects in widths of the image; empty: 0.6 to 0.95 for a single object, 0.9 to
            1.3 for a group, so that its members are not too small (its outermost ones may be cut).
        offset: how far the point of interest strays from the middle, in radii of the group.
        min_distance: least distance from the camera to any object's surface, metres.
        intrinsics: a ``camera.json`` as BOP's data sets have it (``fx``, ``fy``, ``cx``, ``cy``, ``width``,
            ``height``), scaled to the images' size; it takes the place of ``fov`` and ``shift``.
        shift: how far the principal point strays from the middle, in widths of the image.
    """

    views: int = 4
    azimuth: Range = (-180.0, 180.0)
    elevation: Range = (10.0, 50.0)
    roll: Range = (-8.0, 8.0)
    fov: Range = (35.0, 50.0)
    fill: Range | None = None
    offset: float = 0.15
    min_distance: float = 0.2
    intrinsics: str = ""
    shift: float = 0.0


@dataclass
class LightsConfig:
    """Lamps and ambient light. With ``light: fix`` one area lamp and one point lamp stand still, at mid-range energy.

    Args:
        count: fewest and most lamps where light is random; more than one per scene gives softer, more varied shading.
        energy: watts of a lamp at 1.5 m (further lamps are stronger, by the square of the distance).
        distance: metres from the middle of the floor.
        elevation: degrees above the horizon.
        radius: radius of a point lamp, half the side of an area lamp, metres: how soft its shadows are.
        tint: how far a lamp's colour strays from white, 0 … 1.
        ambient: strength of the ambient light.
        layout: ``free`` random lamps, or ``pair``: one area lamp near the ceiling and one point lamp, as in the paper's
            scenes (``count`` is then ignored).
        hdris: folder of panoramas (``.hdr``, ``.exr``); if light is random, one of them lights the
            scene, at a random turn. Needs ``room.walls: 0``.
        hdri_share: share of scenes with a panorama; they have no lamps, and the panorama's mean is scaled to four times
            ``ambient``.
    """

    count: tuple[int, int] = (2, 3)
    energy: Range = (20.0, 60.0)
    distance: Range = (1.2, 2.2)
    elevation: Range = (25.0, 80.0)
    radius: Range = (0.08, 0.4)
    tint: float = 0.15
    ambient: Range = (0.15, 0.45)
    layout: Literal["free", "pair"] = "free"
    hdris: str = ""
    hdri_share: float = 1.0


@dataclass
class RoomConfig:
    """The floor and walls around the objects.

    Args:
        walls: 4 closes the room (the paper's cube); 0 leaves a wide floor under an even sky, at 0.55
            to 0.7 of the cost.
        size: side of the room, metres; its height is the same.
        patterned: share of floors (and walls) with a pattern, if the background is random.
        pattern_scale: repetitions of a pattern per metre.
        materials: folder of PBR materials as they come from ambientCG (``NAME/NAME_1K-JPG_Color.jpg``, …), for floor
            and walls if the background is random.
        material_share: share of floors (and walls) with such a material.
        material_scale: repetitions of a material per metre.
        fixed_material: the material of floor and walls if the background is fixed: its name without resolution and
            format (``Fabric001``).
    """

    walls: Literal[0, 4] = 4
    size: float = 4.0
    patterned: float = 0.5
    pattern_scale: Range = (0.6, 5.0)
    materials: str = ""
    material_share: float = 1.0
    material_scale: Range = (0.4, 1.5)
    fixed_material: str = ""


@dataclass
class ImageConfig:
    """What is rendered of a scene; the scene itself does not depend on it.

    Args:
        size: width, and height if ``height`` is 0, pixels.
        height: pixels; 0: as ``size``.
        samples: light paths per pixel.
        bounces: largest number of reflections of a light path.
        denoise: run Cycles' OpenImageDenoise.
        denoise_quality: ``balanced``, or ``fast``: a little noisier, and up to a fifth cheaper for small images.
        exposure: factor on the light before the tone curve.
        min_brightness: lowest mean of an image's colours, as a share of white: a darker one is exposed longer, as a
            camera does, up to 8 times; 0: never.
        depth: also write ``depth.png``.
        format: ``png`` or ``jpg`` for the colours.
        jpeg_quality: 1 … 100.
        device: what Cycles renders on: ``cpu``, ``cuda``, ``optix`` or ``auto`` (the best one available). The noise
            of the images differs between devices.
    """

    size: int = 64
    height: int = 0
    samples: int = 4
    bounces: int = 2
    denoise: bool = True
    denoise_quality: Literal["balanced", "fast"] = "balanced"
    exposure: float = 1.0
    min_brightness: float = 0.2
    depth: bool = False
    format: Literal["png", "jpg"] = "png"
    jpeg_quality: int = 92
    device: Device = "cpu"

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self.height or self.size, self.size


@dataclass
class RenderConfig:
    """A rendered data set. Its images are a pure function of this configuration.

    Args:
        seed: seed of all random draws.
        categories: names of built-in categories, or of the groups ``digits``, ``shapes``, ``all``; without ``sources``.
        sources: where objects come from, see :class:`SourceConfig`; empty: the built-in ``categories``.
        appearance: ``single`` (one object per scene; categories come in balanced turns) or ``multiple`` (as many as
            ``objects.count`` says).
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
        scenes_per_shard: scenes per tar file; an interruption loses at most the unfinished shards.
    """

    seed: int = 0
    categories: list[str] = field(default_factory=lambda: ["shapes"])
    sources: list[SourceConfig] = field(default_factory=list)
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
