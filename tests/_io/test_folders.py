"""A folder of this machine and one on a store behave alike."""

import os
from pathlib import Path

import pytest

from lightning_tl._io.folders import open_folder, read_file
from lightning_tl._io.urls import to_place
from lightning_tl.errors import UserError


@pytest.fixture(params=["folder", "local", "s3"])
def place(request, tmp_path):
    if request.param == "folder":
        return str(tmp_path / "folder")
    return request.getfixturevalue("s3") if request.param == "s3" else f"local://{tmp_path}/store"


def test_files_by_name(place):
    folder = open_folder(place)
    folder.make("shards")
    assert folder.files("shards") == {}
    assert folder.read("a.json") is None
    folder.write("a.json", b"{}")
    folder.write("shards/0.tar", b"123")
    folder.write("shards/0.tar", b"12345")
    assert folder.read("a.json") == b"{}"
    assert folder.files("shards") == {"0.tar": 5}
    assert folder.files()["a.json"] == 2
    assert folder.at("shards/0.tar") == f"{place}/shards/0.tar"
    assert folder.at() == place
    assert read_file(to_place(place) / "a.json") == b"{}"
    assert read_file(to_place(place) / "b.json") is None
    folder.delete("a.json")
    folder.delete("a.json")
    assert folder.read("a.json") is None
    assert open_folder(f"{place}/").files("shards") == {"0.tar": 5}


def test_what_a_killed_process_left_is_cleared(tmp_path):
    (tmp_path / "shards").mkdir()
    for name in (".a.json.0a1b2c3d.tmp", "shards/.0.tar.0a1b2c3d.tmp", "shards/1.tar"):
        (tmp_path / name).touch()
    open_folder(tmp_path).clear()
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()] == ["shards/1.tar"]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=rf"cannot make the output folder {tmp_path}/file: Not a directory"):
        open_folder(tmp_path / "file" / "train").make()


def test_a_full_disk(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=rf"the disk is full while writing {tmp_path}/a \(about 2\.0 MiB; .* MiB"):
        open_folder(tmp_path).write("a", bytes(2 << 20))
    assert os.listdir(tmp_path) == []


def test_a_path_may_be_given_as_a_file_url(tmp_path):
    assert open_folder(f"file://{tmp_path}").at() == str(tmp_path)
    assert open_folder(Path("s3://x")).at() == "s3:/x"
