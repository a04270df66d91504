import ctypes
import errno
import io
import json
import os
import subprocess
import tarfile

import mesh_files
import numpy as np
import pytest
from PIL import Image

from data_gen import shards
from data_gen.errors import DataGenError
from data_gen.labels import View
from data_gen.shards import Split, encode_png, file_sha256, read_shard, view_members, write_shard
from data_gen.spec import ImageConfig, config_from_dict

RNG = np.random.default_rng(0)
MEMBERS = [("0000000-00.rgb.png", b"one" * 1000), ("0000000-00.json", b"{}"), ("0000000-01.rgb.png", b"")]


def _fill(split, indices):
    for i in indices:
        split.finish(i, write_shard(split.shard_path(i), [(f"{i:07d}-00.json", bytes([i]) * 100)]))


@pytest.mark.parametrize(
    "pixels", [RNG.integers(0, 256, (5, 7, 3), np.uint8), RNG.integers(0, 65536, (6, 4), np.uint16)]
)
def test_png_is_read_back_by_pillow(pixels):
    data = encode_png(pixels)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)
    assert data == encode_png(pixels.copy(order="F"))


@pytest.mark.parametrize("image", [ImageConfig(), ImageConfig(format="jpg", depth=True)])
def test_members_of_a_view(image):
    mask = RNG.integers(0, 3, (8, 8)).astype(np.uint16)
    smooth = np.full((8, 8, 3), 90, np.uint8)
    view = View(smooth, mask, mask + 1, smooth + 1, mask * 500 if image.depth else None, {"scene": 12, "view": 3})
    members = dict(view_members(view, image))
    names = [
        f"rgb.{image.format}",
        "category.png",
        "instance.png",
        "normal.png",
        *(["depth.png"] if image.depth else []),
        "json",
    ]
    assert list(members) == [f"0000012-03.{n}" for n in names]
    decoded = {n.split(".")[1]: np.asarray(Image.open(io.BytesIO(d))) for n, d in members.items() if "json" not in n}
    assert np.array_equal(decoded["category"], mask)
    assert np.array_equal(decoded["instance"], mask + 1)
    assert np.array_equal(decoded["normal"], smooth + 1)
    assert np.abs(decoded["rgb"].astype(int) - 90).max() <= 1
    assert json.loads(members["0000012-03.json"]) == {"scene": 12, "view": 3}


def test_shards_round_trip_without_time_or_owner(tmp_path):
    digest = write_shard(tmp_path / "000000.tar", MEMBERS)
    assert list(read_shard(tmp_path / "000000.tar")) == MEMBERS
    assert digest == file_sha256(tmp_path / "000000.tar")
    with tarfile.open(tmp_path / "000000.tar") as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in tar} == {(0, 0, 0, "", "", 0o644)}
    assert write_shard(tmp_path / "000001.tar", MEMBERS) == digest


def test_a_failed_shard_leaves_nothing(tmp_path):
    def members():
        yield from MEMBERS
        raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        write_shard(tmp_path / "000000.tar", members())
    assert list(tmp_path.iterdir()) == []


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
    split = Split(tmp_path / "train", tiny(), 6)
    left = [split.shards / ".000000.tar.77.tmp", split.folder / ".manifest.json.77.tmp"]
    for path in left:
        path.write_bytes(b"half")
    Split(tmp_path / "train", tiny(), 6)
    assert not any(path.exists() for path in left)


@pytest.mark.parametrize("listed", [True, False])
def test_tampering_is_told_with_the_file_and_the_cure(tiny, tmp_path, listed):
    split = Split(tmp_path / "train", tiny(), 18)
    _fill(split, [0, 1, 2] if listed else [0, 2])
    path = split.shard_path(2)
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataGenError) as caught:
        Split(tmp_path / "train", tiny(), 18)
    assert f"{path} is corrupted" in str(caught.value)
    assert f"'rm {path}'" in str(caught.value)
    path.unlink()
    assert 2 in Split(tmp_path / "train", tiny(), 18).missing


def test_a_shard_of_unknown_origin_is_not_taken(tiny, tmp_path):
    split = Split(tmp_path / "train", tiny(), 6)
    split.shard_path(0).write_bytes(b"x" * 1024)
    with pytest.raises(DataGenError, match=r"000000\.tar is corrupted"):
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
    with pytest.raises(DataGenError) as caught:
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
    split = Split(tmp_path / "train", tiny(), 6)
    (split.folder / "manifest.json").write_text(content)
    with pytest.raises(DataGenError, match=message):
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
    with pytest.raises(DataGenError, match="rendered with device CPU, installed is OPTIX"):
        grown.set_software({"blender": "4.2.23", "blenderproc": "2.8.0", "device": "OPTIX"})


def test_changed_files_of_a_source_are_told(tmp_path):
    mesh = mesh_files.bare(tmp_path / "meshes" / "a.stl")
    config = config_from_dict({"sources": [{"kind": "folder", "path": str(mesh.parent)}]})
    _fill(Split(tmp_path / "train", config, 6), [0])
    moved = mesh.parent.rename(tmp_path / "elsewhere")
    config = config_from_dict({"sources": [{"kind": "folder", "path": str(moved)}]})
    assert Split(tmp_path / "train", config, 6).missing == []  # where they lie does not matter
    mesh_files.bare(moved / "b.stl")
    with pytest.raises(DataGenError, match="another configuration: the files of its sources have changed since"):
        Split(tmp_path / "train", config, 6)


def test_another_blender_is_refused(tiny, tmp_path):
    split = Split(tmp_path / "train", tiny(), 6)
    split.set_software({"blender": "4.2.23", "blenderproc": "2.8.0"})
    _fill(split, [0])
    grown = Split(tmp_path / "train", tiny(), 12)
    grown.set_software({"blender": "4.2.23", "blenderproc": "2.8.0"})
    with pytest.raises(DataGenError, match=r"was rendered with blender 4\.2\.23, installed is 4\.5\.1"):
        grown.set_software({"blender": "4.5.1", "blenderproc": "2.8.0"})


def test_a_full_disk_simulated(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shards.os, "fsync", full)
    with pytest.raises(DataGenError, match=r"the disk is full: writing .*000000\.tar needs about .* MiB, .* are free"):
        write_shard(tmp_path / "000000.tar", MEMBERS)
    with pytest.raises(DataGenError, match="the disk is full"):
        shards.write_atomically(tmp_path / "manifest.json", b"{}")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_for_real(tmp_path):
    """A file system of 64 KiB in memory, in a name space of our own; needs root."""
    libc = ctypes.CDLL(None, use_errno=True)
    place = tmp_path / "small"
    place.mkdir()
    if libc.mount(b"tmpfs", str(place).encode(), b"tmpfs", 0, b"size=64k") != 0:
        pytest.skip("cannot mount here")
    try:
        with pytest.raises(DataGenError, match="the disk is full"):
            write_shard(place / "000000.tar", [("a", bytes(300_000))])
        assert list(place.iterdir()) == []
    finally:
        subprocess.run(["umount", str(place)], check=True)
