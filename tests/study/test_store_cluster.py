"""A study on Ray nodes that share no folder: each sees its own in the study's place. Needs Ray, root, and minutes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import ray
import yaml
from study.calls import files
from study.small_study import SMALL, records, rows

from lightning_tl.cli import study as command

PRIVATE = ["unshare", "--mount", "--propagation", "private"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.render,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(
        shutil.which("unshare") is None or subprocess.run([*PRIVATE, "true"], capture_output=True).returncode != 0,
        reason="needs the right to make mount namespaces",
    ),
]

STUDY = {
    "render": {
        "config": "render/digits",
        "set": {"image.size": 24, "image.samples": 1, "scenes_per_shard": 8},
        "val_images": 8,
    },
    "pretrain": {
        "config": "pretrain/small_images",
        "set": SMALL | {"trainer.max_steps": 60, "data.steps_per_epoch": 4},
        "product": {"data.n": [8, 24]},
    },
    "finetune": {
        "config": "finetune/digits",
        "set": SMALL | {"data.shots": 1, "trainer.max_steps": 4, "data.steps_per_epoch": 2},
        "zip": [{"data.draw": [0, 1], "seed_everything": [0, 1]}],
    },
    "complexity": {"images": 24, "size": 24, "standardize": "image"},
    "workers": None,
}


class Node:
    """A Ray node whose folder in the study's place is its own; it is part of the cluster once it is made."""

    def __init__(self, address: str, out: Path, disk: Path) -> None:
        disk.mkdir()
        before = ray.cluster_resources().get("CPU", 0)
        start = f"mount --bind {disk} {out} && exec ray start --address={address} --num-cpus=1 --block"
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.process = subprocess.Popen(
            [*PRIVATE, "bash", "-c", start],
            env=os.environ | {"PATH": path},
            start_new_session=True,
            stdout=disk.with_suffix(".log").open("w"),
            stderr=subprocess.STDOUT,
        )
        self.disk = disk
        while ray.cluster_resources().get("CPU", 0) <= before:
            assert self.process.poll() is None, disk.with_suffix(".log").read_text()
            threading.Event().wait(0.1)

    def lose(self) -> None:
        """End all its processes at once, and take its disk away."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def head(s3):
    """The address of a cluster whose head runs nothing; it and its nodes know the store."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    ray.init(address=made.address)
    yield made.address
    ray.shutdown()
    made.shutdown()


@pytest.mark.timeout(1800)
def test_a_node_is_lost_with_its_disk_and_the_table_is_that_of_one_machine(head, s3, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LIGHTNING_TL_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    out.mkdir()
    nodes: list[Node] = []
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY | {"engine": "ray", "address": head, "store": s3}))
    lost = []

    def lose() -> None:
        while not lost:
            begun = [node for node in nodes if list(node.disk.glob("runs/pretrain-*/checkpoints/last.ckpt"))]
            if begun:
                begun[0].lose()
                lost.append(begun[0])
            threading.Event().wait(0.1)

    thread = threading.Thread(target=lose, daemon=True)
    try:
        nodes += [Node(head, out, tmp_path / f"disk{number}") for number in range(2)]
        thread.start()
        assert command.main(["run", f"--config={path}", f"--out={out}"]) == 0, capsys.readouterr()
    finally:
        for node in nodes:
            if node not in lost:
                node.lose()
    thread.join(60)
    assert len(lost) == 1
    assert len(records(out)) == 8
    assert not list(out.glob("runs/pretrain-*/checkpoints"))  # none but what complexity was measured by
    assert list(out.glob("targets/*.png"))
    assert list(out.glob("renders/*/sheet.png"))
    assert not list(out.glob("renders/*/train/shards"))
    assert "How complex the renderings are" in (out / "report.html").read_text()
    kept = files(s3)
    for name in records(out):
        assert {f"runs/{name}/record.json", f"runs/{name}/config.yaml"} <= kept
        assert any(file.startswith(f"runs/{name}/checkpoints/") for file in kept)

    alone = tmp_path / "alone"
    path.write_text(yaml.safe_dump(STUDY | {"workers": 1}))
    assert command.main(["run", f"--config={path}", f"--out={alone}"]) == 0
    assert rows(out) == rows(alone)
