"""Single runs of a study: what they leave, locks, failures, and going on after a kill."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from study.calls import HERE, call, untimed
from tasks.toy import Toy, trainer
from training import STEPS, finetuning, pretraining, weights

from lightning_tl.study import runs as module
from lightning_tl.study.local_engine import LocalEngine
from lightning_tl.study.records import read_record
from lightning_tl.study.runs import Outcome, do_run
from lightning_tl.tasks import SemanticSegmentation
from lightning_tl.tasks.lr_schedules import Cosine

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's remarks on short runs


@pytest.fixture(scope="module")
def finished(renders, tmp_path_factory):
    """A pre-training, and a fine-tuning from it with forgetting."""
    out = tmp_path_factory.mktemp("runs")
    overlay = f"--config={measuring(out)}"
    pre = do_run(call(out, "pre", pretraining(renders, Path("-"), overlay)))
    assert pre.error is None, pre.error
    init = f"--model.init_from={out / 'pre' / pre.record['checkpoint']}"
    fine = do_run(call(out, "fine", finetuning(Path("-"), init, "--data.draw=3"), test=True, start=str(out / "pre")))
    assert fine.error is None, fine.error
    return out, pre.record, fine.record


def measuring(out: Path) -> Path:
    path = out / "measuring.yaml"
    path.write_text(
        """trainer:
  callbacks+:
    - class_path: lightning_tl.callbacks.ParameterDistance
      init_args: {every_n_steps: 5}
    - class_path: lightning_tl.callbacks.PerturbationSensitivity
      init_args: {gammas: [0.01], draws: 2, every_n_steps: 10}
"""
    )
    return path


def test_a_record_tells_what_the_run_was(finished):
    out, pre, fine = finished
    for name, record in (("pre", pre), ("fine", fine)):
        assert read_record(out / name / "record.json", f"key of {name}") == record
        assert (out / name / record["checkpoint"]).is_file()
        assert (out / name / "config.yaml").is_file()
        assert (out / name / "log.txt").exists()
    assert pre["checkpoint"] == "checkpoints/best.ckpt"
    facts = pre["facts"]
    assert (facts["task"], facts["images"], facts["steps"], facts["backbone"]) == (
        "mulclass",
        60,
        STEPS,
        "resnet10_w16",
    )
    assert fine["facts"]["draw"] == 3
    assert fine["facts"]["data"] == "Digits"
    assert fine["facts"]["lr"] == pytest.approx(0.004)
    assert 0 < fine["metrics"]["test/error"] < 1
    assert list((out / "targets").glob("*.png"))


def test_the_learning_rate_is_that_of_the_main_parameters(tmp_path):
    """DeepLabV3's auxiliary head learns ten times as fast; the table's ``lr`` is that of the rest."""
    task = SemanticSegmentation(
        4,
        backbone="resnet10_w16",
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.02),
        schedule=Cosine(images=16, warmup_images=8),
    )
    run = trainer(tmp_path, max_steps=2)
    run.fit(task, Toy("semseg"))
    assert sorted(group["initial_lr"] for group in run.optimizers[0].param_groups) == pytest.approx([0.02, 0.2])
    cli = types.SimpleNamespace(datamodule=None, model=task, trainer=run, config={"fit": {}}, subcommand="fit")
    assert module._facts(cli)["lr"] == pytest.approx(0.02)


def test_what_callbacks_measured_is_in_the_record(finished):
    _, pre, _ = finished
    rows = pre["measurements"]
    distances = [row for row in rows if (row["quantity"], row["group"]) == ("param_distance", "total")]
    assert [row["step"] for row in distances] == [0, 5, 10]
    noisy = [row for row in rows if row["quantity"] == "sensitivity"]
    assert [(row["step"], row["gamma"], row["group"]) for row in noisy] == [(0, 0.01, ""), (10, 0.01, "")]
    assert all(row["stderr"] > 0 for row in noisy)


def test_a_record_is_never_made_twice(finished, monkeypatch):
    out, pre, _ = finished
    monkeypatch.setattr(module, "_train", lambda *_: pytest.fail("trained again"))
    assert do_run(call(out, "pre", ["fit"])).record == pre


def test_a_run_that_another_process_holds_is_left_to_it(finished, tmp_path):
    (tmp_path / "locks").mkdir()
    with (tmp_path / "locks/fine").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert do_run(call(tmp_path, "fine", finetuning(Path("-")))) == Outcome("fine")
    assert not (tmp_path / "fine").exists()


@pytest.mark.parametrize(
    "option,words",
    [
        ("--data.n=61", "61 images asked for"),
        ("--model.optimizer.lr=1e38", "the training diverged; lower model.optimizer.lr"),
        ("--model.optimiser.lr=1", "optimiser"),
    ],
)
def test_what_the_user_gave_wrong_is_one_message(renders, tmp_path, option, words):
    outcome = do_run(call(tmp_path, "pre", pretraining(renders, Path("-"), option)))
    assert words in outcome.error
    assert "Traceback" not in outcome.error
    assert not outcome.again
    assert words in (tmp_path / "pre/log.txt").read_text()
    state = json.loads((tmp_path / "pre/state.json").read_text())
    assert state["status"] == "failed"
    assert words in state["error"]
    assert not (tmp_path / "pre/record.json").exists()


@pytest.mark.parametrize("fails", [False, True])
def test_the_next_run_of_a_process_has_a_wandb_run_of_its_own(tmp_path, monkeypatch, fails):
    ended = []
    wandb = types.SimpleNamespace(run=object(), finish=lambda: ended.append(1))
    monkeypatch.setitem(sys.modules, "wandb", wandb)

    def train(call, folder, keep):
        folder.mkdir()
        return {} if not fails else {}["it"]

    monkeypatch.setattr(module, "_train", train)
    do_run(call(tmp_path, "fine", ["fit"]))
    assert ended == [1]
    wandb.run = None
    do_run(call(tmp_path, "other", ["fit"]))
    assert ended == [1]


def test_bugs_and_full_disks(tmp_path, monkeypatch):
    def failing(error):
        def train(call, folder, keep):
            folder.mkdir(exist_ok=True)
            raise error

        monkeypatch.setattr(module, "_train", train)
        return do_run(call(tmp_path, "fine", ["fit"]))

    full = failing(OSError(28, "No space", "a.ckpt"))
    assert full.error.startswith("the disk is full while writing a.ckpt")
    assert not full.again
    bug = failing(ZeroDivisionError("one"))
    assert "ZeroDivisionError: one" in bug.error
    assert bug.again


KILLED = """
import os, signal, sys
sys.path.insert(0, {here!r})
from pathlib import Path
from lightning.pytorch import Callback
from lightning_tl.study import runs
from study.calls import call
from training import pretraining

class Kill(Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == {step}:
            os.kill(os.getpid(), signal.SIGKILL)

reporter = runs._reporter
runs._reporter = lambda *given: Kill()
runs.do_run(call(Path({out!r}), "pre", pretraining(Path({renders!r}), Path("-"), "--config={overlay}")))
"""


# before the first checkpoint, and between two
@pytest.mark.parametrize("step", [pytest.param(3, marks=pytest.mark.slow), 9])
def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been(finished, renders, tmp_path, step, monkeypatch):
    overlay = measuring(tmp_path)
    code = KILLED.format(here=str(HERE), step=step, out=str(tmp_path), renders=str(renders), overlay=overlay)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=200)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert not (tmp_path / "pre/record.json").exists()
    assert (tmp_path / "pre/checkpoints/last.ckpt").exists() == (step == 9)
    found, resumable = [], module._resumable
    monkeypatch.setattr(module, "_resumable", lambda *given: found.append(resumable(*given)) or found[0])
    record = do_run(call(tmp_path, "pre", pretraining(renders, Path("-"), f"--config={overlay}"))).record
    assert found == [tmp_path / "pre/checkpoints/last.ckpt" if step == 9 else None]
    whole = finished[1]
    assert record["metrics"] == pytest.approx(whole["metrics"], abs=0)
    for name in ("best", "last"):
        mine, other = (
            weights(tmp_path / f"pre/checkpoints/{name}.ckpt"),
            weights(finished[0] / f"pre/checkpoints/{name}.ckpt"),
        )
        assert all(torch.equal(mine[key], other[key]) for key in other)
    assert record["measurements"] == whole["measurements"]


def test_a_run_killed_after_its_last_step_is_only_evaluated(finished, renders, tmp_path):
    whole = finished[1]
    mine = call(tmp_path, "pre", pretraining(renders, Path("-"), f"--config={measuring(tmp_path)}"))
    assert untimed(do_run(mine).record) == untimed(whole)
    saved = (tmp_path / "pre/checkpoints/last.ckpt").stat().st_mtime_ns
    (tmp_path / "pre/record.json").unlink()
    record = do_run(mine).record
    for name in ("val/loss", "val/error"):
        assert record["metrics"][name] == pytest.approx(whole["metrics"][name], rel=1e-6)
    assert record["checkpoint"] == whole["checkpoint"]
    assert (tmp_path / "pre/checkpoints/last.ckpt").stat().st_mtime_ns == saved
    # a checkpoint that was cut short is no checkpoint: the best one is a whole one too
    (tmp_path / "pre/record.json").unlink()
    last = tmp_path / "pre/checkpoints/last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    assert module._resumable(tmp_path / "pre", "key of pre") == tmp_path / "pre/checkpoints/best.ckpt"
    assert untimed(do_run(mine).record) == untimed(whole)


def test_a_killed_worker_fails_its_run_alone_and_another_takes_its_place(renders, tmp_path):
    engine = LocalEngine(1)
    try:
        engine.submit(call(tmp_path, "pre", pretraining(renders, Path("-"), "--trainer.max_steps=100000")))
        while not (tmp_path / "pre/state.json").exists():
            assert engine.wait(0.1) == []
        (process,) = engine._pool._processes.values()
        os.kill(process.pid, signal.SIGKILL)
        (outcome,) = engine.wait(60)
        assert "its worker process ended unexpectedly" in outcome.error
        assert outcome.again
        engine.submit(call(tmp_path, "fine", finetuning(Path("-"))))
        (outcome,) = engine.wait(120)
        assert outcome.record is not None
    finally:
        engine.close()


PARENT = """
import os, signal, sys
sys.path.insert(0, {here!r})
from pathlib import Path

if __name__ == "__main__":
    if {early}:  # while the fork server imports the libraries
        import threading
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGKILL)).start()
    from lightning_tl.study.local_engine import LocalEngine
    from study.calls import call
    from training import pretraining
    engine = LocalEngine(2)
    out = Path({out!r})
    for name in ("a", "b"):
        engine.submit(call(out, name, pretraining(Path({renders!r}), Path("-"), "--trainer.max_steps=1000000")))
    while not all((out / name / "state.json").exists() for name in ("a", "b")):
        engine.wait(0.1)
    print("training", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("early", [pytest.param(False, marks=pytest.mark.slow), True])
def test_no_worker_outlives_a_killed_parent(renders, tmp_path, early):
    script = tmp_path / "script.py"
    script.write_text(PARENT.format(here=str(HERE), out=str(tmp_path), renders=str(renders), early=early))
    # every descendant holds the pipe's writing end open: it is at its end when the last of them is gone
    reader, writer = os.pipe()
    process = subprocess.Popen([sys.executable, script], stdout=writer, stderr=subprocess.DEVNULL)
    os.close(writer)
    text = b""
    while True:
        alive = process.poll() is None
        ready, _, _ = select.select([reader], [], [], 0.1 if alive else 10)
        assert ready or alive, "a process still runs ten seconds after its parent was killed"
        if not ready:
            continue
        chunk = os.read(reader, 1000)
        if not chunk:
            break
        text += chunk
    os.close(reader)
    assert process.wait() == -signal.SIGKILL
    assert text == (b"" if early else b"training\n")
