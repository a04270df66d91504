"""Shader nodes and mesh data of Blender, made from plain data. Works on Blender's objects without importing it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_gen.library import MaterialSpec, Mesh

COLOURS = "colours"
"""Name of the meshes' colours at their corners."""
_SHARP_DEGREES = 35.0


def fill_mesh(
    data: Any, mesh: Mesh, slots: int, uv: NDArray[np.float32] | None = None, colours: NDArray[np.uint8] | None = None
) -> None:
    """Fill an empty Blender mesh.

    Args:
        data: of type ``bpy.types.Mesh``.
        mesh: the triangles.
        slots: number of material slots.
        uv: texture coordinates of the corners, ``[F, 3, 2]``.
        colours: sRGB colours of the corners, 8 bit, ``[F, 3, 3]``.
    """
    count = len(mesh.faces)
    data.vertices.add(len(mesh.vertices))
    data.vertices.foreach_set("co", mesh.vertices.astype(np.float32).ravel())
    data.loops.add(3 * count)
    data.loops.foreach_set("vertex_index", mesh.faces.ravel())
    data.polygons.add(count)
    data.polygons.foreach_set("loop_start", np.arange(0, 3 * count, 3, dtype=np.int32))
    data.polygons.foreach_set("material_index", np.minimum(mesh.slots, max(slots - 1, 0)).astype(np.int32))
    data.polygons.foreach_set("use_smooth", mesh.smooth)
    if uv is not None:
        data.uv_layers.new().data.foreach_set("uv", uv.astype(np.float32).ravel())
    if colours is not None:
        rgba = np.concatenate([colours / np.float32(255), np.ones((count, 3, 1))], 2).astype(np.float32)
        layer = data.color_attributes.new(COLOURS, "BYTE_COLOR", "CORNER")
        layer.data.foreach_set("color_srgb", rgba.ravel())
    data.update(calc_edges=True)
    if mesh.smooth.any():
        data.set_sharp_from_angle(angle=np.radians(_SHARP_DEGREES))


def read_mesh(data: Any) -> tuple[Mesh, NDArray[np.float32] | None, NDArray[np.uint8] | None]:
    """Return the mesh as it is now, in triangles; the inverse of :func:`fill_mesh`."""
    data.calc_loop_triangles()
    triangles = data.loop_triangles

    def values(items: Any, key: str, kind: Any, width: int) -> NDArray[Any]:
        array = np.empty(width * len(items), kind)
        items.foreach_get(key, array)
        return array.reshape(-1, width)

    loops = values(triangles, "loops", np.int32, 3)
    faces = values(triangles, "vertices", np.int32, 3)
    slots = values(triangles, "material_index", np.int32, 1).ravel()
    mesh = Mesh(values(data.vertices, "co", np.float32, 3).astype(float), faces, slots, np.ones(len(faces), bool))
    uv = values(data.uv_layers[0].data, "uv", np.float32, 2)[loops] if len(data.uv_layers) else None
    colours = None
    if COLOURS in data.color_attributes:
        rgba = values(data.color_attributes[COLOURS].data, "color_srgb", np.float32, 4)
        colours = np.round(rgba[loops][..., :3] * 255).astype(np.uint8)
    return mesh, uv, colours


def box_uv(mesh: Mesh, scale: float) -> NDArray[np.float32]:
    """Return texture coordinates that project an image onto faces along the axes, ``scale`` repetitions per metre."""
    corners = mesh.vertices[mesh.faces]
    normal = np.abs(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]))
    axes = np.array([(1, 2), (0, 2), (0, 1)])[normal.argmax(1)]
    return (np.take_along_axis(corners, axes[:, None, :].repeat(3, 1), 2) * scale).astype(np.float32)


def _shader(tree: Any, roughness: float | None) -> tuple[Any, Any]:
    """Make the surface shader and return it with its colour input."""
    tree.nodes.clear()
    output = tree.nodes.new("ShaderNodeOutputMaterial")
    if roughness is None:
        shader = tree.nodes.new("ShaderNodeBsdfDiffuse")
        colour = shader.inputs["Color"]
    else:
        shader = tree.nodes.new("ShaderNodeBsdfPrincipled")
        shader.inputs["Roughness"].default_value = roughness
        colour = shader.inputs["Base Color"]
    tree.links.new(shader.outputs[0], output.inputs["Surface"])
    return shader, colour


def plain(tree: Any, colour: tuple[float, float, float], roughness: float | None) -> None:
    """Make a surface with one colour (linear RGB)."""
    _shader(tree, roughness)[1].default_value = (*colour, 1.0)


def painted(tree: Any, roughness: float | None) -> None:
    """Make a surface with the mesh's corner colours."""
    _, colour = _shader(tree, roughness)
    source = tree.nodes.new("ShaderNodeVertexColor")
    source.layer_name = COLOURS
    tree.links.new(source.outputs["Color"], colour)


def pictured(tree: Any, image: Any, roughness: float | None) -> None:
    """Make a surface with an image, placed by the mesh's texture coordinates."""
    _, colour = _shader(tree, roughness)
    picture = tree.nodes.new("ShaderNodeTexImage")
    picture.image = image
    tree.links.new(picture.outputs["Color"], colour)


def mapped(tree: Any, images: Mapping[str, Any]) -> None:
    """Make a PBR surface from its maps: ``color``, ``normalgl``, ``roughness``, ``metalness``."""
    shader, colour = _shader(tree, 0.8)
    for kind, image in images.items():
        picture = tree.nodes.new("ShaderNodeTexImage")
        picture.image = image
        if kind == "normalgl":
            turn = tree.nodes.new("ShaderNodeNormalMap")
            tree.links.new(picture.outputs["Color"], turn.inputs["Color"])
            tree.links.new(turn.outputs["Normal"], shader.inputs["Normal"])
        else:
            socket = {"color": colour, "roughness": shader.inputs["Roughness"], "metalness": shader.inputs["Metallic"]}
            tree.links.new(picture.outputs["Color"], socket[kind])


def panorama(tree: Any, image: Any, degrees: float, strength: float) -> None:
    """Light the world with a panorama, turned about the vertical axis."""
    tree.nodes.clear()
    output = tree.nodes.new("ShaderNodeOutputWorld")
    light = tree.nodes.new("ShaderNodeBackground")
    light.inputs["Strength"].default_value = strength
    picture = tree.nodes.new("ShaderNodeTexEnvironment")
    picture.image = image
    place = tree.nodes.new("ShaderNodeTexCoord")
    turn = tree.nodes.new("ShaderNodeMapping")
    turn.inputs["Rotation"].default_value = (0, 0, np.radians(degrees))
    tree.links.new(place.outputs["Generated"], turn.inputs["Vector"])
    tree.links.new(turn.outputs["Vector"], picture.inputs["Vector"])
    tree.links.new(picture.outputs["Color"], light.inputs["Color"])
    tree.links.new(light.outputs["Background"], output.inputs["Surface"])


def patterned(tree: Any, spec: MaterialSpec, upright: bool) -> None:
    """Make a surface with a procedural pattern.

    Args:
        tree: node tree of the material.
        spec: colours and pattern.
        upright: turn flat patterns (bricks) so that they lie correctly on vertical faces.
    """
    _, colour = _shader(tree, spec.roughness)
    first, second = (*spec.colour, 1.0), (*spec.second, 1.0)
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
        return
    if "Distortion" in pattern.inputs:
        pattern.inputs["Distortion"].default_value = 4.0 if spec.pattern == "wood" else 9.0
    ramp = tree.nodes.new("ShaderNodeValToRGB")
    ends = ramp.color_ramp.elements
    ends[0].position, ends[1].position = 0.35, 0.65
    ends[0].color, ends[1].color = first, second
    tree.links.new(pattern.outputs[factor], ramp.inputs["Fac"])
    tree.links.new(ramp.outputs["Color"], colour)


# node, its settings, and the output that runs from the first colour to the second (None: the node mixes by itself)
_PATTERN_NODES: dict[str, tuple[str, dict[str, Any], str | None]] = {
    "noise": ("ShaderNodeTexNoise", {}, "Fac"),
    "voronoi": ("ShaderNodeTexVoronoi", {}, "Distance"),
    "checker": ("ShaderNodeTexChecker", {}, None),
    "brick": ("ShaderNodeTexBrick", {}, None),
    "wood": ("ShaderNodeTexWave", {"wave_type": "BANDS"}, "Fac"),
    "marble": ("ShaderNodeTexWave", {"wave_type": "RINGS"}, "Fac"),
}
