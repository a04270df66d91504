"""The farm with a renderer that takes milliseconds (see fake_worker.py); blender/test_renderer.py has Blender's own."""

import fcntl
import json
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from scene_gate import SceneGate, wait_for_end

from data_gen import dispatch, farm, local_pool
from data_gen.farm import LOCK, render
from data_gen.shard_writer import read_shard
from lightning_tl.errors import UserError

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    monkeypatch.setattr(local_pool, "worker_arguments", lambda: [str(HERE / "fake_worker.py")])
    monkeypatch.setattr(farm, "check_environment", lambda: None)


def _files(out):
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file() and p.name != LOCK}


def _members(out):
    return [m for shard in sorted((out / "train" / "shards").glob("*.tar")) for m in read_shard(shard)]


def _children(pid):
    listing = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    return [int(word) for word in listing.split()]


@pytest.fixture
def gate(tmp_path):
    """Make gates for scenes, each in a folder of its own."""
    gates = []

    def make():
        gates.append(SceneGate(tmp_path / f"gate{len(gates)}"))
        return gates[-1]

    yield make
    for each in gates:
        each.close()


@pytest.fixture
def start(tiny, tmp_path):
    """Start render_here.py in a process of its own, with a fresh group; ended with the test."""
    started = []
    (tmp_path / "config.json").write_text(json.dumps(farm.config_to_dict(tiny())))

    def begin(out, images, val=0, workers=2, **environment):
        command = [sys.executable, str(HERE / "render_here.py"), str(tmp_path / "config.json"), str(out)]
        process = subprocess.Popen(
            [*command, str(images), str(val), str(workers), "fake"],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # where the tests run in a shell's background, Ctrl-C is ignored, and children inherit that
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_any_number_of_workers_gives_the_same_bytes(tiny, tmp_path):
    for workers in (1, 3):
        summary = render(tiny(), tmp_path / str(workers), 40, 10, workers)
        assert (summary.images, summary.rendered) == ({"train": 42, "val": 12}, 54)
    assert _files(tmp_path / "1") == _files(tmp_path / "3")
    # the validation split is drawn apart
    seeds = [
        [m for n, m in read_shard(tmp_path / "1" / s / "shards" / "000000.tar") if "rgb" in n] for s in ("train", "val")
    ]
    assert not set(seeds[0]) & set(seeds[1])


def test_a_worker_that_dies_between_two_shards_is_replaced(tiny, tmp_path, monkeypatch):
    class Dying(local_pool.LocalPool):
        deaths = 0

        def wait(self, seconds):
            for line, messages in super().wait(seconds):
                if self.deaths < 2 and any("sha256" in message for message in messages):
                    Dying.deaths += 1
                    messages = [*messages, {"ended": "killed by the test"}]
                yield line, messages

    monkeypatch.setattr(farm, "LocalPool", Dying)
    summary = render(tiny(), tmp_path / "killed", 40, 10, 1)
    assert (summary.rendered, Dying.deaths) == (54, 2)
    monkeypatch.undo()
    monkeypatch.setattr(local_pool, "worker_arguments", lambda: [str(HERE / "fake_worker.py")])
    monkeypatch.setattr(farm, "check_environment", lambda: None)
    render(tiny(), tmp_path / "whole", 40, 10, 1)
    assert _files(tmp_path / "killed") == _files(tmp_path / "whole")


def test_the_same_number_again_verifies_and_a_larger_adds(tiny, tmp_path):
    out = tmp_path / "out"
    render(tiny(), out, 20, 6)
    before = _files(out)
    assert render(tiny(), out, 20, 6).rendered == 0
    assert _files(out) == before
    small = _members(out)
    assert render(tiny(), out, 40, 6).rendered == 42 - 24
    assert _members(out)[: len(small)] == small
    assert all(_files(out)[name] == data for name, data in before.items() if name.endswith(".tar"))
    render(tiny(), tmp_path / "at_once", 40, 6, 2)
    assert _files(out) == _files(tmp_path / "at_once")


def test_progress_counts_what_is_there(tiny, tmp_path):
    calls = []
    render(tiny(), tmp_path, 12, 6, 1, lambda *c: calls.append(c))
    assert calls[0] == (0, 18)
    assert calls[-1] == (18, 18)
    assert [c[0] for c in calls] == sorted(c[0] for c in calls)
    assert {c[0] for c in calls} >= {2, 4, 6}  # scene by scene
    more = []
    render(tiny(), tmp_path, 24, 6, 1, lambda *c: more.append(c))
    assert (more[0], more[-1]) == ((18, 30), (30, 30))


def test_workers_are_recycled(tiny, tmp_path, monkeypatch):
    starts = []
    begin = local_pool.LocalPool.start
    monkeypatch.setattr(local_pool.LocalPool, "start", lambda self: starts.append(1) or begin(self))
    render(tiny(), tmp_path / "a", 36, 0, 1, recycle_scenes=6)
    assert len(starts) == 3
    render(tiny(), tmp_path / "b", 36, 0, 1)
    assert _files(tmp_path / "a") == _files(tmp_path / "b")


def test_a_dead_workers_shard_is_tried_again(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_KILL", "train7")
    monkeypatch.setenv("FAKE_ONCE", str(tmp_path / "once"))
    calls = []
    render(tiny(), tmp_path / "out", 36, 0, 2, lambda *c: calls.append(c))
    assert calls[-1] == (36, 36)
    monkeypatch.delenv("FAKE_KILL")
    render(tiny(), tmp_path / "calm", 36, 0, 1)
    assert _files(tmp_path / "out") == _files(tmp_path / "calm")


def test_a_scene_that_kills_twice_is_named_with_its_command_and_all_other_shards_are_rendered(
    tiny, tmp_path, monkeypatch
):
    monkeypatch.setenv("FAKE_KILL", "train10")
    with pytest.raises(UserError) as caught:
        render(tiny(), tmp_path, 36, 6, 2)
    message = str(caught.value)
    assert "scene 10 of train (seed 0) cannot be rendered" in message
    assert "1 shards are missing" in message
    assert f"-m data_gen.reproduce {tmp_path} --split train --scene 10" in message
    assert "last words" in message
    assert "code -9" in message
    shards = sorted(p.name for p in (tmp_path / "train" / "shards").glob("*.tar"))
    assert shards == [f"{i:06d}.tar" for i in range(6) if i != 3]
    assert (tmp_path / "val" / "shards" / "000000.tar").exists()
    monkeypatch.delenv("FAKE_KILL")
    assert render(tiny(), tmp_path, 36, 6, 2).rendered == 6  # the same command again, once it is mended


def test_scenes_that_fail_are_left_out_where_the_user_says_so(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_KILL", "train10")
    monkeypatch.setenv("FAKE_RAISE", "train2")
    out = tmp_path / "out"
    summary = render(tiny(), out, 36, 0, 2, on_error="skip")
    assert summary.skipped == {"train": [2, 10]}
    assert (summary.images, summary.rendered) == ({"train": 32}, 32)
    manifest = json.loads((out / "train" / "manifest.json").read_text())
    assert [s["images"] for s in manifest["shards"]] == [4, 6, 6, 4, 6, 6]
    assert (manifest["skipped"], manifest["images"]) == ([2, 10], 32)
    keys = {n.split(".")[0] for n, _ in _members(out)}
    assert keys == {f"{i:07d}-{v:02d}" for i in range(18) if i not in (2, 10) for v in (0, 1)}
    assert render(tiny(), out, 36, 0, 1).rendered == 0  # it is finished, and stays so
    monkeypatch.delenv("FAKE_KILL")
    monkeypatch.delenv("FAKE_RAISE")
    render(tiny(), tmp_path / "calm", 36, 0, 1)
    whole = dict(_members(tmp_path / "calm"))
    assert all(whole[name] == content for name, content in _members(out))


def test_a_damaged_list_of_scenes_left_out(tiny, tmp_path):
    render(tiny(), tmp_path, 6)
    (tmp_path / "train" / "skipped.json").write_text("[")
    with pytest.raises(UserError, match=r"skipped\.json is damaged: delete"):
        render(tiny(), tmp_path, 6)


def test_it_ends_early_where_every_scene_fails(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(dispatch, "_MOST_LOST", 2)
    monkeypatch.setenv("FAKE_RAISE", "every")
    # the first scene of two of the four shards, whichever the workers come to first
    with pytest.raises(UserError, match=r"scene \d+ of train, scene \d+ of train .*4 shards are missing") as error:
        render(tiny(), tmp_path, 24)
    first, second = re.findall(r"scene (\d+) of train", str(error.value))[:2]
    assert {first, second} < {"0", "3", "6", "9"}


def test_an_unknown_way_with_errors(tiny, tmp_path):
    with pytest.raises(UserError, match="'on_error' cannot be 'ignore'; valid: continue, skip"):
        render(tiny(), tmp_path, 6, on_error="ignore")


def test_a_scene_that_raises(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_RAISE", "val2")
    with pytest.raises(UserError, match=r"(?s)scene 2 of val .*RuntimeError: a planted fault.*Traceback"):
        render(tiny(), tmp_path, 6, 6, 2)
    assert (tmp_path / "train" / "shards" / "000000.tar").exists()


def test_workers_that_have_grown_are_recycled(tiny, tmp_path, monkeypatch):
    starts = []
    begin = local_pool.LocalPool.start
    monkeypatch.setattr(local_pool.LocalPool, "start", lambda self: starts.append(1) or begin(self))
    render(tiny(), tmp_path, 18, 0, 1, recycle_mib=1)
    assert len(starts) == 3


def test_workers_on_gpus_take_turns(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    started = []
    popen = subprocess.Popen

    def noted(command, **options):
        started.append(options["env"].get("CUDA_VISIBLE_DEVICES"))
        return popen(command, **options)

    monkeypatch.setattr(subprocess, "Popen", noted)
    config = tiny(image={"size": 24, "device": "auto"})
    render(config, tmp_path, 18, 0, 3)
    assert started == ["4", "7", "4"]


def test_blender_that_cannot_be_imported(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_IMPORT", "1")
    with pytest.raises(UserError, match=r"Blender cannot be imported: .*data_gen\.blender.*data_gen\.check"):
        render(tiny(), tmp_path, 6)


def test_a_camera_that_fits_nowhere_is_reported_once(tiny, tmp_path):
    with pytest.raises(UserError, match=r"^no camera fits"):
        render(tiny(room={"walls": 4}, camera={"min_distance": 5}), tmp_path, 6)


def test_another_blender_is_refused_when_growing(tiny, tmp_path, monkeypatch):
    render(tiny(), tmp_path, 6)
    monkeypatch.setenv("FAKE_VERSION", "9.9")
    assert render(tiny(), tmp_path, 6).rendered == 0
    with pytest.raises(UserError, match=r"rendered with blender fake, installed is 9\.9"):
        render(tiny(), tmp_path, 12)


@pytest.mark.parametrize("arguments", [(0,), (-3,), (2.5,), (True,), (6, -1), (6, 0, 0), (6, 0, "2")])
def test_counts_must_be_positive(tiny, tmp_path, arguments):
    with pytest.raises(UserError, match=r"'(images|val_images|workers)' must be a whole number of at least"):
        render(tiny(), tmp_path, *arguments)


def test_an_output_that_is_no_folder(tiny, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot make the output folder"):
        render(tiny(), tmp_path / "file", 6)


def test_a_second_render_into_the_folder_is_refused_and_a_dead_ones_lock_is_not(tiny, tmp_path):
    (tmp_path / LOCK).write_text("4711\n")  # left by a dead process
    render(tiny(), tmp_path, 6)
    with (tmp_path / LOCK).open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=rf"another process \(id {os.getpid()}\) is rendering into"):
            render(tiny(), tmp_path, 12)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_worker_outlives_its_parent(start, gate, tmp_path, how):
    closed = gate()
    process = start(tmp_path / "out", 60, **closed.environment)
    closed.wait(2)  # both workers stand before a scene
    workers = [os.pidfd_open(worker) for worker in _children(process.pid)]
    assert len(workers) == 2
    process.send_signal(how)
    process.communicate(timeout=60)
    assert process.returncode in (-how, 1)
    wait_for_end(workers)
    left = list(Path("/dev/shm").glob(f"lightning-tl-render-{process.pid}-*"))
    assert how != signal.SIGINT or not left


def test_memory_folders_of_dead_processes_are_cleared(tiny, tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    stale = Path("/dev/shm") / f"lightning-tl-render-{dead.pid}-abc"
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("no /dev/shm here")
    stale.mkdir()
    render(tiny(), tmp_path, 6)
    assert not stale.exists()


def test_a_campaign_of_kills_loses_and_changes_nothing(start, gate, tmp_path):
    """Kill drivers and workers after random numbers of scenes; those of all five kills are fewer than there are."""
    rng = random.Random(0)
    calm, out = tmp_path / "calm", tmp_path / "out"
    scenes, shards = 60, 20
    assert start(calm, 90, 30, 1).communicate(timeout=60)[1] == ""
    before = set()
    allowed = 0
    for workers in (1, 2, 3, 1, 2):
        scene_gate = gate()
        process = start(out, 90, 30, workers, **scene_gate.environment)
        first, more = rng.randint(4, 8), rng.randint(1, 3)
        allowed += first + more
        scene_gate.wait(workers)  # a worker that dies before its first scene ends the driver
        scene_gate.open(first)
        if rng.random() < 0.4:
            scene_gate.wait(first - 1)  # the last worker may be anywhere
            assert process.poll() is None
            process.kill()
        else:
            scene_gate.wait(first)
            os.kill(rng.choice(_children(process.pid)), signal.SIGKILL)
            scene_gate.open(more)
            scene_gate.wait(more)  # the driver goes on with another worker
            assert process.poll() is None
            process.kill()
        process.communicate(timeout=60)
        after = {p.relative_to(out) for p in out.glob("*/shards/*.tar")}
        assert before <= after  # nothing finished is lost
        before = after
    assert allowed < scenes
    # a driver with one worker has finished a shard of three scenes when the worker comes to the fourth scene
    assert 2 <= len(before) < shards
    assert start(out, 90, 30, 2).communicate(timeout=60)[1] == ""
    assert _files(out) == _files(calm)


def test_one_that_waits_takes_over_what_the_first_rendered(tiny, tmp_path):
    """As several commands on one new folder of a study: none ends with an error, nothing is rendered twice."""
    from concurrent.futures import ThreadPoolExecutor

    said = []
    lock = (tmp_path / LOCK).open("a+")
    fcntl.flock(lock, fcntl.LOCK_EX)

    def release(note):
        said.append(note)
        lock.close()

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(render, tiny(), tmp_path, 6, wait=True, say=release)
        assert waiting.result(timeout=300).rendered == 6
    assert "is rendering into" in said[0]
    assert said[0].endswith(": waiting for it")
    assert render(tiny(), tmp_path, 6, wait=True).rendered == 0


def test_a_finished_shard_deleted_during_the_render_is_missed(tiny, tmp_path):
    def delete(done, total):
        if done > 6:  # the only worker is at the second shard
            (tmp_path / "out/train/shards/000000.tar").unlink(missing_ok=True)

    with pytest.raises(UserError, match=r"1 finished shards are gone, the first 000000\.tar: were they deleted"):
        render(tiny(), tmp_path / "out", 12, workers=1, progress=delete)
