"""The user's own inputs in rendered pixels: pictures the right way up, distractors without labels, cameras as given."""

import dataclasses
import json
import pickle
import subprocess
import sys
from pathlib import Path

import mesh_files
import numpy as np
import pytest
import trimesh

from data_gen.scene_sampler import config_from_dict, config_to_dict, sample_scene
from data_gen.sources import open_catalogue

HERE = Path(__file__).parents[1]
pytestmark = pytest.mark.render
WIDTH, HEIGHT = 64, 48


def _pose(eye, target):
    back = np.subtract(eye, target) / np.linalg.norm(np.subtract(eye, target))
    right = np.cross([0, 0, 1.0], back)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(back, right), back, eye], 1)
    return tuple(map(tuple, pose))


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """Make inputs of every kind, scenes of one object each by its category, and render all in one Blender."""
    root = tmp_path_factory.mktemp("inputs")
    mesh_files.obj(root / "meshes" / "box" / "a.obj", (0.2, 0.2, 0.2))
    mesh_files.obj(root / "meshes" / "flat_colour" / "a.obj", (0.2, 0.2, 0.2), image="")
    painted = trimesh.creation.box((1, 1, 1))
    painted.visual.vertex_colors = np.tile([20, 200, 40, 255], (8, 1)).astype(np.uint8)
    mesh_files.bare(root / "meshes" / "painted" / "a.ply", painted)
    mesh_files.glb(root / "meshes" / "glb.glb")
    for folder in ("meshes", "reduced"):
        mesh_files.bare(root / folder / f"{folder}_ball" / "a.stl", trimesh.creation.icosphere(5))
    config = config_from_dict(
        {
            "sources": [
                {"kind": "folder", "path": str(root / "meshes")},
                {"kind": "folder", "path": str(root / "reduced"), "max_faces": 300},
                {"kind": "bop", "path": str(mesh_files.bop(root / "ycbv", (1,))), "scale": "metric"},
                {"kind": "shapenet", "path": str(mesh_files.shapenet(root / "shapenet"))},
            ],
            "appearance": "single",
            "objects": {"distractors": [0, 1], "size": [0.3, 0.3], "yaw": [0, 0]},
            "camera": {"views": 1, "intrinsics": str(mesh_files.camera(root / "camera.json"))},
            "lights": {"hdris": str(mesh_files.hdri(root / "hdri" / "a.hdr").parent), "ambient": [0.3, 0.3]},
            "room": {"walls": 0, "materials": str(mesh_files.materials(root / "pbr", ("Tiles074",)))},
            "image": {"size": WIDTH, "height": HEIGHT, "samples": 16},
        }
    )
    catalogue = open_catalogue(config)
    by_name = {}
    for i in range(60):
        spec = sample_scene(config, 0, "train", i, catalogue)
        by_name.setdefault(spec.objects[0].category, spec)
    pose = _pose((0, -1.4, 0.25), (0, 0, 0.12))
    specs = {
        name: dataclasses.replace(
            spec, objects=spec.objects[:1], cameras=(pose,), panorama="", lights=(), sky=(1.0,) * 3
        )
        for name, spec in by_name.items()
    }
    box = specs["box"]
    hidden = dataclasses.replace(box.objects[0], instance=2, category_id=0, position=(0.12, -0.4))
    specs["behind"] = dataclasses.replace(box, objects=(box.objects[0], hidden))
    for turn in (0.0, 180.0):
        specs[f"panorama{turn:g}"] = dataclasses.replace(
            box,
            objects=(),
            cameras=(_pose((0, 0, 1), (0, 5, 3)),),
            panorama="a.hdr",
            panorama_turn=turn,
            sky=(0.3,) * 3,
        )
    files = [root / name for name in ("config.json", "specs.pickle", "views.pickle")]
    files[0].write_text(json.dumps(config_to_dict(config)))
    files[1].write_bytes(pickle.dumps(list(specs.values())))
    command = [sys.executable, str(HERE / "probe.py"), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    views = [scene[0] for scene in pickle.loads(files[2].read_bytes())]
    return specs, dict(zip(specs, views, strict=True))


def _mean(view, mask):
    return view.rgb[mask].astype(float).mean(0)


def _quarters(view):
    """Return the mean colours of the four quarters of the object's box: upper left and right, lower left and right."""
    x, y, width, height = view.labels["objects"][0]["bbox"]
    half_w, half_h = width // 2, height // 2
    rows, columns = (y, y + height - half_h), (x, x + width - half_w)
    parts = [(r, c) for r in rows for c in columns]
    inner = [view.rgb[r + 2 : r + half_h - 2, c + 2 : c + half_w - 2].reshape(-1, 3).mean(0) for r, c in parts]
    return np.array(inner)


def test_every_source_is_drawn_and_labelled(rendered):
    specs, views = rendered
    names = {"box", "flat_colour", "painted", "glb", "meshes_ball", "reduced_ball", "ycbv_000001", "airplane", "mug"}
    assert names <= set(specs)
    for name in names:
        (labelled,) = views[name].labels["objects"]
        assert labelled["name"] == name
        assert labelled["area"] > 30
        assert views[name].labels["size"] == [HEIGHT, WIDTH]
        assert (views[name].category[views[name].instance == 1] == labelled["category"]).all()


def test_a_picture_is_the_right_way_up(rendered):
    upper_left, upper_right, lower_left, lower_right = _quarters(rendered[1]["box"])
    assert upper_left.argmax() == 0
    assert upper_left[1] < upper_left[0] / 2
    assert upper_right.argmax() == 1
    assert lower_left.argmax() == 2
    assert lower_right.argmin() == 2
    assert lower_right[:2].min() > 2 * lower_right[2]


def test_colours_of_materials_and_vertices(rendered):
    for name, order in (("flat_colour", [2, 1, 0]), ("painted", [1, 2, 0])):
        view = rendered[1][name]
        colour = _mean(view, view.instance == 1)
        assert list(np.argsort(-colour)) == order, (name, colour)


def test_the_floor_is_of_the_pbr_material(rendered):
    view = rendered[1]["box"]
    floor = np.zeros((HEIGHT, WIDTH), bool)
    floor[-6:] = True
    colour = _mean(view, floor & (view.instance == 0))
    assert colour[0] > 1.5 * colour[1:].max()


def test_a_reduced_mesh_has_the_same_outline(rendered):
    full, reduced = (rendered[1][n].labels["objects"][0] for n in ("meshes_ball", "reduced_ball"))
    assert reduced["area"] == pytest.approx(full["area"], rel=0.05)
    assert np.abs(np.subtract(reduced["bbox"], full["bbox"])).max() <= 1


@pytest.mark.parametrize(("name", "size"), [("box", (0.2, 0.2, 0.2)), ("ycbv_000001", (0.06, 0.04, 0.101))])
def test_boxes_are_where_the_given_camera_projects_them(rendered, name, size):
    specs, views = rendered
    item, labels = specs[name].objects[0], views[name].labels
    # a box of 0.2 has a diameter of 0.283, which is brought to 0.3; metric ones keep their size
    scale = 0.3 / np.hypot(0.2, 0.2) if name == "box" else 1.0
    assert item.position == (0.0, 0.0)
    corners = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (0, 1)]) * size * scale
    K, pose = (np.array(labels["camera"][key]) for key in ("K", "world_to_camera"))
    assert K[0, 0] == pytest.approx(1066.778 / 10)
    seen = corners @ pose[:3, :3].T + pose[:3, 3]
    pixels = (seen @ K.T)[:, :2] / seen[:, 2:]
    x, y, width, height = labels["objects"][0]["bbox"]
    assert np.abs(pixels.min(0) - (x, y)).max() <= 1
    assert np.abs(pixels.max(0) - (x + width - 1, y + height - 1)).max() <= 1


def test_a_distractor_is_seen_and_hides_but_is_not_labelled(rendered):
    alone, behind = rendered[1]["box"], rendered[1]["behind"]
    assert [o["instance"] for o in behind.labels["objects"]] == [1]
    assert set(np.unique(behind.instance)) == {0, 1}
    assert behind.labels["objects"][0]["visible_fraction"] < 0.9 < alone.labels["objects"][0]["visible_fraction"]
    lost = (alone.instance == 1) & (behind.instance == 0)
    assert lost.sum() > 20
    share = behind.labels["objects"][0]["area"] / alone.labels["objects"][0]["area"]
    assert behind.labels["objects"][0]["visible_fraction"] == pytest.approx(share, abs=0.05)
    assert np.abs(behind.rgb[lost].astype(int) - alone.rgb[lost]).mean() > 10


def test_a_panorama_turns(rendered):
    one, other = (rendered[1][f"panorama{turn}"].rgb.astype(float).mean() for turn in (0, 180))
    assert max(one, other) > 1.3 * min(one, other)
