"""Data sets on stores that fsspec reaches: the file system as one, and S3 (moto's server) where that is installed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
from scene_gate import SceneGate

from data_gen import farm, local_pool
from data_gen.farm import LOCK, render
from data_gen.manifest import Split
from data_gen.shard_writer import put_shard, write_shard
from lightning_tl._io.stores import put
from lightning_tl.errors import UserError

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    monkeypatch.setattr(local_pool, "worker_arguments", lambda: [str(HERE / "fake_worker.py")])
    monkeypatch.setattr(farm, "check_environment", lambda: None)


def _stored(url, suffix=""):
    system, root = fsspec.core.url_to_fs(url)
    system.invalidate_cache()
    names = [name for name in system.find(root) if name.endswith(suffix)]
    return {name[len(root) + 1 :]: system.cat_file(name) for name in names}


def _files(out):
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file() and p.name != LOCK}


def test_a_store_gets_the_bytes_of_a_folder(store, tiny, tmp_path):
    calls = []
    summary = render(tiny(), f"{store}/", 40, 10, 2, lambda *c: calls.append(c))
    assert (summary.images, summary.rendered) == ({"train": 42, "val": 12}, 54)
    assert calls[-1] == (54, 54)
    render(tiny(), tmp_path / "folder", 40, 10, 2)
    assert _stored(store) == _files(tmp_path / "folder")
    assert render(tiny(), store, 40, 10).rendered == 0
    assert render(tiny(), store, 48, 10).rendered == 6
    render(tiny(), tmp_path / "folder", 48, 10)
    assert _stored(store) == _files(tmp_path / "folder")
    with pytest.raises(UserError, match=rf"{store} holds a data set of another configuration: 'seed' is 0 there"):
        render(tiny(seed=3), store, 40)


def test_a_shard_that_is_gone_is_rendered_again_and_one_of_another_size_is_reported(store, tiny, tmp_path):
    render(tiny(), store, 18)
    whole = _stored(store)
    system, root = fsspec.core.url_to_fs(store)
    system.rm_file(f"{root}/train/shards/000001.tar")
    assert render(tiny(), store, 18).rendered == 6
    assert _stored(store) == whole
    put(f"{store}/train/shards/000001.tar", b"short")
    with pytest.raises(UserError, match=r"000001\.tar is corrupted \(its size is not .* delete it and run the same"):
        render(tiny(), store, 18)


def test_half_a_put_does_not_count_and_a_shard_of_unknown_origin_is_reported(store, tiny, tmp_path):
    split = Split(f"{store}/train", tiny(), 18)
    file = tmp_path / "000001.tar"
    members = [("0000003-00.json", b"{}")]
    shard = write_shard(file, members)
    put_shard(file, split.shard_path(1))
    assert not list(tmp_path.glob("000001*"))
    split.finish(1, shard)  # not listed before shard 0 is there
    assert Split(f"{store}/train", tiny(), 18).missing == [0, 2]
    put(split.shard_path(1), b"half")
    assert Split(f"{store}/train", tiny(), 18).missing == [0, 1, 2]
    system, root = fsspec.core.url_to_fs(store)
    system.rm_file(f"{root}/train/shards/000001.tar.sha256")
    with pytest.raises(UserError, match=r"000001\.tar is corrupted \(its SHA-256 is not the recorded one\)"):
        Split(f"{store}/train", tiny(), 18)


@pytest.mark.parametrize("store", ["local", pytest.param("s3", marks=pytest.mark.slow)], indirect=True)
def test_drivers_are_killed_and_nothing_is_lost_or_changed(store, tiny, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(farm.config_to_dict(tiny())))
    command = [sys.executable, str(HERE / "render_here.py"), str(tmp_path / "config.json"), store, "60", "12"]

    def start(**environment):
        return subprocess.Popen(
            [*command, "2", "fake"], env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    before = {}
    for number in range(2):
        gate = SceneGate(tmp_path / f"gate{number}")
        process = start(**gate.environment)
        gate.open(8)  # of 36 scenes; one of the two workers comes to its fourth, so a shard is on the store
        gate.wait(9)
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
        gate.close()
        now = _stored(store, ".tar")
        assert before.items() < now.items()
        before = now
    assert len(before) < 12
    assert start().communicate(timeout=60)[1] == b""
    render(tiny(), tmp_path / "calm", 60, 12)
    assert _stored(store) == _files(tmp_path / "calm")


def test_scenes_left_out_are_kept_on_the_store(store, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_RAISE", "train2")
    assert render(tiny(), store, 12, on_error="skip").skipped == {"train": [2]}
    assert render(tiny(), store, 12, on_error="skip").rendered == 0
    assert set(json.loads(_stored(store)["train/skipped.json"])) == {"2"}
    monkeypatch.setenv("FAKE_RAISE", "train5")
    with pytest.raises(UserError, match=rf"reproduce {store}2 --split train --scene 5"):
        render(tiny(), f"{store}2", 12)


def test_what_is_no_store(tiny):
    with pytest.raises(UserError, match=r"nothere://x/train: Protocol not known: nothere; fsspec knows s3, gs, az and"):
        render(tiny(), "nothere://x", 6)


def test_a_store_that_fails_is_tried_twice_and_reported(tiny, tmp_path, monkeypatch):
    """The manifest can be written, shards cannot: their folder is a file."""
    store = tmp_path / "store"
    (store / "train").mkdir(parents=True)
    (store / "train/shards").touch()
    said = []
    with pytest.raises(
        UserError, match=r"000000\.tar\.sha256: the store failed \(\w+: .*shards.*run the same command again"
    ):
        render(tiny(), f"local://{store}", 6, workers=1, say=said.append)
    assert len(said) == 1
    assert said[0].endswith("another renders scenes 0 to 2 of train")


def test_buckets_and_credentials_that_are_not_there(s3, tiny, tmp_path, monkeypatch):
    bucket = s3.removesuffix("/set")
    with pytest.raises(UserError, match=rf"{bucket}-no/set/train/manifest\.json: no such bucket or folder"):
        render(tiny(), f"{bucket}-no/set", 6)
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(key)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(UserError, match=r"access is refused \(.*redentials.*\): give credentials that may list"):
        render(tiny(), s3, 6)
    fsspec.filesystem("s3").clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with pytest.raises(UserError, match=r"the store failed \(.*127\.0\.0\.1:1"):
        render(tiny(), s3, 6)
    fsspec.filesystem("s3").clear_instance_cache()
