"""The catalogue: ids, weights, textures, hashes, what is skipped, and scenes drawn from it."""

import json
import os
from collections import Counter

import mesh_files
import numpy as np
import pytest
import trimesh

from data_gen.library import CATEGORIES
from data_gen.scene_sampler import config_from_dict, config_to_dict, sample_scene
from data_gen.sources import catalogue as module
from data_gen.sources import open_catalogue
from lightning_tl.errors import UserError


def _config(*sources, **more):
    return config_from_dict({"sources": list(sources), "room": {"walls": 0}, "camera": {"views": 1}, **more})


def _folder(path, **more):
    return {"kind": "folder", "path": str(path), **more}


@pytest.fixture
def meshes(tmp_path):
    return mesh_files.folder(tmp_path / "meshes")


def test_ids_are_of_the_built_in_name_or_from_1001_on_by_source_and_name(meshes, tmp_path):
    shapes = mesh_files.shapenet(tmp_path / "shapenet")
    config = _config(_folder(meshes), {"kind": "shapenet", "path": str(shapes)}, {"kind": "builtin"})
    catalogue = open_catalogue(config)
    own = {number: name for number, name in catalogue.categories.items() if number > 1000}
    assert own == {1001: "chapel", 1002: "cracker_box", 1003: "airplane"}
    assert catalogue.categories[CATEGORIES["mug"].id] == "mug"
    # both sources fill the built-in library's mug
    assert [len(s.models.get("mug", ())) for s in catalogue.objects] == [2, 1, 0]
    # what is chosen of them does not renumber them
    few = _config(_folder(meshes, categories=["chapel"]), {"kind": "shapenet", "path": str(shapes)}, texture="with")
    assert open_catalogue(few).categories == {CATEGORIES["mug"].id: "mug", 1001: "chapel", 1003: "airplane"}
    assert list(few.sources[0].categories) == ["chapel"]


def test_texture_without_samples_the_objects_that_have_none(meshes):
    without = open_catalogue(_config(_folder(meshes), texture="without"))
    assert list(without.categories.values()) == ["mug"]
    assert list(open_catalogue(_config(_folder(meshes, textured="no"), texture="without")).categories.values()) == [
        "mug",
        "chapel",
        "cracker_box",
    ]
    with pytest.raises(UserError, match=r"'texture: without' leaves none of the sources' objects"):
        open_catalogue(_config(_folder(meshes, textured="yes"), texture="without"))


def test_bop_is_textured_by_the_data_sets_name(tmp_path):
    sources = [
        {"kind": "bop", "path": str(mesh_files.bop(tmp_path / name, (1,)))} for name in ("ycbv", "tless", "itodd")
    ]
    names = {
        texture: set(open_catalogue(_config(*sources, texture=texture)).categories.values())
        for texture in ("with", "without")
    }
    assert names["with"] == {"ycbv_000001", "tless_000001", "itodd_000001"}
    assert names["without"] == {"tless_000001", "itodd_000001"}


def test_a_bop_object_keeps_its_size_in_millimetres(tmp_path):
    source = {"kind": "bop", "path": str(mesh_files.bop(tmp_path / "ycbv", (1,))), "scale": "metric"}
    config = _config(source, appearance="single", camera={"views": 2, "min_distance": 0.2})
    spec = sample_scene(config, 0, "train", 0)
    assert spec.objects[0].size == pytest.approx(0.101)
    info = json.loads((tmp_path / "ycbv" / "models" / "models_info.json").read_text())["1"]
    assert spec.objects[0].size == pytest.approx(info["size_z"] / 1000)
    for pose in np.array(spec.cameras):  # too small to fill the frame from as far as cameras must stay
        assert np.linalg.norm(pose[:3, 3] - [0, 0, 0.05]) > 0.2


def test_weights_share_out_the_objects(meshes, tmp_path):
    other = mesh_files.bare(tmp_path / "other" / "ball.stl").parent
    config = _config(
        _folder(meshes, weight=3.0),
        _folder(other),
        objects={"count": [4, 4], "size": [0.1, 0.2]},
        appearance="multiple",
    )
    catalogue = open_catalogue(config)
    drawn = Counter(o.mesh.source for i in range(300) for o in sample_scene(config, 0, "train", i, catalogue).objects)
    share = drawn[0] / sum(drawn.values())
    assert abs(share - 0.75) < 4 * np.sqrt(0.75 * 0.25 / sum(drawn.values()))


def test_single_objects_come_in_balanced_turns_by_weight(meshes, tmp_path):
    other = mesh_files.bare(tmp_path / "other" / "ball.stl").parent
    config = _config(_folder(meshes, weight=3.0), _folder(other), appearance="single")
    catalogue = open_catalogue(config)
    names = [sample_scene(config, 0, "train", i, catalogue).objects[0].category for i in range(120)]
    for n in (8, 40, 120):  # every prefix
        counts = Counter(names[:n])
        assert counts["ball"] == pytest.approx(n / 4, abs=1.5)
        assert (
            max(counts[k] for k in ("mug", "chapel", "cracker_box"))
            - min(counts[k] for k in ("mug", "chapel", "cracker_box"))
            <= 1
        )


def test_a_scene_is_a_function_of_contents_not_of_places(meshes, tmp_path):
    config = _config(_folder(meshes))
    first = [sample_scene(config, 0, "train", i) for i in range(5)]
    moved = meshes.rename(tmp_path / "elsewhere")
    again = _config(_folder(moved))
    assert [sample_scene(again, 0, "train", i) for i in range(5)] == first
    assert json.loads(json.dumps(first[0].to_dict()))["objects"][0]["mesh"]["sha256"]
    mesh_files.picture(moved / "cracker_box" / "box.png", 8)
    assert [sample_scene(again, 0, "train", i) for i in range(5)] != first


def test_a_record_saves_reading_and_sees_changes(meshes, tmp_path, monkeypatch):
    (meshes / "cracker_box" / "box.png").unlink()  # a file that is missing is remembered too
    config, record = _config(_folder(meshes)), tmp_path / "sources.json"
    first = open_catalogue(config, record)
    reads = []
    read = module.read_model
    monkeypatch.setattr(module, "read_model", lambda path, *a: reads.append(path.name) or read(path, *a))
    assert open_catalogue(config, record) == first
    assert reads == []
    mesh_files.picture(meshes / "cracker_box" / "box.png")
    os.utime(meshes / "mug" / "a.stl", (1, 1))
    changed = open_catalogue(config, record)
    assert sorted(reads) == ["a.stl", "textured.obj"]
    assert changed.fingerprint != first.fingerprint
    assert changed.notes == ()
    for damaged in ("{", "[]", '{"x": 1}', '{"x": {"stats": 3}}'):
        record.write_text(damaged)
        assert open_catalogue(config, record) == changed


def test_what_is_missing_is_noted_by_name(meshes):
    (meshes / "cracker_box" / "box.mtl").unlink()
    (note,) = open_catalogue(_config(_folder(meshes))).notes
    assert "1 of 4 meshes lack files and are rendered plain there" in note
    assert "cracker_box/textured.obj: box.mtl is missing" in note


def test_broken_meshes_are_all_named_or_left_out_and_counted(meshes):
    (meshes / "mug" / "a.stl").write_bytes(b"")
    (meshes / "chapel.glb").write_bytes(b"glTF")
    with pytest.raises(UserError) as caught:
        open_catalogue(_config(_folder(meshes)))
    message = str(caught.value)
    assert "2 meshes cannot be used" in message
    assert "a.stl: the file is empty" in message
    assert "chapel.glb: cannot be read as GLB" in message
    assert "'sources[0].broken: skip'" in message
    catalogue = open_catalogue(_config(_folder(meshes, broken="skip")))
    assert "2 of 4 meshes cannot be used and are left out" in catalogue.notes[0]
    assert list(catalogue.categories.values()) == ["mug", "cracker_box"]
    for path in meshes.rglob("*.*"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"'sources\[0\]': none of its 4 meshes can be used; the first: "):
        open_catalogue(_config(_folder(meshes, broken="skip")))


def test_large_meshes_are_reduced_skipped_or_refused(tmp_path):
    mesh_files.bare(tmp_path / "big" / "a.stl", trimesh.creation.icosphere(3))
    mesh_files.bare(tmp_path / "small" / "a.stl", trimesh.creation.icosphere(1))
    (note,) = open_catalogue(_config(_folder(tmp_path, max_faces=200))).notes
    assert "1 meshes are reduced to 200 triangles: big/a.stl (1280)" in note
    skipped = open_catalogue(_config(_folder(tmp_path, max_faces=200, oversized="skip")))
    assert list(skipped.categories.values()) == ["small"]
    assert "left out: " in skipped.notes[0]
    with pytest.raises(UserError, match=r"has 1280 triangles, 'sources\[0\]\.max_faces' is 200: raise it"):
        open_catalogue(_config(_folder(tmp_path, max_faces=200, oversized="error")))


def test_models_a_category(meshes):
    (source,) = open_catalogue(_config(_folder(meshes, models=1))).objects
    assert [m.file for m in source.models["mug"]] == ["mug/a.stl"]


@pytest.mark.parametrize(("size", "units"), [(60.0, "m"), (0.0004, "m"), (30, "inch")])
def test_metric_sizes_that_cannot_be(tmp_path, size, units):
    mesh_files.bare(tmp_path / "a.stl", trimesh.creation.box((size, size, size)))
    config = _config(_folder(tmp_path, scale="metric", units=units))
    if units == "inch":
        assert open_catalogue(config)
        return
    with pytest.raises(UserError, match=r"m large when read in 'm': set 'sources\[0\]\.units'"):
        open_catalogue(config)


def test_a_metric_object_too_large_for_the_room(tmp_path):
    mesh_files.bare(tmp_path / "a.stl", trimesh.creation.box((3, 3, 3)))
    with pytest.raises(UserError, match=r"a\.stl: is 4\.243 m large, too much for a room of 4 m"):
        open_catalogue(config_from_dict({"sources": [_folder(tmp_path, scale="metric")]}))


def test_distractors_are_apart(meshes):
    config = _config(
        {"kind": "builtin", "categories": ["cube"]},
        _folder(meshes, role="distractor"),
        objects={"count": [2, 2], "size": [0.1, 0.2], "distractors": [3, 3]},
    )
    catalogue = open_catalogue(config)
    assert list(catalogue.categories.values()) == ["cube"]
    for i in range(10):
        spec = sample_scene(config, 0, "train", i, catalogue)
        assert [o.category_id > 0 for o in spec.objects] == [True] * 2 + [False] * 3
        assert [o.instance for o in spec.objects] == [1, 2, 3, 4, 5]
        for a in spec.objects:
            for b in spec.objects[: a.instance - 1]:
                assert np.hypot(*np.subtract(a.position, b.position)) >= (a.size + b.size) / 2
    # without a source of theirs they are built-in shapes; a lone object stays in the middle
    alone = _config(_folder(meshes), objects={"distractors": [1, 4], "size": [0.1, 0.2]}, appearance="single")
    specs = [sample_scene(alone, 0, "train", i) for i in range(10)]
    assert all(s.objects[0].position == (0.0, 0.0) for s in specs)
    assert {len(s.objects) for s in specs} == {2, 3, 4, 5}
    assert all(o.mesh is None for s in specs for o in s.objects[1:])


BAD = [
    ({"kind": "fold"}, "'sources[0].kind' cannot be 'fold'; did you mean 'folder'?"),
    ({"kind": "folder"}, "'sources[0].path' is missing: the folder of the folder source"),
    ({"kind": "folder", "path": "x", "weight": 0}, "'sources[0].weight' is 0.0, but must be above 0"),
    ({"kind": "folder", "path": "x", "weight": float("nan")}, "'sources[0].weight' is nan"),
    ({"kind": "folder", "path": "x", "units": "ft"}, "'sources[0].units' cannot be 'ft'"),
    ({"kind": "folder", "path": "x", "up": "w"}, "'sources[0].up' cannot be 'w'"),
    ({"kind": "folder", "path": "x", "max_faces": 3}, "'sources[0].max_faces' is 3"),
    ({"kind": "folder", "path": "x", "models": -1}, "'sources[0].models' is -1"),
    ({"kind": "folder", "path": "x", "pth": "y"}, "unknown key 'sources[0].pth'; did you mean 'path'?"),
    ({"kind": "bop", "path": "x", "csv": "y"}, "'sources[0].csv' goes with kind: folder, not bop"),
    ({"kind": "builtin", "path": "x"}, "'sources[0].path' is 'x', but the built-in library has no folder"),
    ({"kind": "builtin", "categories": ["mugg"]}, "unknown category 'mugg' in 'sources[0].categories'"),
    ({"kind": "folder", "path": "x", "role": "distractor"}, "'sources' holds only distractors"),
    ("meshes", "'sources[0]' should hold keys and values, not 'meshes'"),
]


@pytest.mark.parametrize(("source", "message"), BAD)
def test_bad_sources_get_one_clear_message(source, message):
    with pytest.raises(UserError) as caught:
        config_from_dict({"sources": [source]})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sources": {"kind": "builtin"}}, "'sources' should be a list of"),
        ({"sources": [{"kind": "builtin"}], "categories": ["mug"]}, "put it into a source of kind: builtin"),
        ({"lights": {"hdris": "x"}}, "'lights.hdris' cannot light a closed room: set 'room.walls' to 0"),
        (
            {"lights": {"hdris": "x"}, "room": {"walls": 0}, "light": "fix"},
            "'lights.hdris' is drawn from where 'light'",
        ),
        (
            {"room": {"materials": "x"}, "background": "fix"},
            "'room.materials' is drawn from where 'background' is random, but it is 'fix': name one material as",
        ),
        ({"room": {"fixed_material": "Tiles074"}}, "'room.fixed_material' names one of 'room.materials'"),
        ({"image": {"height": 3}}, "'image.height' is 3, but must be 0 (as the width) or at least 8"),
        ({"image": {"device": "gpu"}}, "'image.device' cannot be 'gpu'"),
        ({"camera": {"shift": 0.9}}, "'camera.shift' is 0.9, but must be from 0 to 0.5"),
        ({"objects": {"distractors": [3, 1]}}, "the low end comes first"),
    ],
)
def test_bad_values_of_what_goes_with_them(values, message):
    with pytest.raises(UserError) as caught:
        config_from_dict(values)
    assert message in str(caught.value)


def test_configurations_with_sources_round_trip(meshes):
    config = _config(_folder(meshes, units="cm"), {"kind": "builtin", "weight": 2})
    assert config_from_dict(json.loads(json.dumps(config_to_dict(config)))) == config
