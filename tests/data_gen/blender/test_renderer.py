"""Blender's part: labels that agree with the pixels and with geometry, and bytes that depend on the scene alone."""

import ctypes
import dataclasses
import json
import os
import pickle
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scene_gate import SceneGate

from data_gen.farm import LOCK, render
from data_gen.labels import FLIP
from data_gen.library import CATEGORIES
from data_gen.scene_sampler import config_from_dict, config_to_dict, load_config, sample_scene
from data_gen.shard_writer import read_shard

HERE = Path(__file__).parents[1]
pytestmark = pytest.mark.render

LABELLED = config_from_dict(
    {
        "categories": ["all"],
        "objects": {"count": [4, 8]},
        "camera": {"views": 3},
        "image": {"size": 64, "samples": 2, "depth": True},
    }
)


@pytest.fixture(scope="module")
def views_of(tmp_path_factory):
    """Render scenes in a fresh Blender."""

    def run(config, specs):
        folder = tmp_path_factory.mktemp("probe")
        (folder / "config.json").write_text(json.dumps(config_to_dict(config)))
        (folder / "specs.pickle").write_bytes(pickle.dumps(specs))
        files = [str(folder / name) for name in ("config.json", "specs.pickle", "views.pickle")]
        done = subprocess.run([sys.executable, str(HERE / "probe.py"), *files], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return pickle.loads((folder / "views.pickle").read_bytes())

    return run


@pytest.fixture(scope="module")
def scenes():
    return [sample_scene(LABELLED, 0, "train", i) for i in range(5)]


@pytest.fixture(scope="module")
def rendered(views_of, scenes):
    return views_of(LABELLED, scenes)


def _pose(eye, target):
    back = np.subtract(eye, target) / np.linalg.norm(np.subtract(eye, target))
    right = np.cross([0, 0, 1.0], back)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(back, right), back, eye], 1)
    return pose


def test_normals_and_depth_of_known_planes_under_three_cameras(views_of):
    config = config_from_dict({"image": {"size": 48, "samples": 1, "depth": True}, "room": {"size": 4.0}})
    poses = [
        _pose(*p)
        for p in [((1, -1, 1.5), (0, 1.9, 0.8)), ((-1.2, 0.3, 0.7), (2, 0.4, 0)), ((0.5, 1.5, 3), (-1, -1, 0))]
    ]
    spec = dataclasses.replace(sample_scene(config, 0, "train", 0), objects=(), cameras=tuple(map(tuple, poses)))
    # the room's planes: point, normal into the room
    planes = [((0, 0, 0), (0, 0, 1)), ((0, 0, 4), (0, 0, -1))]
    planes += [((2 * x, 2 * y, 0), (-x, -y, 0)) for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1))]
    met = set()
    for view, pose in zip(views_of(config, [spec])[0], poses, strict=True):
        camera = {key: np.array(value) for key, value in view.labels["camera"].items()}
        assert view.labels["objects"] == []
        depth = view.depth / 1000.0
        v, u = np.mgrid[:48, :48]
        rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(camera["K"]).T
        to_world = np.linalg.inv(camera["world_to_camera"])
        points = (rays * depth[..., None]) @ to_world[:3, :3].T + to_world[:3, 3]
        distances = np.stack([(points - p) @ n for p, n in planes])
        # the sample of a pixel lies anywhere in it: what depth says is right to within a pixel's slant
        nearest = np.abs(distances).argmin(0)
        assert np.abs(distances).min(0).max() < 0.12
        assert np.median(np.abs(distances).min(0)) < 0.02
        for index in np.unique(nearest):
            inner = np.abs(np.delete(distances, index, 0)).min(0) > 0.25
            chosen = (nearest == index) & inner
            if chosen.sum() < 20:
                continue
            met.add(int(index))
            expected = pose[:3, :3].T @ planes[index][1]
            got = view.normal[chosen] / 255 * 2 - 1
            assert np.abs(got - expected).max() < 0.01
            assert expected[2] > 0 or np.degrees(np.arccos(-expected[2])) > 90  # they face the camera
    assert len(met) >= 4


def test_boxes_and_labels_are_those_of_the_masks(rendered, scenes):
    ids = {c.id for c in CATEGORIES.values()}
    listed = 0
    for spec, views in zip(scenes, rendered, strict=True):
        assert len(views) == 3
        for index, view in enumerate(views):
            labels = view.labels
            assert (labels["scene"], labels["view"], labels["size"]) == (spec.scene, index, [64, 64])
            assert [o["instance"] for o in labels["objects"]] == sorted(set(np.unique(view.instance)) - {0})
            assert labels["labels"] == sorted(set(np.unique(view.category)) - {0})
            assert set(labels["labels"]) <= ids
            for o in labels["objects"]:
                mask = view.instance == o["instance"]
                rows, columns = np.nonzero(mask)
                x, y, width, height = o["bbox"]
                assert (x, y) == (columns.min(), rows.min())
                assert (x + width - 1, y + height - 1) == (columns.max(), rows.max())
                assert o["area"] == mask.sum() > 0
                assert set(view.category[mask]) == {o["category"]}
                assert CATEGORIES[o["name"]].id == o["category"] == spec.objects[o["instance"] - 1].category_id
                assert 0 < o["visible_fraction"] <= 1
                listed += 1
    assert listed > 40


def test_masks_lie_where_the_geometry_is_projected(rendered, scenes):
    checked = 0
    for spec, views in zip(scenes, rendered, strict=True):
        for view in views:
            K, pose = (np.array(view.labels["camera"][key]) for key in ("K", "world_to_camera"))
            for o in view.labels["objects"]:
                item = spec.objects[o["instance"] - 1]
                angle = np.linspace(0, 2 * np.pi, 32)
                ring = item.size / 2 * np.stack([np.cos(angle), np.sin(angle)], 1) + item.position
                hull = np.concatenate([np.c_[ring, 0 * angle], np.c_[ring, 0 * angle + item.size]])
                seen = hull @ pose[:3, :3].T + pose[:3, 3]
                if seen[:, 2].min() < 0.05:
                    continue
                pixels = (seen @ K.T)[:, :2] / seen[:, 2:]
                x, y, width, height = o["bbox"]
                assert (pixels.min(0) - 1 <= (x, y)).all()
                assert (pixels.max(0) + 1 >= (x + width - 1, y + height - 1)).all()
                checked += 1
    assert checked > 30


def test_visible_fraction_agrees_with_rendering_each_object_alone(views_of, scenes, rendered):
    alone_specs, where = [], []
    for spec, views in zip(scenes[:3], rendered, strict=False):
        for item in spec.objects:
            alone_specs.append(dataclasses.replace(spec, objects=(dataclasses.replace(item, instance=1),)))
            where.append((views, item.instance))
    hidden = 0
    for (views, instance), alone in zip(where, views_of(LABELLED, alone_specs), strict=True):
        for view, single in zip(views, alone, strict=True):
            labelled = [o for o in view.labels["objects"] if o["instance"] == instance]
            whole = [o for o in single.labels["objects"] if o["visible_fraction"] == 1.0]
            if not labelled or not whole or whole[0]["area"] < 30:
                continue  # cut off by the frame, or too small to compare
            expected = labelled[0]["area"] / whole[0]["area"]
            assert labelled[0]["visible_fraction"] == pytest.approx(expected, abs=0.12)
            hidden += expected < 0.8
    assert hidden >= 3


def test_normals_are_unit_and_face_the_camera(rendered):
    for views in rendered:
        for view in views:
            normal = view.normal.astype(float) / 255 * 2 - 1
            some = (view.normal != 128).any(-1)
            assert some.mean() > 0.99  # a closed room has a surface everywhere
            assert np.abs(np.linalg.norm(normal[some], axis=-1) - 1).max() < 0.02
            v, u = np.mgrid[:64, :64]
            rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(view.labels["camera"]["K"]).T @ FLIP
            rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
            towards = -(normal * rays).sum(-1)[some]
            assert (towards > -0.35).all()
            assert (towards > 0).mean() > 0.97


def test_images_are_lit_and_show_something(rendered):
    for views in rendered:
        for view in views:
            assert 15 < view.rgb.mean() < 240
            assert view.rgb.std() > 8


def test_a_scene_does_not_depend_on_process_or_order(views_of, scenes, rendered):
    for spec, again, before in zip(scenes[3:0:-1], views_of(LABELLED, scenes[3:0:-1]), rendered[3:0:-1], strict=True):
        for a, b in zip(again, before, strict=True):
            assert a.labels == b.labels
            for name in ("rgb", "category", "instance", "normal", "depth"):
                assert np.array_equal(getattr(a, name), getattr(b, name)), (spec.scene, name)


def test_every_category_is_seen(views_of):
    config = config_from_dict(
        {
            "categories": ["all"],
            "appearance": "single",
            "camera": {"views": 1, "offset": 0.0},
            "objects": {"glossy": 0.3},
            "room": {"walls": 0},
            "image": {"size": 32, "samples": 1, "bounces": 0},
        }
    )
    specs = [sample_scene(config, 0, "train", i) for i in range(len(CATEGORIES))]
    seen = {}
    for spec, (view,) in zip(specs, views_of(config, specs), strict=True):
        (o,) = view.labels["objects"]
        assert o["name"] == spec.objects[0].category
        assert o["visible_fraction"] > 0.5
        seen[o["name"]] = o["area"]
    assert set(seen) == set(CATEGORIES)
    assert min(seen.values()) > 20, min(seen.items(), key=lambda kv: kv[1])


@pytest.mark.parametrize("name", ["digits", "shapes"])
def test_shipped_configurations_render(views_of, name):
    config = load_config(HERE.parents[1] / "configs" / "render" / f"{name}.yaml")
    views = views_of(config, [sample_scene(config, 0, "train", i) for i in range(4)])
    areas = [o["area"] / 48**2 for scene in views for v in scene for o in v.labels["objects"]]
    assert len(areas) == 16
    assert np.median(areas) > 0.05
    assert all(v.rgb.shape == (48, 48, 3) for scene in views for v in scene)


def test_nothing_is_left_in_the_temporary_folder(tmp_path, monkeypatch):
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    config = config_from_dict({"camera": {"views": 1}, "image": {"size": 16, "samples": 1}, "scenes_per_shard": 1})
    assert render(config, tmp_path / "out", 1).rendered == 1
    assert list(place.iterdir()) == []


def _files(out):
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file() and p.name != LOCK}


def _campaign(tmp_path, config, images, val, kills, most, seed, crash=None):
    """Kill parents and workers after random numbers of scenes, finish, and compare with a calm run of one worker.

    After 1 to ``most`` scenes a parent or a worker is killed, and then the parent, after up to 2 more. With an
    environment ``crash`` in which workers die of a scene, that is reported once, and all other shards are there.
    """
    rng = random.Random(seed)
    assert kills * (most + 2) < (images + val) // config.camera.views  # so that scenes remain after the last kill
    (tmp_path / "config.json").write_text(json.dumps(config_to_dict(config)))
    command = [sys.executable, str(HERE / "render_here.py"), str(tmp_path / "config.json"), str(tmp_path / "out")]
    command += [str(images), str(val), "2", "crashing"]
    for number in range(kills):
        gate = SceneGate(tmp_path / f"gate{number}")
        environment = {**(crash or os.environ), **gate.environment}
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        gate.wait(2)  # a worker that dies before its first scene ends the parent
        scenes = rng.randint(1, most)
        gate.open(scenes)
        gate.wait(scenes)
        assert process.poll() is None
        if rng.random() < 2 / 3:
            listing = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
            os.kill(rng.choice([*map(int, listing.stdout.split())]), signal.SIGKILL)
            more = rng.randint(0, 2)
            gate.open(more)
            gate.wait(more)
        process.kill()
        process.communicate()
        gate.close()
    if crash:
        name = crash["CRASH"].removeprefix("train")
        message = subprocess.run(command, capture_output=True, text=True, env=crash).stderr
        assert message.count(f"scene {name} of train") == 1
        assert f"data_gen.reproduce {tmp_path / 'out'} --split train --scene {name}" in message
        shards = images // (config.scenes_per_shard * config.camera.views)
        there = {int(path.stem) for path in (tmp_path / "out/train/shards").glob("*.tar")}
        assert {*range(shards)} - there == {int(name) // config.scenes_per_shard}
    render(config, tmp_path / "out", images, val, 2)
    render(config, tmp_path / "calm", images, val, 1)
    assert _files(tmp_path / "out") == _files(tmp_path / "calm")


@pytest.mark.slow
def test_killed_and_restarted_gives_the_same_bytes_and_more_images_keep_the_first(tmp_path):
    config = config_from_dict(
        {
            "categories": ["digits", "chair"],
            "objects": {"count": [1, 3]},
            "camera": {"views": 2},
            "room": {"walls": 0},
            "image": {"size": 24, "samples": 2, "depth": True},
            "scenes_per_shard": 5,
        }
    )
    _campaign(tmp_path, config, 80, 10, kills=2, most=15, seed=3)
    first = [list(read_shard(p)) for p in sorted((tmp_path / "calm/train/shards").glob("*.tar"))]
    assert render(config, tmp_path / "out", 120, 10, 2).rendered == 40
    more = [list(read_shard(p)) for p in sorted((tmp_path / "out/train/shards").glob("*.tar"))]
    assert (len(first), len(more)) == (8, 12)
    assert more[:8] == first


def _mount(folder, size, remount=False):
    """Lay a file system in memory over a folder, or change its size; False where that is not allowed."""
    return ctypes.CDLL(None).mount(b"tmpfs", str(folder).encode(), b"tmpfs", 32 if remount else 0, size) == 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_full_campaign(tmp_path):
    """A disk that fills up, a scene that every worker dies of, thirty kills: the bytes of a calm run."""
    config = load_config(HERE.parents[1] / "configs" / "render" / "digits.yaml")
    config.image.size, config.scenes_per_shard = 32, 4
    out = tmp_path / "out"
    out.mkdir()
    mounted = _mount(out, b"size=1m")
    try:
        if mounted:
            (tmp_path / "config.json").write_text(json.dumps(config_to_dict(config)))
            command = [sys.executable, str(HERE / "render_here.py"), str(tmp_path / "config.json"), str(out)]
            full = subprocess.run([*command, "2400", "64", "2"], capture_output=True, text=True)
            assert full.returncode == 1
            assert full.stderr.count("the disk is full") == 1
            assert 1 <= len(list((out / "train/shards").glob("*.tar"))) < 150
            assert _mount(out, b"size=500m", remount=True)
        crash = os.environ | {"CRASH": "train333"}
        _campaign(tmp_path, config, 2400, 64, kills=30, most=18, seed=11, crash=crash)
        render(config, tmp_path / "small", 200, 64, 2)
        members = [
            [m for p in sorted((tmp_path / n / "train/shards").glob("*.tar")) for m in read_shard(p)]
            for n in ("small", "out")
        ]
        assert members[1][: len(members[0])] == members[0]
    finally:
        if mounted:
            subprocess.run(["umount", str(out)], check=True)
