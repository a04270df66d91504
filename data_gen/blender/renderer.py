"""Render a scene's specification to arrays, with BlenderProc and Cycles.

The renderer needs a process of its own (see :mod:`data_gen.worker`): importing BlenderProc changes the interpreter, and
Blender 4.2 crashes when the interpreter exits (leave with ``os._exit``).

All passes of a view come from one flat OpenEXR file that Blender writes without the compositor, so no nodes remain
from one scene to the next. Colours, normals, categories and labels are then computed with numpy.
"""

from __future__ import annotations

import dataclasses
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
from numpy.typing import NDArray

from data_gen.blender import nodes
from data_gen.blender.exr import read_exr
from data_gen.devices import choose_device
from data_gen.labels import View, camera_normals, depth_mm, exposed, film_filter, view_labels
from data_gen.library import MaterialSpec, Mesh, build
from data_gen.library.mesh import Floats, merge, prism, rotation
from data_gen.scene_sampler import ImageConfig, LightSpec, ObjectSpec, RenderConfig, SceneSpec
from data_gen.sources import Catalogue, Model, Surface, open_catalogue
from data_gen.sources.model_cache import Models
from lightning_tl.errors import UserError

# BlenderProc would install its requirements into Blender's own Python; with pip's bpy they are here already
SetupUtility.setup_pip = staticmethod(lambda *args, **kwargs: "")
_camera = importlib.import_module("blenderproc.api.camera")
_renderer = importlib.import_module("blenderproc.api.renderer")
_types = importlib.import_module("blenderproc.api.types")
_initializer = importlib.import_module("blenderproc.python.utility.Initializer")

#: goes up where the same configuration gives other pixels than before
_RENDERER = "3"
_FLOOR_WITHOUT_WALLS = 40.0
_PANORAMA_GAIN = 4.0


def versions() -> dict[str, str]:
    """Return the versions of the software that the pixels depend on, by name."""
    blenderproc = importlib.import_module("blenderproc")
    return {
        "renderer": _RENDERER,
        "blender": bpy.app.version_string,
        "blenderproc": blenderproc.__version__,
        "numpy": np.__version__,
    }


class Renderer:
    """Renders scenes one after the other in this process.

    The output for a scene depends neither on the scenes before it nor on the process.

    Args:
        config: configuration of the data set; only ``image`` is used here.
        temporary: folder for render passes, preferably in memory; each file is deleted once it is read.
        catalogue: contents of the configuration's sources; ``None`` opens them.

    Raises:
        UserError: the machine has no device of the configured kind.
    """

    def __init__(self, config: RenderConfig, temporary: Path, catalogue: Catalogue | None = None) -> None:
        self._image = config.image
        self._catalogue = catalogue or open_catalogue(config)
        self._models = Models(config.sources)
        self._folder = Path(tempfile.mkdtemp(dir=temporary))
        SetupUtility.setup_utility_paths(str(self._folder))
        # bproc.init() fails on pip's bpy (it sets an interface language that is not there): its other steps
        _initializer.clean_up(clean_up_camera=True)
        bpy.context.scene.render.engine = "CYCLES"
        self.device = _set_device(config.image.device)
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
        # a box keeps the mask's sample (one a pixel) within its pixel; film_filter widens it for the colours
        scene.cycles.pixel_filter_type, scene.cycles.filter_width = "BOX", 1.0
        scene.cycles.debug_use_spatial_splits = False
        scene.cycles.use_denoising = layer.cycles.use_denoising = image.denoise
        if image.denoise:
            _set_denoiser(scene.cycles, image.denoise_quality)
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
        self._add_sky(spec)
        for lamp in spec.lights:
            _add_light(lamp)
        self._add_room(spec)
        meshes = [self._add_object(o) for o in spec.objects]
        height, width = self._image.shape
        _camera.set_intrinsics_from_K_matrix(spec.intrinsics(width, height), width, height)
        for pose in spec.cameras:
            _camera.add_camera_pose(pose)
        _renderer.render(str(self._folder), "view", output_key=None, load_keys=set(), return_data=False, verbose=True)
        triangles = [(m.vertices, m.faces) for m in meshes]
        for view in range(len(spec.cameras)):
            path = self._folder / f"view{view:04d}.exr"
            data = path.read_bytes()
            path.unlink()
            yield self._view(spec, view, read_exr(data), triangles)

    def _add_object(self, spec: ObjectSpec) -> Mesh:
        """Add an object to the scene and return its mesh in the world's frame."""
        name = f"object{spec.instance}"
        if spec.mesh is None:
            glyph = _glyph(spec) if spec.shape.get("style") == "font" else None
            mesh = _placed(build(spec.category, spec.shape, glyph), spec)
            _add_mesh(name, mesh, [_material(m, upright=True) for m in spec.materials], spec.instance)
            return mesh
        model = self._models.get(spec.mesh, _reduced)
        mesh = _placed(model.mesh, spec)
        materials = [_surface(s, model, spec.materials[0]) for s in model.surfaces]
        _add_mesh(name, mesh, materials, spec.instance, model.uv, model.colours)
        return mesh

    def _add_room(self, spec: SceneSpec) -> None:
        half = (spec.room if spec.walls else _FLOOR_WITHOUT_WALLS) / 2
        self._add_surface("floor", _square(half), spec.floor, upright=False)
        if spec.walls is None:
            return
        ahead = _square(half).rotated("x", 90).moved((0, half, half))
        sides = [ahead.rotated("z", 90 * i) for i in range(4)]
        ceiling = _square(half).rotated("x", 180).moved((0, 0, 2 * half))
        self._add_surface("walls", merge([*sides, ceiling]), spec.walls, upright=True)

    def _add_surface(self, name: str, mesh: Mesh, spec: MaterialSpec, upright: bool) -> None:
        if not spec.maps:
            _add_mesh(name, mesh, [_material(spec, upright)], 0)
            return
        maps = next(m.maps for m in self._catalogue.materials if m.name == spec.maps)
        material = _empty_material()
        images = {kind: _load_image(path, kind != "color") for kind, path in maps.items()}
        nodes.mapped(material.node_tree, images)
        _add_mesh(name, mesh, [material], 0, nodes.box_uv(mesh, spec.scale))

    def _add_sky(self, spec: SceneSpec) -> None:
        if not spec.panorama:
            _renderer.set_world_background(list(spec.sky))
            return
        hdri = next(h for h in self._catalogue.hdris if h.name == spec.panorama)
        world = bpy.context.scene.world
        world.use_nodes = True
        # there is no other lamp then
        strength = _PANORAMA_GAIN * float(np.mean(spec.sky)) / hdri.mean
        nodes.panorama(world.node_tree, _load_image(hdri.file, False), spec.panorama_turn, strength)

    def _view(
        self, spec: SceneSpec, view: int, passes: dict[str, typing.Any], meshes: list[tuple[Floats, typing.Any]]
    ) -> View:
        def layer(name: str) -> typing.Any:
            return passes[f"ViewLayer.{name}"]

        light = np.stack([layer(f"Combined.{c}") for c in "RGB"], -1)
        rgb = exposed(film_filter(light), self._image.exposure, self._image.min_brightness)
        instance = np.round(layer("IndexOB.X")).astype(np.uint16)
        instance[instance > sum(o.category_id > 0 for o in spec.objects)] = 0  # distractors come last
        ids = np.array([0] + [o.category_id for o in spec.objects], np.uint16)
        normal = camera_normals(np.stack([layer(f"Normal.{c}") for c in "XYZ"], -1), np.array(spec.cameras[view]))
        depth = depth_mm(layer("Depth.Z")) if self._image.depth else None
        return View(rgb, ids[instance], instance, normal, depth, view_labels(spec, view, instance, meshes))


def _set_device(wanted: str) -> str:
    """Set the device that Cycles renders on; a worker sees only its own GPU."""
    kind = "CPU"
    if wanted != "cpu":
        preferences = bpy.context.preferences.addons["cycles"].preferences
        available = {k: [d.name for d in preferences.get_devices_for_type(k)] for k in ("OPTIX", "CUDA")}
        kind = choose_device(wanted, available)
    if kind == "CPU":
        _renderer.set_render_devices(use_only_cpu=True)
    else:
        _renderer.set_render_devices(desired_gpu_device_type=[kind], desired_gpu_ids=[0])
    return kind


def _set_denoiser(cycles: typing.Any, quality: str) -> None:
    try:
        cycles.denoiser = "OPENIMAGEDENOISE"
    except TypeError:  # no such item
        raise UserError(
            "'image.denoise': this Blender was built without Open Image Denoise, as those of some Linux distributions: "
            "use one of blender.org, or --image.denoise false with more --image.samples"
        ) from None
    cycles.denoising_quality = quality.upper()
    # albedo and normals of few samples are noisy too: "NONE" would take them for the truth, "ACCURATE" costs as much
    # again as the image
    cycles.denoising_prefilter = "FAST"
    cycles.denoising_input_passes = "RGB_ALBEDO_NORMAL"


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


def _square(half: float) -> Mesh:
    mesh = prism(np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * half, 1.0)
    top = mesh.vertices[mesh.faces][:, :, 2].min(1) > 0.5
    return Mesh(mesh.vertices - [0, 0, 1], mesh.faces[top], mesh.slots[top], mesh.smooth[top])


def _placed(mesh: Mesh, spec: ObjectSpec) -> Mesh:
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


def _add_mesh(
    name: str,
    mesh: Mesh,
    materials: list[typing.Any],
    index: int,
    uv: NDArray[np.float32] | None = None,
    colours: NDArray[np.uint8] | None = None,
) -> typing.Any:
    data = bpy.data.meshes.new(name)
    for material in materials:
        data.materials.append(material)
    nodes.fill_mesh(data, mesh, len(materials), uv, colours)
    holder = bpy.data.objects.new(name, data)
    holder.pass_index = index
    bpy.context.scene.collection.objects.link(holder)
    return holder


def _material(spec: MaterialSpec, upright: bool) -> typing.Any:
    """Make a procedural material; ``upright`` turns flat patterns (bricks) for vertical faces."""
    material = _empty_material()
    if spec.pattern == "plain":
        nodes.plain(material.node_tree, spec.colour, spec.roughness)
    else:
        nodes.patterned(material.node_tree, spec, upright)
    return material


def _empty_material() -> typing.Any:
    material = bpy.data.materials.new("material")
    material.use_nodes = True
    return material


def _surface(surface: Surface, model: Model, drawn: MaterialSpec) -> typing.Any:
    """Make a material of a user's mesh; properties that the mesh lacks come from a procedural material."""
    if surface.image is None and surface.colour is None and model.colours is None:
        return _material(drawn, upright=True)
    material = _empty_material()
    if surface.image is not None:
        nodes.pictured(material.node_tree, _picture(surface.image), drawn.roughness)
    elif surface.colour is not None:
        nodes.plain(material.node_tree, surface.colour, drawn.roughness)
    else:
        nodes.painted(material.node_tree, drawn.roughness)
    return material


def _picture(pixels: NDArray[np.uint8]) -> typing.Any:
    height, width = pixels.shape[:2]
    image = bpy.data.images.new("texture", width, height)
    rgba = np.ones((height, width, 4), np.float32)
    rgba[..., :3] = pixels[::-1] / np.float32(255)  # Blender's lines run upwards
    image.pixels.foreach_set(rgba.ravel())
    return image


def _load_image(path: str, is_data: bool) -> typing.Any:
    try:
        image = bpy.data.images.load(path, check_existing=True)
    except RuntimeError as error:
        raise UserError(f"{path} cannot be read any more ({error}): was it changed while rendering?") from None
    if is_data:
        image.colorspace_settings.name = "Non-Color"
    return image


def _reduced(model: Model, most: int) -> Model:
    """Reduce a mesh to about a number of triangles by collapsing edges; keeps texture coordinates and colours."""
    if len(model.mesh.faces) <= most:
        return model
    materials = [_empty_material() for _ in model.surfaces]
    holder = _add_mesh("large", model.mesh, materials, 0, model.uv, model.colours)
    change = holder.modifiers.new("reduce", "DECIMATE")
    change.ratio = most / len(model.mesh.faces)
    change.use_collapse_triangulate = True
    evaluated = holder.evaluated_get(bpy.context.evaluated_depsgraph_get())
    mesh, uv, colours = nodes.read_mesh(evaluated.to_mesh())
    evaluated.to_mesh_clear()
    data = holder.data
    bpy.data.objects.remove(holder)
    bpy.data.meshes.remove(data)
    for material in materials:
        bpy.data.materials.remove(material)
    return dataclasses.replace(model, mesh=mesh, uv=uv, colours=colours)
