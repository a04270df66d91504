"""One split that is being made."""

import json
from pathlib import Path

import mesh_files
import pytest

from data_gen.manifest import Split
from data_gen.scene_sampler import config_from_dict
from data_gen.shard_writer import write_shard
from lightning_tl.errors import UserError


def _fill(split, indices):
    for i in indices:
        split.finish(i, write_shard(Path(split.shard_path(i)), [(f"{i:07d}-00.json", bytes([i]) * 100)]))


def test_the_manifest_lists_shards_without_a_gap_and_loses_none(tiny, tmp_path):
    split = Split(tmp_path / "train", tiny(), 30)
    assert (split.per_shard, split.missing) == (6, [0, 1, 2, 3, 4])
    _fill(split, [0, 2, 1, 4])
    manifest = json.loads((tmp_path / "train" / "manifest.json").read_text())
    assert [s["name"] for s in manifest["shards"]] == ["000000.tar", "000001.tar", "000002.tar"]
    assert [s["scenes"] for s in manifest["shards"]] == [[0, 3], [3, 6], [6, 9]]
    assert (manifest["images"], manifest["requested"], manifest["image_size"]) == (18, 30, [24, 24])
    assert manifest["categories"]["1"] == "digit_0"
    assert len(manifest["categories"]) == 12
    again = Split(tmp_path / "train", tiny(), 30)
    assert again.missing == [3]
    _fill(again, [3])
    assert len(json.loads((tmp_path / "train" / "manifest.json").read_text())["shards"]) == 5
    assert sorted(p.name for p in (tmp_path / "train" / "shards").iterdir()) == [f"{i:06d}.tar" for i in range(5)]
    assert Split(tmp_path / "train", tiny(), 12).missing == []


def test_left_overs_of_a_dead_process_are_cleared(tiny, tmp_path):
    Split(tmp_path / "train", tiny(), 6)
    names = ("shards/.000000.tar.0a1b2c3d.tmp", ".manifest.json.0a1b2c3d.tmp")
    left = [tmp_path / "train" / name for name in names]
    for path in left:
        path.write_bytes(b"half")
    Split(tmp_path / "train", tiny(), 6)
    assert not any(path.exists() for path in left)


@pytest.mark.parametrize("listed", [True, False])
def test_tampering_is_reported_with_the_file_and_the_cure(tiny, tmp_path, listed):
    split = Split(tmp_path / "train", tiny(), 18)
    _fill(split, [0, 1, 2] if listed else [0, 2])
    path = Path(split.shard_path(2))
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        Split(tmp_path / "train", tiny(), 18)
    assert f"{path} is corrupted" in str(caught.value)
    assert f"'rm {path}'" in str(caught.value)
    path.unlink()
    assert 2 in Split(tmp_path / "train", tiny(), 18).missing


def test_a_shard_of_unknown_origin_is_not_taken(tiny, tmp_path):
    split = Split(tmp_path / "train", tiny(), 6)
    Path(split.shard_path(0)).write_bytes(b"x" * 1024)
    with pytest.raises(UserError, match=r"000000\.tar is corrupted"):
        Split(tmp_path / "train", tiny(), 6)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"seed": 5}, "'seed' is 0 there and 5 here"),
        ({"image": {"size": 32, "samples": 1, "bounces": 0}}, "'image.size' is 24 there and 32 here"),
        ({"categories": ["mug"]}, "'categories' is"),
    ],
)
def test_another_configuration_in_the_folder(tiny, tmp_path, change, key):
    _fill(Split(tmp_path / "train", tiny(), 6), [0])
    with pytest.raises(UserError) as caught:
        Split(tmp_path / "train", tiny(**change), 6)
    assert "another configuration" in str(caught.value)
    assert key in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"format_version": 1}', "damaged"),
        ('{"format_version": 9, "config": {}}', "version 9"),
    ],
)
def test_damaged_manifests(tiny, tmp_path, content, message):
    Split(tmp_path / "train", tiny(), 6)
    (tmp_path / "train" / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=message):
        Split(tmp_path / "train", tiny(), 6)


def test_a_data_set_of_an_earlier_version_can_be_grown(tiny, tmp_path):
    split = Split(tmp_path / "train", tiny(), 6)
    split.set_software({"blender": "4.2.23", "blenderproc": "2.8.0", "device": "CPU"})
    _fill(split, [0])
    path = tmp_path / "train" / "manifest.json"
    manifest = json.loads(path.read_text())
    # what it did not know of yet
    del manifest["contents"], manifest["software"]["device"], manifest["config"]["sources"]
    del manifest["config"]["image"]["device"], manifest["config"]["objects"]["distractors"]
    path.write_text(json.dumps(manifest))
    grown = Split(tmp_path / "train", tiny(), 12)
    grown.set_software({"blender": "4.2.23", "blenderproc": "2.8.0", "device": "CPU"})
    assert grown.missing == [1]
    with pytest.raises(UserError, match="rendered with device CPU, installed is OPTIX"):
        grown.set_software({"blender": "4.2.23", "blenderproc": "2.8.0", "device": "OPTIX"})


def test_changed_files_of_a_source_are_reported(tmp_path):
    mesh = mesh_files.bare(tmp_path / "meshes" / "a.stl")
    config = config_from_dict({"sources": [{"kind": "folder", "path": str(mesh.parent)}]})
    _fill(Split(tmp_path / "train", config, 6), [0])
    moved = mesh.parent.rename(tmp_path / "elsewhere")
    config = config_from_dict({"sources": [{"kind": "folder", "path": str(moved)}]})
    assert Split(tmp_path / "train", config, 6).missing == []  # where they lie does not matter
    mesh_files.bare(moved / "b.stl")
    with pytest.raises(UserError, match="another configuration: the files of its sources have changed since"):
        Split(tmp_path / "train", config, 6)


def test_another_blender_is_refused(tiny, tmp_path):
    split = Split(tmp_path / "train", tiny(), 6)
    split.set_software({"blender": "4.2.23", "blenderproc": "2.8.0"})
    _fill(split, [0])
    grown = Split(tmp_path / "train", tiny(), 12)
    grown.set_software({"blender": "4.2.23", "blenderproc": "2.8.0"})
    with pytest.raises(UserError, match=r"was rendered with blender 4\.2\.23, installed is 4\.5\.1"):
        grown.set_software({"blender": "4.5.1", "blenderproc": "2.8.0"})
    with pytest.raises(UserError, match=r"was rendered with renderer 1, installed is 2: their images differ"):
        grown.set_software({"renderer": "2", "blender": "4.2.23", "blenderproc": "2.8.0"})
