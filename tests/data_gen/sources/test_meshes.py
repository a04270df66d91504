"""Mesh files of every format: geometry against closed forms, looks by colour, and what is wrong with them in words."""

import json
import struct

import mesh_files
import numpy as np
import pytest
import trimesh

from data_gen.sources import read_model
from lightning_tl.errors import UserError


def _volume(mesh):
    corners = mesh.vertices[mesh.faces]
    return np.einsum("fi,fi->f", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6


def test_an_obj_with_its_material_and_picture(tmp_path):
    model = read_model(mesh_files.obj(tmp_path / "a.obj", (0.2, 0.1, 0.3)))
    assert model.extent == pytest.approx(0.3)
    assert len(model.mesh.vertices) == 8  # merged, though its corners have three texture coordinates each
    assert len(model.mesh.faces) == 12
    assert _volume(model.mesh) == pytest.approx(0.2 * 0.1 * 0.3 / 0.3**3)  # outward, of height 1
    assert model.mesh.vertices[:, 2].min() == 0
    assert model.textured
    assert model.missing == ()
    assert {p.name for p in model.files} == {"a.obj", "box.mtl", "box.png"}
    (surface,) = model.surfaces
    assert surface.image.shape == (16, 16, 3)
    assert tuple(surface.image[0, 0]) == (255, 0, 0)
    assert model.uv.shape == (12, 3, 2)
    # each side shows the whole picture: its area in texture coordinates is one
    a, b = model.uv[:, 1] - model.uv[:, 0], model.uv[:, 2] - model.uv[:, 0]
    assert np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() / 2 == pytest.approx(6)


@pytest.mark.parametrize("suffix", ["obj", "ply", "stl", "glb"])
def test_every_format_gives_the_same_body(tmp_path, suffix):
    body = trimesh.creation.cylinder(0.5, 2.0, sections=64)
    model = read_model(mesh_files.bare(tmp_path / f"a.{suffix}", body))
    assert model.extent == pytest.approx(2.0)
    assert _volume(model.mesh) == pytest.approx(np.pi * 0.25 * 2 / 8, rel=0.01)


@pytest.mark.parametrize(("up", "tall"), [("z", 3.0), ("-z", 3.0), ("y", 2.0), ("-y", 2.0), ("x", 1.0), ("-x", 1.0)])
def test_the_axis_that_points_up(tmp_path, up, tall):
    box = trimesh.creation.box((1, 2, 3))
    # a mark at the positive end of each axis
    marks = [trimesh.creation.box((0.01, 0.01, 0.01)).apply_translation(np.eye(3)[i] * (i + 1) / 2) for i in range(3)]
    path = mesh_files.bare(tmp_path / "a.stl", trimesh.util.concatenate([box, *marks]))
    model = read_model(path, up)
    height = np.ptp(model.mesh.vertices[:, 2]) * model.extent
    assert height == pytest.approx(tall, abs=0.02)
    assert _volume(model.mesh) > 0  # turned, not mirrored
    heights = np.unique(model.mesh.vertices[:, 2].round(4))
    centre_top = heights[-1] - heights[-2] < 0.01
    assert centre_top == (not up.startswith("-"))


def test_units(tmp_path):
    path = mesh_files.bare(tmp_path / "a.stl", trimesh.creation.box((10, 10, 30)))
    assert [read_model(path, units=u).extent for u in ("m", "cm", "mm", "inch")] == pytest.approx(
        [30, 0.3, 0.03, 0.762]
    )


def test_colours_at_vertices(tmp_path):
    body = trimesh.creation.box((1, 1, 1))
    body.visual.vertex_colors = np.tile([10, 20, 30, 255], (8, 1)).astype(np.uint8)
    model = read_model(mesh_files.bare(tmp_path / "a.ply", body))
    assert model.textured
    assert (model.colours == (10, 20, 30)).all()
    assert model.colours.shape == (12, 3, 3)


def test_a_material_of_one_colour_is_no_texture(tmp_path):
    model = read_model(mesh_files.obj(tmp_path / "a.obj", image=""))
    assert not model.textured
    assert model.surfaces[0].colour == pytest.approx((0.2, 0.4, 0.6), abs=0.003)


def test_a_glb_with_two_placed_parts_and_a_mirrored_one(tmp_path):
    scene = trimesh.Scene()
    scene.add_geometry(trimesh.creation.box((1, 1, 1)), node_name="a")
    mirror = np.diag([-1.0, 1, 1, 1])
    mirror[:3, 3] = (4, 0, 0)
    scene.add_geometry(trimesh.creation.box((1, 2, 1)), node_name="b", transform=mirror)
    scene.export(tmp_path / "a.glb")
    model = read_model(tmp_path / "a.glb", "y")
    assert len(model.surfaces) == 2
    assert set(np.unique(model.mesh.slots)) == {0, 1}
    scale = 1 / model.extent
    assert _volume(model.mesh) == pytest.approx(3 * scale**3)  # the mirrored one is not inside out


@pytest.mark.parametrize(
    ("options", "note"),
    [
        ({"with_mtl": False}, "box.mtl is missing"),
        ({"with_image": False}, "box.png is missing"),
    ],
)
def test_missing_files_are_named_and_leave_it_plain(tmp_path, options, note):
    model = read_model(mesh_files.obj(tmp_path / "a.obj", **options))
    assert model.missing == (note,)
    assert not model.textured
    assert any(not p.exists() for p in model.files)


def test_a_picture_that_cannot_be_decoded(tmp_path):
    path = mesh_files.obj(tmp_path / "a.obj")
    (tmp_path / "box.png").write_bytes((tmp_path / "box.png").read_bytes()[:60])
    model = read_model(path)
    assert len(model.missing) == 1
    assert "box.png cannot be decoded" in model.missing[0]
    assert not model.textured


@pytest.mark.parametrize(
    ("name", "content", "note"),
    [
        ("box.png", b"", "box.png cannot be decoded (UnidentifiedImageError): it is no picture"),
        ("box.png", b"no picture", "box.png cannot be decoded (UnidentifiedImageError): it is no picture"),
        ("box.mtl", b"", "box.mtl holds no material"),
        ("box.mtl", bytes(range(256)) * 9, "box.mtl holds no material"),
    ],
)
def test_textures_and_materials_that_are_none_are_named_and_leave_it_plain(tmp_path, name, content, note):
    path = mesh_files.obj(tmp_path / "a.obj")
    (tmp_path / name).write_bytes(content)
    model = read_model(path)
    assert model.missing == (note,)
    assert not model.textured


def test_names_in_another_case_and_with_a_path_of_another_machine_are_found(tmp_path):
    path = mesh_files.obj(tmp_path / "a.obj", mtl="Box.MTL")
    (tmp_path / "Box.MTL").rename(tmp_path / "box.mtl")
    (tmp_path / "box.mtl").write_text("newmtl paint\nmap_Kd C:\\Users\\me\\BOX.PNG\n")
    assert read_model(path).textured


def test_the_hash_is_of_all_files(tmp_path):
    path = mesh_files.obj(tmp_path / "a.obj")
    first = read_model(path).sha256
    assert read_model(path).sha256 == first
    mesh_files.picture(tmp_path / "box.png", 8)
    assert read_model(path).sha256 != first


def test_large_pictures_are_made_smaller(tmp_path):
    path = mesh_files.obj(tmp_path / "a.obj")
    mesh_files.picture(tmp_path / "box.png", 2048)
    assert read_model(path).surfaces[0].image.shape == (1024, 1024, 3)


def _text(content):
    return lambda path: path.write_text(content)


def _gltf(buffer):
    """A triangle whose numbers lie in another file, which is missing or too short."""
    content = {
        "asset": {"version": "2.0"},
        "buffers": [{"uri": "numbers.bin", "byteLength": 36}],
        "bufferViews": [{"buffer": 0, "byteLength": 36}],
        "accessors": [{"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
        "nodes": [{"mesh": 0}],
        "scenes": [{"nodes": [0]}],
    }

    def write(path):
        path.write_text(json.dumps(content))
        if buffer is not None:
            (path.parent / "numbers.bin").write_bytes(buffer)

    return write


_BOX = trimesh.creation.box((1, 1, 1))
TRIANGLE = "v 0 0 0\nv 1 0 0\nv 0 0 1\n"
PLY = (
    "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
    "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
)
BROKEN = [
    ("a.obj", _text(""), "the file is empty"),
    ("a.obj", _text("  \n\n"), "the file is empty"),
    ("a.obj", _text("# nothing\n"), "a mesh with triangles is needed"),
    ("a.obj", _text(TRIANGLE), "a mesh with triangles is needed"),
    ("a.obj", _text(TRIANGLE + "f 1 2 9\n"), "a.obj: "),
    ("a.obj", _text(TRIANGLE + "f 1 2 x\n"), "a.obj: "),
    ("a.obj", _text("v 0 0 0\nv nan 0 0\nv 0 0 1\nf 1 2 3\n"), "not finite"),
    ("a.obj", _text("v 0 0 0\nv inf 0 0\nv 0 0 1\nf 1 2 3\n"), "not finite"),
    ("a.obj", _text("v 0 0 0\nv 1 1 1\nv 2 2 2\nf 1 2 3\n"), "degenerate: none of its 1 triangles has an area"),
    ("a.obj", _text("v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n"), "degenerate"),
    ("a.obj", _text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"), "it is flat"),
    ("a.obj", lambda p: p.write_bytes(bytes(range(256)) * 20), "a.obj: "),
    ("a.ply", _text("no ply"), "cannot be read as PLY"),
    ("a.ply", _text(PLY + "0 0 0\n"), "a.ply: "),
    ("a.ply", _text(PLY + "0 0 0\n1 0 0\n0 0 1\n3 0 1 7\n"), "a.ply: "),
    ("a.ply", lambda p: trimesh.PointCloud(np.random.default_rng(0).uniform(size=(20, 3))).export(p), "point cloud"),
    ("a.ply", lambda p: p.write_bytes(_BOX.export(file_type="ply")[:-40]), "cannot be read as PLY"),
    ("a.stl", lambda p: p.write_bytes(_BOX.export(file_type="stl")[:300]), "holds nothing"),
    ("a.stl", lambda p: p.write_bytes(b" " * 80 + struct.pack("<I", 0)), "a.stl: "),
    ("a.glb", lambda p: p.write_bytes(_BOX.export(file_type="glb")[:200]), "cannot be read as GLB"),
    ("a.glb", lambda p: p.write_bytes(b"glTF" + bytes(40)), "cannot be read as GLB"),
    ("a.gltf", _text("{"), "cannot be read as GLTF (JSONDecodeError: Expecting property name"),
    ("a.gltf", _text("[]"), "cannot be read as GLTF"),
    ("a.gltf", _gltf(None), "cannot be read as GLTF (FileNotFoundError"),
    ("a.gltf", _gltf(b"12"), "cannot be read as GLTF"),
    ("a.obj", lambda p: p.mkdir(), "cannot be read: Is a directory"),
    ("a.fbx", _text("Kaydara"), ".fbx is not read; valid: .obj, .ply, .glb, .gltf, .stl"),
    ("a", _text("x"), "a file without an extension is not read"),
]


@pytest.mark.parametrize(("name", "write", "message"), BROKEN, ids=[f"{i}-{n}" for i, (n, _, _) in enumerate(BROKEN)])
def test_broken_meshes_get_one_clear_error(tmp_path, name, write, message):
    path = tmp_path / name
    write(path)
    with pytest.raises(UserError) as caught:
        read_model(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"none\.obj: cannot be read: No such file"):
        read_model(tmp_path / "none.obj")
