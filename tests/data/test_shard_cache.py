"""Rendered data sets on a store: memory in this process, the file system to other processes, S3 where moto is there."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest
import s3 as s3_servers
import torch

from lightning_tl._io.cache import CACHE_VARIABLE, cache_folder
from lightning_tl.data import Rendered, RenderedImages
from lightning_tl.errors import UserError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv(CACHE_VARIABLE, str(folder))
    return folder / "shards"


@pytest.fixture
def s3(tmp_path, monkeypatch):
    with s3_servers.served() as address:
        yield s3_servers.bucket(address, monkeypatch, tmp_path)


@pytest.fixture(params=["memory", "s3"])
def url(request, renders, cache):
    """A copy of the data set ``renders`` on a store."""
    place = request.getfixturevalue("s3") if request.param == "s3" else f"memory://set{random.getrandbits(48):x}"
    system, root = fsspec.core.url_to_fs(place)
    for path in renders.rglob("*.*"):
        if path.is_file():
            system.pipe_file(f"{root}/{path.relative_to(renders)}", path.read_bytes())
    return place


def _change(url, name, content):
    system, root = fsspec.core.url_to_fs(url)
    if content is None:
        system.rm_file(f"{root}/{name}")
    else:
        system.pipe_file(f"{root}/{name}", content)


def test_images_are_those_of_the_folder_and_each_shard_is_fetched_once(url, renders, cache):
    here, there = RenderedImages(renders / "train", 21), RenderedImages(f"{url}/train", 21)
    assert there.manifest.shards == here.manifest.shards
    assert str(there.manifest.folder) == f"{url}/train"
    assert not cache.exists()  # not before an image is asked for
    for index in (20, 0, 15, 16):
        assert there.labels(index) == here.labels(index)
        assert np.array_equal(there.rgb(index), here.rgb(index))
    hashes = {f"{shard['sha256']}.tar" for shard in here.manifest.shards[:2]}
    assert {p.name for p in cache.glob("*.tar")} == hashes  # of n = 21 images
    assert all(hashlib.sha256((cache / name).read_bytes()).hexdigest() == name[:-4] for name in hashes)
    _change(url, "train/shards/000000.tar", None)
    again = RenderedImages(f"{url}/train", 21)
    again.open_shards()
    assert np.array_equal(again.rgb(3), here.rgb(3))
    assert np.array_equal(pickle.loads(pickle.dumps(again)).rgb(5), here.rgb(5))


def test_a_data_module_trains_on_a_url_as_on_the_folder(url, renders):
    batches = []
    for root in (renders, str(renders), url):
        data = Rendered(root, n=40, batch_size=8)
        data.setup("fit")
        batches.append((data.num_classes, next(iter(data.train_dataloader())), next(iter(data.val_dataloader()))))
    for classes, *others in batches[1:]:
        assert classes == batches[0][0]
        for remote, local in zip(others, batches[0][1:], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(remote, local, strict=True))


def test_a_data_set_that_has_grown_or_changed_is_not_taken_for_the_old_one(url, renders, cache):
    RenderedImages(f"{url}/train").open_shards()
    count = len(list(cache.glob("*.tar")))
    # the same place, with the shards of the other split: fetched by their hashes
    for name in ("manifest.json", "shards/000000.tar"):
        _change(url, f"train/{name}", (renders / "val" / name).read_bytes())
    images = RenderedImages(f"{url}/train")
    assert np.array_equal(images.rgb(0), RenderedImages(renders / "val").rgb(0))
    assert len(list(cache.glob("*.tar"))) == count + 1


def test_what_arrives_is_checked_and_leaves_nothing(url, renders, cache):
    content = bytearray((renders / "train/shards/000000.tar").read_bytes())
    content[2000] ^= 1
    _change(url, "train/shards/000000.tar", bytes(content))
    with pytest.raises(
        UserError, match=rf"{url}/train/shards/000000\.tar: corrupted: its sha256 is not the manifest's"
    ):
        RenderedImages(f"{url}/train").rgb(0)
    with pytest.raises(UserError, match="corrupted"):
        RenderedImages(f"{url}/train").open_shards()
    assert not list(cache.glob(".*.tmp"))
    _change(url, "train/shards/000000.tar", None)
    with pytest.raises(UserError, match=rf"{url}/train/shards/000000\.tar: no such file: run the same lightning-tl"):
        RenderedImages(f"{url}/train").rgb(0)


def test_damage_in_the_cache_is_found(url, cache):
    images = RenderedImages(f"{url}/train", 5)
    images.rgb(0)
    path = images.shard_path(0)
    assert path.parent == cache
    path.write_bytes(path.read_bytes()[:-512])
    with pytest.raises(UserError, match=rf"{path}: corrupted: .* delete it, and it is fetched again"):
        RenderedImages(f"{url}/train", 5).rgb(0)
    path.unlink()
    assert RenderedImages(f"{url}/train", 5).rgb(0).any()


def test_manifests_that_are_not_there_or_damaged(url):
    with pytest.raises(UserError, match=rf"{url}/no/manifest\.json: no such file, so {url}/no is no rendered split"):
        RenderedImages(f"{url}/no")
    _change(url, "train/manifest.json", b"{")
    with pytest.raises(UserError, match=rf"{url}/train/manifest\.json: damaged"):
        RenderedImages(f"{url}/train")


def test_a_hash_that_is_none(url, renders):
    manifest = json.loads((renders / "train/manifest.json").read_text())
    manifest["shards"][0]["sha256"] = "../../x"
    _change(url, "train/manifest.json", json.dumps(manifest).encode())
    with pytest.raises(UserError, match=r"a shard with sha256 '\.\./\.\./x', which is none: render the data set again"):
        RenderedImages(f"{url}/train").rgb(0)


def test_several_processes_at_once_fetch_once(renders, cache, tmp_path):
    """Four processes want all shards of a store that counts how often it is asked."""
    shutil.copytree(renders, tmp_path / "store")
    script = """
import os
import sys
from fsspec.implementations.local import LocalFileSystem
get = LocalFileSystem.get_file
def counted(self, remote, local, **options):
    os.write(1, remote.encode() + bytes([10]))  # whole, whatever other threads write
    return get(self, remote, local, **options)
LocalFileSystem.get_file = counted
from lightning_tl.data import RenderedImages
images = RenderedImages(sys.argv[1])
images.open_shards()
assert images.rgb(59).shape == (32, 32, 3)
"""
    command = [sys.executable, "-c", script, f"local://{tmp_path}/store/train"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ}) for _ in range(4)]
    fetched = "".join(process.communicate(timeout=120)[0] for process in processes).split()
    assert [process.returncode for process in processes] == [0] * 4
    assert sorted(fetched) == [f"{tmp_path}/store/train/shards/{i:06d}.tar" for i in range(4)]


def test_the_disk_is_full_or_the_cache_cannot_be_written(url, cache, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "x")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(UserError, match=rf"the disk is full.*{CACHE_VARIABLE} names another folder"):
            RenderedImages(f"{url}/train").rgb(0)
    (tmp_path / "file").touch()
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    with pytest.raises(UserError, match=rf"file/shards: cannot be written .*{CACHE_VARIABLE} names another folder"):
        RenderedImages(f"{url}/train").rgb(0)


@pytest.mark.parametrize("url", ["memory"], indirect=True)
def test_a_store_that_cannot_be_used(url, cache, monkeypatch):
    """All of its errors are told by ``_io.stores``; here, that they come through from the manifest and the shards."""
    with pytest.raises(UserError, match=r"nothere://x/manifest\.json: Protocol not known"):
        RenderedImages("nothere://x")
    images = RenderedImages(f"{url}/train")

    def refuse(*_, **__):
        raise PermissionError("no")

    system, _ = fsspec.core.url_to_fs(url)
    for method in ("cat_file", "get_file"):
        monkeypatch.setattr(type(system), method, refuse)
    with pytest.raises(UserError, match=r"/train/manifest\.json: access is refused \(no\): give credentials"):
        RenderedImages(f"{url}/train")
    with pytest.raises(UserError, match=r"/train/shards/000000\.tar: access is refused \(no\)"):
        images.rgb(0)


def test_the_folder_of_the_cache(monkeypatch, tmp_path):
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "lightning_tl"
