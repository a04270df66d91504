"""From a scene's specification to arrays, with BlenderProc and Cycles. The only file that imports Blender.

It is meant for a process of its own (see :mod:`data_gen.worker`): importing BlenderProc changes the interpreter, and
Blender 4.2 crashes when the interpreter exits (leave with ``os._exit``).

All passes of a view come from one flat OpenEXR file that Blender writes without the compositor, so no node is left
behind from scene to scene; colours, normals, categories and labels are then made in numpy.
"""

from __future__ import annotations

import importlib
import os
import tempfile
import typing
from collections.abc import Iterator
from pathlib import Path

os.environ["OUTSIDE_OF_THE_INTERNAL_BLENDER_PYTHON_ENVIRONMENT_BUT_IN_RUN_SCRIPT"] = "1"
# BlenderProc imports gitpython, which otherwise refuses to be imported where there is no git
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

import bpy
import numpy as np
from blenderproc.python.utility.SetupUtility import SetupUtility

from data_gen.exr import read_exr
from data_gen.labels import View, camera_normals, depth_mm, tone_map, view_labels
from data_gen.library import MaterialSpec, Mesh, build
from data_gen.library.geometry import Floats, merge, prism, rotation
from data_gen.spec import ImageConfig, LightSpec, ObjectSpec, RenderConfig, SceneSpec

# BlenderProc would install its requirements into Blender's own Python; with pip's bpy they are here already
SetupUtility.setup_pip = staticmethod(lambda *args, **kwargs: "")
_camera = importlib.import_module("blenderproc.api.camera")
_renderer = importlib.import_module("blenderproc.api.renderer")
_types = importlib.import_module("blenderproc.api.types")
_initializer = importlib.import_module("blenderproc.python.utility.Initializer")

_SHARP_DEGREES = 35.0
_FLOOR_WITHOUT_WALLS = 40.0


def versions() -> dict[str, str]:
    """Return the versions of what the pixels depend on."""
    blenderproc = importlib.import_module("blenderproc")
    return {"blender": bpy.app.version_string, "blenderproc": blenderproc.__version__, "numpy": np.__version__}


class Renderer:
    """Renders scenes one after the other in this process.

    What comes out for a scene does not depend on the scenes before it, nor on the process.

    Args:
        config: of the data set; only ``image`` and what it says of outputs matters here.
        temporary: folder for the passes of the views in flight, best in memory; they are deleted as they are read.
    """

    def __init__(self, config: RenderConfig, temporary: Path) -> None:
        self._image = config.image
        self._folder = Path(tempfile.mkdtemp(dir=temporary))
        SetupUtility.setup_utility_paths(str(self._folder))
        # bproc.init() fails on pip's bpy (it sets an interface language that is not there): its other steps
        _initializer.clean_up(clean_up_camera=True)
        bpy.context.scene.render.engine = "CYCLES"
        _renderer.set_render_devices(use_only_cpu=True)
        _initializer._Initializer.set_default_parameters()
        self._set_quality(config.image)

    def _set_quality(self, image: ImageConfig) -> None:
        _renderer.set_max_amount_of_samples(image.samples)
        _renderer.set_noise_threshold(0)  # adaptive sampling costs more than it saves at few samples
        _renderer.set_denoiser(None)
        _renderer.set_cpu_threads(1)
        _renderer.toggle_light_tree(False)
        _renderer.set_light_bounces(
            diffuse_bounces=image.bounces,
            glossy_bounces=image.bounces,
            ao_bounces_render=0,
            max_bounces=image.bounces,
            transmission_bounces=0,
            transparent_max_bounces=0,
            volume_bounces=0,
        )
        scene, layer = bpy.context.scene, bpy.context.view_layer
        scene.cycles.use_animated_seed = True  # other noise in each view
        scene.cycles.caustics_reflective = scene.cycles.caustics_refractive = False
        scene.cycles.use_auto_tile = False
        # a box keeps the mask's sample (one a pixel) within its pixel
        scene.cycles.pixel_filter_type, scene.cycles.filter_width = "BOX", 1.0
        scene.cycles.debug_use_spatial_splits = False
        scene.cycles.use_denoising = layer.cycles.use_denoising = image.denoise
        scene.cycles.denoiser = "OPENIMAGEDENOISE"
        scene.cycles.denoising_quality = "FAST"
        scene.cycles.denoising_prefilter = "NONE"
        scene.cycles.denoising_input_passes = "RGB_ALBEDO_NORMAL"
        layer.use_pass_normal = layer.use_pass_object_index = True
        layer.use_pass_z, layer.use_pass_diffuse_color = image.depth, False
        scene.render.use_compositing = scene.render.use_sequencer = False
        settings = scene.render.image_settings
        settings.file_format, settings.color_depth, settings.exr_codec = "OPEN_EXR_MULTILAYER", "32", "NONE"

    def render(self, spec: SceneSpec) -> Iterator[View]:
        """Render all views of a scene.

        Yields:
            The views in order.
        """
        _initializer.clean_up()
        scene = bpy.context.scene
        # Kept data serves the views of one scene. Kept longer, it numbers the lamps by what was there before, and a
        # scene's noise would depend on its predecessors; switching it off frees it.
        scene.render.use_persistent_data = False
        scene.render.use_persistent_data = True
        scene.cycles.seed = spec.seed
        _renderer.set_world_background(list(spec.sky))
        for lamp in spec.lights:
            _add_light(lamp)
        _add_room(spec)
        meshes = [_world_mesh(o) for o in spec.objects]
        for o, mesh in zip(spec.objects, meshes, strict=True):
            _add_mesh(f"object{o.instance}", mesh, [_material(m, upright=True) for m in o.materials], o.instance)
        size = self._image.size
        _camera.set_intrinsics_from_K_matrix(spec.intrinsics(size), size, size)
        for pose in spec.cameras:
            _camera.add_camera_pose(pose)
        _renderer.render(str(self._folder), "view", output_key=None, load_keys=set(), return_data=False, verbose=True)
        triangles = [(m.vertices, m.faces) for m in meshes]
        for view in range(len(spec.cameras)):
            path = self._folder / f"view{view:04d}.exr"
            data = path.read_bytes()
            path.unlink()
            yield self._view(spec, view, read_exr(data), triangles)

    def _view(
        self, spec: SceneSpec, view: int, passes: dict[str, typing.Any], meshes: list[tuple[Floats, typing.Any]]
    ) -> View:
        def layer(name: str) -> typing.Any:
            return passes[f"ViewLayer.{name}"]

        rgb = tone_map(np.stack([layer(f"Combined.{c}") for c in "RGB"], -1), self._image.exposure)
        instance = np.round(layer("IndexOB.X")).astype(np.uint16)
        ids = np.array([0] + [o.category_id for o in spec.objects], np.uint16)
        normal = camera_normals(np.stack([layer(f"Normal.{c}") for c in "XYZ"], -1), np.array(spec.cameras[view]))
        depth = depth_mm(layer("Depth.Z")) if self._image.depth else None
        return View(rgb, ids[instance], instance, normal, depth, view_labels(spec, view, instance, meshes))


def _add_light(spec: LightSpec) -> None:
    light = _types.Light(spec.kind)
    light.set_location(spec.location)
    light.set_energy(spec.energy)
    light.set_color(list(spec.colour))
    data = light.blender_obj.data
    if spec.kind == "AREA":
        data.size = 2 * spec.radius
        back = np.asarray(spec.location)
        light.set_rotation_mat(_camera.rotation_from_forward_vec(-back))
    else:
        light.set_radius(spec.radius)
    light.blender_obj.visible_camera = False


def _add_room(spec: SceneSpec) -> None:
    half = (spec.room if spec.walls else _FLOOR_WITHOUT_WALLS) / 2
    _add_mesh("floor", _square(half), [_material(spec.floor, upright=False)], 0)
    if spec.walls is None:
        return
    ahead = _square(half).rotated("x", 90).moved((0, half, half))
    sides = [ahead.rotated("z", 90 * i) for i in range(4)]
    ceiling = _square(half).rotated("x", 180).moved((0, 0, 2 * half))
    _add_mesh("walls", merge([*sides, ceiling]), [_material(spec.walls, upright=True)], 0)


def _square(half: float) -> Mesh:
    mesh = prism(np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * half, 1.0)
    top = mesh.vertices[mesh.faces][:, :, 2].min(1) > 0.5
    return Mesh(mesh.vertices - [0, 0, 1], mesh.faces[top], mesh.slots[top], mesh.smooth[top])


def _world_mesh(spec: ObjectSpec) -> Mesh:
    glyph = _glyph(spec) if spec.shape.get("style") == "font" else None
    mesh = build(spec.category, spec.shape, glyph)
    return mesh.scaled(spec.size).rotated("z", spec.yaw).moved((*spec.position, 0))


def _glyph(spec: ObjectSpec) -> Mesh:
    """Make a digit of Blender's built-in font, standing in the x-z plane, about one unit high."""
    curve = bpy.data.curves.new("glyph", "FONT")
    curve.body = spec.category[-1]
    curve.size, curve.resolution_u, curve.bevel_resolution = 1.4, 4, 1
    curve.extrude = float(spec.shape["depth"]) / 2
    curve.bevel_depth = float(spec.shape["bevel"])
    # the font's own pen is about 0.13 wide
    curve.offset = float(np.clip((float(spec.shape["thickness"]) - 0.13) / 2, -0.03, 0.05))
    holder = bpy.data.objects.new("glyph", curve)
    bpy.context.scene.collection.objects.link(holder)
    evaluated = holder.evaluated_get(bpy.context.evaluated_depsgraph_get())
    mesh = evaluated.to_mesh()
    mesh.calc_loop_triangles()
    vertices = np.empty(3 * len(mesh.vertices), np.float32)
    mesh.vertices.foreach_get("co", vertices)
    corners = np.empty(3 * len(mesh.loop_triangles), np.int32)
    mesh.loop_triangles.foreach_get("vertices", corners)
    evaluated.to_mesh_clear()
    bpy.data.objects.remove(holder)
    bpy.data.curves.remove(curve)
    faces = corners.reshape(-1, 3)
    upright = vertices.reshape(-1, 3).astype(float) @ rotation("x", 90).T
    return Mesh(upright, faces, np.zeros(len(faces), np.int32), np.ones(len(faces), bool))


def _add_mesh(name: str, mesh: Mesh, materials: list[typing.Any], index: int) -> None:
    data = bpy.data.meshes.new(name)
    count = len(mesh.faces)
    data.vertices.add(len(mesh.vertices))
    data.vertices.foreach_set("co", mesh.vertices.astype(np.float32).ravel())
    data.loops.add(3 * count)
    data.loops.foreach_set("vertex_index", mesh.faces.ravel())
    data.polygons.add(count)
    data.polygons.foreach_set("loop_start", np.arange(0, 3 * count, 3, dtype=np.int32))
    for material in materials:
        data.materials.append(material)
    data.polygons.foreach_set("material_index", np.minimum(mesh.slots, len(materials) - 1).astype(np.int32))
    data.polygons.foreach_set("use_smooth", mesh.smooth)
    data.update(calc_edges=True)
    if mesh.smooth.any():
        data.set_sharp_from_angle(angle=np.radians(_SHARP_DEGREES))
    holder = bpy.data.objects.new(name, data)
    holder.pass_index = index
    bpy.context.scene.collection.objects.link(holder)


def _material(spec: MaterialSpec, upright: bool) -> typing.Any:
    """Make a material's nodes; ``upright`` turns flat patterns (bricks) so that they are right on standing faces."""
    material = bpy.data.materials.new(spec.pattern)
    material.use_nodes = True
    tree = material.node_tree
    tree.nodes.clear()
    output = tree.nodes.new("ShaderNodeOutputMaterial")
    if spec.roughness is None:
        shader = tree.nodes.new("ShaderNodeBsdfDiffuse")
        colour = shader.inputs["Color"]
    else:
        shader = tree.nodes.new("ShaderNodeBsdfPrincipled")
        shader.inputs["Roughness"].default_value = spec.roughness
        colour = shader.inputs["Base Color"]
    tree.links.new(shader.outputs[0], output.inputs["Surface"])
    first, second = (*spec.colour, 1.0), (*spec.second, 1.0)
    colour.default_value = first
    if spec.pattern == "plain":
        return material
    place = tree.nodes.new("ShaderNodeTexCoord")
    turn = tree.nodes.new("ShaderNodeMapping")
    turn.inputs["Rotation"].default_value = (np.pi / 2, 0, 0) if upright else (0, 0, 0)
    # a little off the origin: a checker's boundary on the floor's own plane would flicker
    turn.inputs["Location"].default_value = (0.013, 0.017, 0.0113)
    tree.links.new(place.outputs["Object"], turn.inputs["Vector"])
    kind, settings, factor = _PATTERN_NODES[spec.pattern]
    pattern = tree.nodes.new(kind)
    for key, value in settings.items():
        setattr(pattern, key, value)
    pattern.inputs["Scale"].default_value = spec.scale
    tree.links.new(turn.outputs["Vector"], pattern.inputs["Vector"])
    if factor is None:
        pattern.inputs["Color1"].default_value, pattern.inputs["Color2"].default_value = first, second
        tree.links.new(pattern.outputs["Color"], colour)
        return material
    if "Distortion" in pattern.inputs:
        pattern.inputs["Distortion"].default_value = 4.0 if spec.pattern == "wood" else 9.0
    ramp = tree.nodes.new("ShaderNodeValToRGB")
    ends = ramp.color_ramp.elements
    ends[0].position, ends[1].position = 0.35, 0.65
    ends[0].color, ends[1].color = first, second
    tree.links.new(pattern.outputs[factor], ramp.inputs["Fac"])
    tree.links.new(ramp.outputs["Color"], colour)
    return material


# node, its settings, and the output that runs from the first colour to the second (None: the node mixes by itself)
_PATTERN_NODES: dict[str, tuple[str, dict[str, typing.Any], str | None]] = {
    "noise": ("ShaderNodeTexNoise", {}, "Fac"),
    "voronoi": ("ShaderNodeTexVoronoi", {}, "Distance"),
    "checker": ("ShaderNodeTexChecker", {}, None),
    "brick": ("ShaderNodeTexBrick", {}, None),
    "wood": ("ShaderNodeTexWave", {"wave_type": "BANDS"}, "Fac"),
    "marble": ("ShaderNodeTexWave", {"wave_type": "RINGS"}, "Fac"),
}
