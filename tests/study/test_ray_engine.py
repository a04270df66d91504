"""Studies on a real Ray cluster of several nodes on this machine."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import ray
import yaml
from study.small_study import records, rows, write
from study.stepped import path as path_of

from lightning_tl.cli.study import Study
from lightning_tl.errors import UserError
from lightning_tl.study.config import Stage
from lightning_tl.study.run_study import run_study
from lightning_tl.study.until import Until

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def cluster():
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield made
    ray.shutdown()
    made.shutdown()


def study(folder: Path, renders: Path, sizes=(8, 24), draws=(0, 1), **changes) -> Study:
    settings = yaml.safe_load(write(folder, renders, sizes, draws).read_text()) | {"workers": None} | changes
    stages = {name: Stage(**settings.pop(name)) for name in ("pretrain", "finetune")}
    return Study(**stages, **settings)


@pytest.mark.slow
def test_the_table_of_two_nodes_is_that_of_one_machine(cluster, renders, tmp_path):
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address)
    few = {"sizes": (8,), "draws": (0,)}
    for engine in ("ray", "local"):
        (tmp_path / engine).mkdir()
        made = study(tmp_path / engine, renders, engine=engine, **few)
        assert run_study(made, tmp_path / engine / "out") == {}
    assert rows(tmp_path / "ray/out") == rows(tmp_path / "local/out")
    assert len(records(tmp_path / "ray/out")) == len(records(tmp_path / "local/out")) > 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_steps_on_two_nodes_are_those_of_one_machine(cluster, renders, tmp_path):
    """Batches of as many pre-trainings as the cluster has room for; this machine is asked to begin as many."""
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address)
    paths = []
    for engine, workers in (("ray", None), ("local", 2)):
        (tmp_path / engine).mkdir()
        few = {"sizes": (8, 16, 24, 28), "draws": (0,), "until": Until(confidence=0.99, max_runs=3)}
        out = tmp_path / engine / "out"
        assert run_study(study(tmp_path / engine, renders, engine=engine, workers=workers, **few), out) == {}
        paths.append(path_of(json.loads((out / "study.json").read_text())["steps"]))
        assert [len(step["batch"]) for step in paths[-1]] == [2, 1, 0]
    assert paths[0] == paths[1]
    assert rows(tmp_path / "ray/out") == rows(tmp_path / "local/out")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_nodes_are_lost_and_the_table_is_that_of_one_machine(cluster, renders, tmp_path):
    """Fifteen runs on four nodes, of which three are lost one after the other, in the midst of runs."""
    nodes = [cluster.add_node(num_cpus=1) for _ in range(4)]
    ray.init(address=cluster.address)
    out = tmp_path / "ray"
    (tmp_path / "ray-study").mkdir()
    many = {"sizes": (8, 16, 24), "draws": (0, 1, 2)}
    lost, before = [], {}

    def lose():
        for done in (2, 5, 8):
            while len(records(out)) < done:
                threading.Event().wait(0.1)
            before.update(records(out))
            cluster.remove_node(nodes[len(lost)], allow_graceful=False)
            lost.append(done)

    thread = threading.Thread(target=lose, daemon=True)
    thread.start()
    failures = run_study(study(tmp_path / "ray-study", renders, engine="ray", **many), out)
    thread.join(60)
    assert len(lost) == 3
    assert failures == {}
    assert len(records(out)) == 15
    assert before.items() <= records(out).items()  # what was recorded was not computed again
    (tmp_path / "local").mkdir()
    assert run_study(study(tmp_path / "local", renders, workers=1, **many), tmp_path / "local/out") == {}
    assert rows(out) == rows(tmp_path / "local/out")


def test_a_cluster_without_room_says_so(cluster, renders, tmp_path):
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address)
    with pytest.raises(UserError, match=r"a run needs 4 CPUs and 0 GPUs; the cluster has 1 and 0 in all"):
        run_study(study(tmp_path, renders, engine="ray", threads=4), tmp_path / "out")


def test_no_cluster_at_the_address(renders, tmp_path):
    with pytest.raises(UserError, match=r"no Ray cluster at 127\.0\.0\.1:1 .*start one with `ray start --head`"):
        run_study(study(tmp_path, renders, engine="ray", address="127.0.0.1:1"), tmp_path / "out")
