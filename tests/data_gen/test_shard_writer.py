import ctypes
import errno
import io
import json
import os
import subprocess
import tarfile

import numpy as np
import pytest
from PIL import Image

from data_gen.labels import View
from data_gen.scene_sampler import ImageConfig
from data_gen.shard_writer import ShardRecord, encode_png, read_shard, view_members, write_shard
from lightning_tl._io.checksums import file_sha256
from lightning_tl._io.folders import open_folder
from lightning_tl.errors import UserError

RNG = np.random.default_rng(0)
MEMBERS = [("0000000-00.rgb.png", b"one" * 1000), ("0000000-00.json", b"{}"), ("0000000-01.rgb.png", b"")]


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
    path = tmp_path / "000000.tar"
    assert digest == ShardRecord(file_sha256(path), path.stat().st_size)
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


def test_a_full_disk_simulated(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        UserError, match=r"the disk is full while writing .*/000000\.tar \(about 1\.0 MiB; .* MiB are free under .*\)"
    ):
        write_shard(tmp_path / "000000.tar", MEMBERS)
    with pytest.raises(UserError, match="the disk is full"):
        open_folder(tmp_path).write("manifest.json", b"{}")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_for_real(tmp_path):
    """A file system of 64 KiB in memory, in a name space of our own; needs root."""
    libc = ctypes.CDLL(None, use_errno=True)
    place = tmp_path / "small"
    place.mkdir()
    if libc.mount(b"tmpfs", str(place).encode(), b"tmpfs", 0, b"size=64k") != 0:
        pytest.skip("cannot mount here")
    try:
        with pytest.raises(UserError, match="the disk is full"):
            write_shard(place / "000000.tar", [("a", bytes(300_000))])
        assert list(place.iterdir()) == []
    finally:
        subprocess.run(["umount", str(place)], check=True)
