"""Runs of nodes that share no folder: what a store keeps of them, and what another node makes of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from study.calls import HERE, call, files, stored, untimed
from training import finetuning, pretraining, weights

from lightning_tl.cli import study as command
from lightning_tl.errors import StoreError, UserError
from lightning_tl.study import runs
from lightning_tl.study import store as module
from lightning_tl.study.config import Stage, Study
from lightning_tl.study.expansion import expand
from lightning_tl.study.plan import plan
from lightning_tl.study.plan_items import DataSet, Run
from lightning_tl.study.runs import do_run
from lightning_tl.study.store import Mirror, do_stored, fetch_renders, fetch_run, fetch_runs

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's remarks on short runs


KILLED = """
import os, signal, sys
sys.path.insert(0, {here!r})
from pathlib import Path
from lightning.pytorch import Callback
from lightning_tl.study import runs, store
from study.calls import stored
from training import pretraining

class Kill(Callback):
    def __init__(self, keep):
        self.keep = keep

    def on_train_batch_start(self, *_):
        self.keep()

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 9:
            os.kill(os.getpid(), signal.SIGKILL)

store._SHARE = 1e9
runs._reporter = lambda call, folder, begun, keep: Kill(keep)
store.do_stored(stored({url!r}, Path({out!r}), "pre", pretraining(Path({renders!r}), Path("-"))))
"""


@pytest.mark.parametrize("store", ["local", pytest.param("s3", marks=pytest.mark.slow)], indirect=True)
def test_a_node_dies_with_its_disk_and_another_goes_on_to_the_same_bits(store, renders, tmp_path, monkeypatch):
    whole = do_run(call(tmp_path / "whole", "pre", pretraining(renders, Path("-")))).record
    out = tmp_path / "out"
    code = KILLED.format(here=str(HERE), out=str(out), url=store, renders=str(renders))
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=200)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    shutil.rmtree(out)
    assert {"runs/pre/state.json", "runs/pre/checkpoints/last.ckpt"} <= files(store)
    found, resumable = [], runs._resumable
    mine = stored(store, out, "pre", pretraining(renders, Path("-")))
    with monkeypatch.context() as patched:
        patched.setattr(runs, "_resumable", lambda *given: found.append(resumable(*given)) or found[0])
        assert untimed(do_stored(mine).record) == untimed(whole)
    assert found == [out / "runs/pre/checkpoints/last.ckpt"]
    kept = weights(out / "runs/pre" / whole["checkpoint"])
    other = weights(tmp_path / "whole/pre" / whole["checkpoint"])
    assert all(torch.equal(kept[name], other[name]) for name in other)

    # another, which has its record alone, as the study's own machine has, fine-tunes from it
    shutil.rmtree(out)
    fetch_run(store, out, "pre")
    assert not (out / "runs/pre/checkpoints").exists()
    start = out / "runs/pre" / whole["checkpoint"]
    fine = stored(store, out, "fine", finetuning(Path("-"), f"--model.init_from={start}"), start="pre")
    outcome = do_stored(fine)
    assert outcome.error is None, outcome.error
    assert outcome.record["facts"]["param_distance"] > 0
    assert not (out / "runs/fine/checkpoints").exists()  # of thousands of fine-tunings the store alone keeps them
    assert {"runs/fine/checkpoints/last.ckpt", "runs/fine/record.json", "runs/fine/log.txt"} <= files(store)
    assert any(name.startswith("targets/") for name in files(store))

    # what is recorded there is not done again, whoever asks
    shutil.rmtree(out)
    monkeypatch.setattr(runs, "_train", lambda *_: pytest.fail("trained again"))
    assert do_stored(fine).record == outcome.record


def test_configurations_travel_with_the_run(store, tmp_path):
    """A node need not have the files that the study was given with."""
    own = tmp_path / "own.yaml"
    own.write_text("trainer: {max_stepz: 3}\n")
    run = Run("fine", "fine", "finetune", {}, (f"--config={own}", "--seed_everything=1"), None, None, "key")
    made = run.call(tmp_path / "out", {}, 1, store)
    own.unlink()
    assert "max_stepz" in do_stored(made).error
    (path,) = (Path(arg.removeprefix("--config=")) for arg in made.args if arg.startswith("--config="))
    assert path.is_relative_to(tmp_path / "out")
    assert path.read_text() == "trainer: {max_stepz: 3}\n"
    assert run.call(tmp_path / "out", {}, 1).args == run.args  # without a store nothing changes


def test_failures_leave_their_log_on_the_store(store, renders, tmp_path):
    outcome = do_stored(stored(store, tmp_path, "pre", pretraining(renders, Path("-"), "--data.n=61")))
    assert "61 images asked for" in outcome.error
    assert not outcome.again
    assert {"runs/pre/log.txt", "runs/pre/state.json"} <= files(store)


def test_only_what_has_changed_is_put_and_in_order(store, tmp_path, monkeypatch):
    put, sent = module.put, []
    monkeypatch.setattr(module, "put", lambda url, path: sent.append(url.removeprefix(f"{store}/")) or put(url, path))
    for name in ("state.json", "record.json", "a.txt", "checkpoints/last.ckpt", "checkpoints/best.ckpt", ".hidden"):
        path = tmp_path / "one" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    mirror = Mirror(store, tmp_path / "one")
    mirror.put()
    assert sent == ["a.txt", "checkpoints/best.ckpt", "checkpoints/last.ckpt", "state.json", "record.json"]
    sent.clear()
    mirror.put_in_time()  # at once after another: not yet
    (tmp_path / "one/a.txt").write_text("other")
    (tmp_path / "one/checkpoints/best.ckpt").unlink()
    mirror.put()
    assert sent == ["a.txt"]
    assert files(store) == {"a.txt", "checkpoints/last.ckpt", "state.json", "record.json"}
    put(f"{store}/.a.txt.0123abcd.tmp", tmp_path / "one/a.txt")  # as a killed process leaves it
    other = Mirror(store, tmp_path / "two")
    other.fetch(checkpoints=False)
    assert {path.name for path in (tmp_path / "two").rglob("*")} == {"a.txt", "state.json", "record.json"}
    other.fetch()
    assert (tmp_path / "two/checkpoints/last.ckpt").read_text() == "checkpoints/last.ckpt"
    sent.clear()
    other.put()
    assert sent == []


def write(url: str, content: dict) -> None:
    module.put(url, json.dumps(content).encode())


def test_records_and_states_come_here(store, tmp_path):
    write(f"{store}/runs/done/record.json", {"key": "a", "seconds": 1, "checkpoint": "", "metrics": {}, "facts": {}})
    write(f"{store}/runs/done/checkpoints/last.ckpt", {})
    for name in ("going", "here"):
        write(f"{store}/runs/{name}/state.json", {"key": "a", "time": 5, "step": 3})
        write(f"{store}/runs/{name}/metrics.csv", {})
    (tmp_path / "runs/here").mkdir(parents=True)
    (tmp_path / "runs/here/state.json").write_text('{"key": "a", "time": 6, "step": 4}')
    fetch_runs(store, tmp_path, ["done", "going", "here", "waiting"])
    found = {str(path.relative_to(tmp_path / "runs")) for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    assert found == {"done/record.json", "going/state.json", "here/state.json"}
    assert json.loads((tmp_path / "runs/here/state.json").read_text())["step"] == 4
    fetch_runs(f"{store}/empty", tmp_path, ["done2"])


def test_a_manifest_comes_here_once_it_is_whole(store, tmp_path):
    sets = [DataSet("digits", {}, {}, 20, 8)]
    path = tmp_path / "renders/digits/train/manifest.json"
    for shards, there in ((1, False), (2, True)):
        write(f"{store}/renders/digits/train/manifest.json", {"shards": [{"images": 16}] * shards})
        fetch_renders(store, tmp_path, sets)
        assert path.is_file() == there
    assert not (tmp_path / "renders/digits/val").exists()


def test_a_store_that_cannot_be_used(tmp_path):
    made = stored("nowhere://a", tmp_path, "pre", ["fit"])
    outcome = do_stored(made)
    assert "nowhere" in outcome.error
    assert "rotocol not known" in outcome.error
    assert outcome.again
    with pytest.raises(StoreError, match="rotocol not known"):
        fetch_runs("nowhere://a", tmp_path, ["pre"])


def test_a_node_that_cannot_make_the_folder(store, tmp_path):
    (tmp_path / "file").write_text("")
    made = replace(stored(store, tmp_path / "file", "pre", ["fit"]), configs=((str(tmp_path / "file/a.yaml"), "{}"),))
    outcome = do_stored(made)
    assert f"{tmp_path / 'file'}" in outcome.error
    assert f"on {os.uname().nodename}" in outcome.error
    assert "choose by --out a folder that every node can create" in outcome.error
    assert not outcome.again


@pytest.mark.parametrize(
    "given,words",
    [
        ({"store": "s3://a/b"}, "store is for engine: ray, whose nodes may share no folder"),
        ({"store": "runs/a", "engine": "ray"}, "store is 'runs/a', which is no URL; a folder that all nodes see"),
    ],
)
def test_stores_that_make_no_sense(given, words):
    with pytest.raises(UserError, match=words):
        Study(Stage("finetune/digits"), **given).check()


def test_status_from_a_machine_that_has_nothing(store, tmp_path, capsys):
    path = tmp_path / "study.yaml"
    settings = {"config": "finetune/digits", "product": {"data.draw": [0, 1, 2]}}
    path.write_text(yaml.safe_dump({"finetune": settings, "engine": "ray", "store": store}))
    first, second, _ = plan(expand(Study(Stage(**settings), engine="ray", store=store)), tmp_path)
    record = {"key": first.key, "metrics": {"test/error": 0.25}, "seconds": 3.0, "checkpoint": "", "facts": {}}
    write(f"{store}/runs/{first.name}/record.json", record)
    state = {"key": second.key, "time": time.time(), "step": 3, "steps": 9, "spent": 2.0, "host": "there"}
    write(f"{store}/runs/{second.name}/state.json", state | {"status": "running"})
    assert command.main(["status", f"--config={path}", f"--out={tmp_path / 'out'}", "--all"]) == 0
    said = capsys.readouterr().out
    assert "3 runs: 1 done, 1 running, 1 waiting" in said
    assert "error 0.2500" in said
    assert "step 3/9, 4 s left on there" in said
