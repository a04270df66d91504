"""Rendering on a real Ray cluster of several nodes on this machine, with the renderer of fake_worker.py."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import types
from contextlib import suppress
from pathlib import Path

import fsspec
import pytest
import ray
from scene_gate import SceneGate, wait_for_end

from data_gen import farm, local_pool, ray_pool
from data_gen.farm import LOCK, render
from lightning_tl.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore")
HERE = Path(__file__).parent
WORKER = [str(HERE / "fake_worker.py")]


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    for module in (local_pool, ray_pool):
        monkeypatch.setattr(module, "worker_arguments", lambda: WORKER)
    monkeypatch.setattr(farm, "check_environment", lambda: None)


@pytest.fixture
def nodes(monkeypatch):
    """A cluster whose head renders nothing; what is set in ``monkeypatch`` before goes to its nodes."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def _files(out):
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file() and p.name != LOCK}


def _workers(mark):
    """The ids of the worker processes that were started with a mark in their environment."""
    ids = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark.encode() in (process / "environ").read_bytes() and WORKER[0] in (process / "cmdline").read_text():
                ids.append(int(process.name))
    return ids


@pytest.fixture
def losing(nodes, tmp_path, monkeypatch):
    """Of two nodes one is lost while it renders its first shard, and a worker dies on the other."""
    closed, gate = SceneGate(tmp_path / "closed"), SceneGate(tmp_path / "gate")
    for name, value in closed.environment.items():
        monkeypatch.setenv(name, value)
    slow = nodes.add_node(num_cpus=1)
    for name, value in gate.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FAKE_KILL", "train7")
    monkeypatch.setenv("FAKE_ONCE", str(tmp_path / "once"))
    nodes.add_node(num_cpus=2)
    ray.init(address=nodes.address)

    def lose():
        closed.wait(1)
        nodes.remove_node(slow, allow_graceful=False)
        gate.open(1000)  # only now, so that there was a shard left for the node that is lost

    thread = threading.Thread(target=lose, daemon=True)
    thread.start()
    yield
    thread.join(60)
    closed.close()
    gate.close()


@pytest.mark.slow
def test_a_cluster_gives_the_bytes_of_one_machine_and_survives_a_lost_node(losing, tiny, tmp_path, monkeypatch):
    said, calls = [], []
    monkeypatch.chdir(tmp_path)
    summary = render(tiny(), "out", 30, 6, None, lambda *c: calls.append(c), say=said.append, engine="ray")
    assert any("was lost; another renders scenes" in line for line in said)
    assert (tmp_path / "once").exists()
    assert (summary.images, summary.rendered, summary.skipped) == ({"train": 30, "val": 6}, 36, {})
    assert (calls[0], calls[-1]) == ((0, 36), (36, 36))
    assert any(done % 6 for done, _ in calls)  # scene by scene
    for name in ("FAKE_GATE", "FAKE_KILL", "FAKE_ONCE"):
        monkeypatch.delenv(name)
    render(tiny(), tmp_path / "here", 30, 6)
    assert _files(tmp_path / "out") == _files(tmp_path / "here")
    # the same command again only verifies; a larger one adds, on one worker
    assert render(tiny(), "out", 30, 6, engine="ray").rendered == 0
    assert render(tiny(), "out", 36, 6, workers=1, engine="ray").rendered == 6
    render(tiny(), tmp_path / "here", 36, 6)
    assert _files(tmp_path / "out") == _files(tmp_path / "here")


@pytest.mark.slow
def test_a_cluster_renders_to_a_store(store, losing, tiny, tmp_path, monkeypatch):
    said = []
    assert render(tiny(), store, 30, 6, say=said.append, engine="ray").rendered == 36
    assert any("was lost; another renders scenes" in line for line in said)
    for name in ("FAKE_GATE", "FAKE_KILL", "FAKE_ONCE"):
        monkeypatch.delenv(name)
    render(tiny(), tmp_path / "here", 30, 6)
    system, root = fsspec.core.url_to_fs(store)
    stored = {name[len(root) + 1 :]: system.cat_file(name) for name in system.find(root)}
    assert stored == _files(tmp_path / "here")


@pytest.mark.slow
def test_scenes_that_fail_are_reported_and_left_out_as_by_one_machine(nodes, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_KILL", "train10")
    monkeypatch.setenv("FAKE_RAISE", "val2")
    nodes.add_node(num_cpus=2)
    ray.init(address=nodes.address)
    messages = []
    for engine in ("local", "ray"):
        with pytest.raises(UserError) as caught:
            render(tiny(), tmp_path / engine, 36, 6, 1, engine=engine)
        messages.append(str(caught.value).replace(str(tmp_path / engine), "OUT"))
    assert messages[0] == messages[1]
    assert "scene 10 of train, scene 2 of val (seed 0) cannot be rendered: two workers failed at it" in messages[1]
    assert "last words" in messages[1]
    assert _files(tmp_path / "local") == _files(tmp_path / "ray")
    for engine in ("local", "ray"):
        summary = render(tiny(), tmp_path / engine, 36, 6, on_error="skip", engine=engine)
        assert summary.skipped == {"train": [10], "val": [2]}
    assert _files(tmp_path / "local") == _files(tmp_path / "ray")


@pytest.mark.slow
def test_a_cluster_without_room_and_a_node_without_blender(nodes, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_IMPORT", "1")
    ray.init(address=nodes.address)
    with pytest.raises(UserError, match=r"a worker takes 1 CPU and 0 GPUs, the cluster has 0 and 0 in all"):
        render(tiny(), tmp_path, 6, engine="ray")
    nodes.add_node(num_cpus=1)
    with pytest.raises(UserError, match=r"Blender cannot be imported: .* \(on node [\d.]+\); try `python -m"):
        render(tiny(), tmp_path, 6, engine="ray")
    # a class that is pickled by the name of a module which the node does not have
    actor = type("Actor", (ray_pool._Actor,), {"__module__": "data_gen_of_the_driver"})
    there = types.ModuleType("data_gen_of_the_driver")
    there.Actor = actor
    monkeypatch.setitem(sys.modules, "data_gen_of_the_driver", there)
    with monkeypatch.context() as patch:
        patch.setattr(ray_pool, "_Actor", actor)
        with pytest.raises(UserError, match=r"cannot run on a node .*data_gen_of_the_driver.*: install the same"):
            render(tiny(), tmp_path, 6, engine="ray")
    gpu = tiny(image={"size": 24, "device": "cuda"})
    with pytest.raises(UserError, match=r"a worker takes 1 CPU and 1 GPUs, the cluster has 1 and 0 in all"):
        render(gpu, tmp_path / "gpu", 6, engine="ray")


@pytest.mark.slow
def test_a_killed_driver_takes_its_workers_along_and_the_next_goes_on(nodes, tiny, tmp_path, monkeypatch):
    gate = SceneGate(tmp_path / "gate")
    for name, value in gate.environment.items():
        monkeypatch.setenv(name, value)
    nodes.add_node(num_cpus=2)
    (tmp_path / "config.json").write_text(json.dumps(farm.config_to_dict(tiny())))
    out = tmp_path / "out"
    command = [sys.executable, str(HERE / "render_here.py"), str(tmp_path / "config.json"), str(out), "60", "6"]
    command += ["2", "fake", "ray", nodes.address]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        gate.wait(2)  # both workers stand before a scene
        workers = [os.pidfd_open(worker) for worker in _workers(str(tmp_path))]
        assert len(workers) == 2
        gate.open(7)  # one of the two comes to its fourth scene, so a shard is in the folder
        gate.wait(7)
        assert driver.poll() is None, driver.communicate()
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
    wait_for_end(workers)
    assert not _workers(str(tmp_path))
    gate.open(1000)
    kept = {p.name: p.read_bytes() for p in out.glob("train/shards/*.tar")}
    assert 0 < len(kept) < 10
    ray.init(address=nodes.address)
    render(tiny(), out, 60, 6, engine="ray")
    assert all((out / "train/shards" / name).read_bytes() == content for name, content in kept.items())
    monkeypatch.delenv("FAKE_GATE")
    render(tiny(), tmp_path / "here", 60, 6)
    assert _files(out) == _files(tmp_path / "here")
    gate.close()


def test_no_cluster_at_the_address(tiny, tmp_path):
    with pytest.raises(UserError, match=r"no Ray cluster at 127\.0\.0\.1:1 .*start one with `ray start --head`"):
        render(tiny(), tmp_path, 6, engine="ray", address="127.0.0.1:1")


def test_a_ray_that_does_not_start(tiny, tmp_path, monkeypatch):
    def late(**_):
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", late)
    with pytest.raises(UserError, match=r"Ray cannot be started here \(The current node timed out .* an 'address'"):
        render(tiny(), tmp_path, 6, engine="ray")
    with pytest.raises(UserError, match=r"no Ray cluster at auto \(The current node timed out"):
        render(tiny(), tmp_path, 6, engine="ray", address="auto")


def test_without_ray_or_with_another_engine(tiny, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="'engine' cannot be 'slurm'; valid: local, ray"):
        render(tiny(), tmp_path, 6, engine="slurm")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"'engine: ray' needs Ray: pip install 'lightning-tl\[cluster\]'"):
        render(tiny(), tmp_path, 6, engine="ray")


@pytest.mark.parametrize("wish, sent", [(None, "0"), ("1", "1")])
def test_a_cluster_that_is_started_here_reports_nothing_unasked(wish, sent, monkeypatch):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "")  # so that it is put back
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED")
    if wish is not None:
        monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", wish)
    seen = []
    monkeypatch.setattr(ray, "init", lambda **_: seen.append(os.environ.get("RAY_USAGE_STATS_ENABLED")))
    ray_pool.connect(None)
    assert seen == [sent]


def test_rays_answer_to_sigterm_does_not_take_the_place_of_another(monkeypatch):
    def own(*_):
        """As of a command that stops its work in order."""

    def of_ray(*_):
        """As Ray's, which ends the process."""

    monkeypatch.setattr(ray, "init", lambda **_: signal.signal(signal.SIGTERM, of_ray))
    before = signal.getsignal(signal.SIGTERM)
    try:
        for first, then in ((own, own), (signal.SIG_DFL, of_ray)):
            signal.signal(signal.SIGTERM, first)
            ray_pool.connect(None)
            assert signal.getsignal(signal.SIGTERM) is then
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_node_whose_blender_cannot_be_used_is_named(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("BLENDER", str(tmp_path / "nothing"))
    actor = ray_pool._Actor(WORKER, {"config": farm.config_to_dict(tiny())}, b"")
    here, said = actor.begin()
    assert said["error"] == "user"
    assert re.fullmatch(rf"BLENDER: {tmp_path}/nothing does not exist: .* \(on {here['node']}\)", said["message"])
