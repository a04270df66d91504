import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from data_gen.library import CATEGORIES
from data_gen.scene_sampler import RenderConfig, config_from_dict, config_to_dict, load_config, sample_scene
from lightning_tl.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs" / "render"


def _scenes(config, count=20, split="train", seed=0):
    return [sample_scene(config, seed, split, i) for i in range(count)]


def test_importing_is_light():
    """Workers start often: of the library and of others' packages they import what they need, when they need it."""
    code = """
import sys, data_gen.scene_sampler, data_gen.farm, data_gen.dispatch, data_gen.shard_writer, data_gen.worker
heavy = {"bpy", "blenderproc", "torch", "PIL", "scipy", "cv2", "trimesh", "fsspec", "filelock", "jsonargparse"}
print(sorted(heavy & set(sys.modules)))
print(sorted({".".join(name.split(".")[:2]) for name in sys.modules if name.startswith("lightning_tl.")}))
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert said == "[]\n['lightning_tl._io', 'lightning_tl.errors']\n"


def test_a_scene_is_a_pure_function(tiny):
    config = tiny()
    assert _scenes(config) == _scenes(config_from_dict(config_to_dict(config)))
    alone = sample_scene(config, 0, "train", 13)
    assert alone == _scenes(config)[13]
    json.dumps(alone.to_dict())


def test_scenes_differ_by_index_split_seed_and_config(tiny):
    config = tiny()
    specs = [*_scenes(config), *_scenes(config, split="val"), *_scenes(config, seed=1), *_scenes(tiny(light="fix"))]
    assert len({s.seed for s in specs}) == len(specs)
    assert len({repr(s.objects) for s in specs}) == len(specs)


def test_a_scene_does_not_depend_on_how_it_is_rendered(tiny):
    better = tiny(image={"size": 96, "samples": 256}, seed=9, scenes_per_shard=1)
    assert _scenes(tiny()) == _scenes(better)


@pytest.mark.parametrize("seed", range(3))
def test_objects_do_not_overlap_and_cameras_keep_away(tiny, seed):
    config = tiny(objects={"count": [2, 10], "gap": 0.02}, camera={"views": 3, "min_distance": 0.3})
    for spec in _scenes(config, 30, seed=seed):
        for i, a in enumerate(spec.objects):
            for b in spec.objects[:i]:
                assert np.hypot(*np.subtract(a.position, b.position)) >= (a.size + b.size) / 2 + 0.02
        for pose in np.array(spec.cameras):
            assert np.allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3))
            assert np.linalg.det(pose[:3, :3]) > 0
            assert pose[2, 3] > 0
            for o in spec.objects:
                aside = max(np.hypot(*(pose[:2, 3] - o.position)) - o.size / 2, 0)
                assert np.hypot(aside, max(pose[2, 3] - o.size, 0)) >= 0.3


def test_cameras_are_upright_see_the_objects_and_stay_in_the_room():
    config = config_from_dict({"camera": {"roll": [-10, 10], "views": 4}, "room": {"walls": 4, "size": 5.0}})
    for spec in _scenes(config, 20):
        centre = np.mean([[*o.position, o.size / 2] for o in spec.objects], 0)
        for pose in np.array(spec.cameras):
            assert pose[2, 1] > 0  # the image's up has a share of the world's
            assert abs(np.degrees(np.arctan2(pose[2, 0], pose[2, 1]))) < 11
            seen = np.linalg.inv(pose) @ np.append(centre, 1)
            K = spec.intrinsics(100)
            pixel = K @ (seen[:3] * [1, -1, -1])
            assert pixel[2] > 0
            assert (np.abs(pixel[:2] / pixel[2] - 49.5) < 50).all()
            assert np.abs(pose[:2, 3]).max() < 2.5
            assert 0 < pose[2, 3] < 5


def _shares(spec):
    """Sizes of the objects in widths of the image, by their distance along the camera's axis; [views, objects]."""
    K = spec.intrinsics(100)
    places = np.array([[*o.position, o.size / 2, 1] for o in spec.objects])
    depth = -np.stack([(np.linalg.inv(np.array(pose)) @ places.T)[2] for pose in spec.cameras])
    return K[0][0] / 100 * np.array([o.size for o in spec.objects]) / depth


def test_without_a_fill_a_single_object_is_whole_and_the_members_of_a_group_are_not_tiny():
    open_air = {"room": {"walls": 0}}
    single = [_shares(spec).max() for spec in _scenes(config_from_dict({"appearance": "single", **open_air}), 30)]
    assert np.min(single) > 0.5
    assert np.max(single) < 1.1  # the nearest part of a large object is a little closer than its middle
    group = np.concatenate([_shares(spec).ravel() for spec in _scenes(config_from_dict(open_air), 60)])
    assert np.mean(group < 8 / 64) < 0.05  # 8 px of 64: the smallest anchor of the small recipes
    before = config_from_dict({"camera": {"fill": [0.6, 0.95]}, **open_air})
    assert np.mean(np.concatenate([_shares(spec).ravel() for spec in _scenes(before, 60)]) < 8 / 64) > 0.1
    given = config_from_dict({"camera": {"fill": [0.9, 1.3]}, **open_air})
    assert np.median(np.concatenate([_shares(spec).ravel() for spec in _scenes(given, 60)])) == pytest.approx(
        np.median(group), rel=0.05
    )


def test_lying_digits_are_seen_from_above_and_read_upright():
    config = load_config(CONFIGS / "digits.yaml")
    kinds = {0: [], 1: []}
    for spec in _scenes(config, 40):
        kinds[spec.objects[0].shape["lying"]] += [np.array(p) for p in spec.cameras]
    assert all(pose[2, 2] > 0.7 for pose in kinds[1])
    assert all(pose[2, 2] < 0.7 for pose in kinds[0])
    # the digit's up is the world's z when it stands, y when it lies
    assert all(pose[2, 1] > 0.7 for pose in kinds[0])
    assert all(pose[1, 1] > 0.6 for pose in kinds[1])


def test_appearance(tiny):
    single, many = (
        _scenes(tiny(appearance="single"), 24),
        _scenes(tiny(objects={"count": [4, 6], "size": [0.1, 0.2]}), 24),
    )
    assert all(len(s.objects) == 1 for s in single)
    assert {len(s.objects) for s in many} == {4, 5, 6}
    # every prefix is balanced to within one image a category
    names = [s.objects[0].category for s in single]
    assert all(len(set(names[i : i + 12])) == 12 for i in (0, 12))
    assert names[:12] != names[12:]


def test_light(tiny):
    assert len({s.lights for s in _scenes(tiny(light="fix"))}) == 1
    assert len({s.lights for s in _scenes(tiny(light="random"))}) == 20
    assert all(len(s.lights) > 1 for s in _scenes(tiny(light="fix")) + _scenes(tiny()))


def test_background(tiny):
    fixed, drawn = _scenes(tiny(background="fix", light="fix")), _scenes(tiny(background="random"))
    assert len({(s.floor, s.walls, s.sky) for s in fixed}) == 1
    assert len({(s.floor, s.sky) for s in drawn}) == 20
    assert {s.floor.pattern for s in drawn} > {"plain"}


def test_texture_chooses_objects_and_strips_none(tiny):
    config = tiny(categories=["shapes"])
    with_, without = _scenes(config, 60), _scenes(dataclasses.replace(config, texture="without"), 60)
    assert {CATEGORIES[o.category].textured for s in with_ for o in s.objects} == {True, False}
    assert not any(CATEGORIES[o.category].textured for s in without for o in s.objects)
    patterned = {(CATEGORIES[o.category].textured, o.materials[0].pattern != "plain") for s in with_ for o in s.objects}
    assert patterned == {(True, True), (False, False)}


def test_configurations_round_trip_through_yaml_and_are_checked_when_loaded(tmp_path):
    for name in ("digits", "shapes"):
        config = load_config(CONFIGS / f"{name}.yaml")
        path = tmp_path / "copy.yaml"
        path.write_text(yaml.safe_dump(config_to_dict(config)))
        assert load_config(path) == config
    digits = _scenes(load_config(CONFIGS / "digits.yaml"), 10)
    assert {s.objects[0].category for s in digits} == {f"digit_{d}" for d in range(10)}


def test_dotted_overrides_with_jsonargparse():
    jsonargparse = pytest.importorskip("jsonargparse")
    parser = jsonargparse.ArgumentParser()
    parser.add_class_arguments(RenderConfig, "render")
    args = parser.parse_args(["--render.camera.views=3", "--render.image.size=32", "--render.categories=[mug]"])
    config = parser.instantiate_classes(args).render
    assert (config.camera.views, config.image.size, config.categories) == (3, 32, ["mug"])
    assert config.camera.fov == RenderConfig().camera.fov


BAD = [
    ({"apearance": "single"}, "unknown key 'apearance'; did you mean 'appearance'?"),
    ({"camera": {"veiws": 3}}, "unknown key 'camera.veiws'; did you mean 'views'?"),
    ({"appearance": "singel"}, "'appearance' cannot be 'singel'; did you mean 'single'?"),
    ({"texture": True}, "'texture' cannot be True"),
    ({"categories": ["digit"]}, "unknown category 'digit' in 'categories'; did you mean 'digits'?"),
    ({"categories": ["teapott"]}, "did you mean 'teapot'?"),
    ({"categories": []}, "no category to render"),
    ({"categories": "mug"}, "'categories' should be a list of texts, not 'mug'"),
    ({"categories": ["mug"], "texture": "without"}, "leaves none of mug"),
    ({"image": {"size": "big"}}, "'image.size' should be a whole number, not 'big'"),
    ({"image": {"size": 4}}, "'image.size' is 4, but must be from 8 to 4096"),
    ({"image": 64}, "'image' should hold keys and values, not 64"),
    ({"image": {"denoise": 1}}, "'image.denoise' should be true or false"),
    ({"camera": {"fov": 45}}, "'camera.fov' should be a pair [low, high], not 45"),
    ({"camera": {"fov": [50, 40]}}, "the low end comes first"),
    ({"camera": {"fov": [50, float("nan")]}}, "'camera.fov' is nan"),
    ({"camera": {"fill": 1.0}}, "'camera.fill' should be a pair [low, high], not 1.0"),
    ({"camera": {"fill": [1.0, 3.0]}}, "'camera.fill' is 3.0, but must be from 0.05 to 2"),
    ({"lights": {"energy": [1, "x"]}}, "'lights.energy[1]' should be a number, not 'x'"),
    ({"seed": -1}, "'seed' is -1"),
    ({"scenes_per_shard": 0}, "'scenes_per_shard' is 0"),
    ({"room": {"size": 2.0}}, "objects reach 1.175 m from the middle"),
]


@pytest.mark.parametrize(("values", "message"), BAD)
def test_bad_configurations_get_one_clear_message(values, message):
    with pytest.raises(UserError) as caught:
        config_from_dict(values)
    assert message in str(caught.value)


def test_bad_files(tmp_path):
    path = tmp_path / "bad.yaml"
    with pytest.raises(UserError, match="cannot read the render configuration"):
        load_config(path)
    for text, message in [
        ("a: [", "not valid YAML"),
        ("- 1", "should hold keys and values"),
        ("sed: 1", r"bad\.yaml: unknown key"),
    ]:
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            load_config(path)


def test_bad_scenes(tiny):
    with pytest.raises(UserError, match="unknown split 'test'"):
        sample_scene(tiny(), 0, "test", 0)
    crowded = tiny(room={"walls": 4}, camera={"min_distance": 5})
    with pytest.raises(UserError, match="no camera fits"):
        sample_scene(crowded, 0, "train", 0)
