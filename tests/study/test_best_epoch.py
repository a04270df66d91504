"""``test_at: best``: the network of the lowest validation loss is tested, also where the run was interrupted."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from lightning.pytorch import Callback
from training import finetuning, weights

from lightning_tl.run import run
from lightning_tl.study import runs as module
from lightning_tl.study.runs import Call, do_run

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's remarks on short runs


def call(out: Path) -> Call:
    # a learning rate at which the loss does not only fall; a validation every two steps
    args = finetuning(
        Path("-"),
        "--data.steps_per_epoch=2",
        "--trainer.max_steps=16",
        "--model.optimizer.lr=0.05",
        "--model.scheduler=null",
    )
    given = tuple(text for text in args[1:] if "default_root_dir" not in text)
    paths = {"folder": str(out / "fine"), "locks": str(out / "locks"), "targets": str(out / "targets")}
    return Call("fine", key="key", args=given, test=True, start=None, test_at="best", **paths)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("best")
    outcome = do_run(call(out))
    assert outcome.error is None, outcome.error
    return out / "fine", outcome.record


def test_it_is_the_network_of_the_lowest_validation_loss(finished):
    folder, record = finished
    with (folder / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["val/loss"]]
    losses = {int(row["step"]) + 1: float(row["val/loss"]) for row in rows}
    lowest = min(losses, key=losses.__getitem__)
    assert lowest != 16, "the setting does not tell the two apart"
    assert record["facts"]["tested_step"] == lowest
    assert record["checkpoint"] == "checkpoints/best.ckpt"
    assert record["metrics"]["val/loss"] == pytest.approx(losses[lowest], rel=1e-6)
    cli = run(["test", f"--config={folder / 'config.yaml'}", "--trainer.logger=false"])
    cli.model.load_state_dict(weights(folder / "checkpoints/best.ckpt"))
    tested = cli.trainer.test(cli.model, cli.datamodule, verbose=False)[0]
    assert {name: record["metrics"][name] for name in tested} == pytest.approx(tested, rel=1e-6)


@pytest.mark.parametrize("step", [5, 13])
def test_an_interrupted_run_tests_the_same_network(finished, tmp_path, monkeypatch, step):
    class Stop(Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == step:
                raise RuntimeError("interrupted")

    with monkeypatch.context() as patched:
        patched.setattr(module, "_reporter", lambda *_: Stop())
        assert "interrupted" in do_run(call(tmp_path)).error
    # the note of the failure has replaced that of the running state, as a kill would not
    module.note_state(tmp_path / "fine", "key", status="running", spent=0.0)
    record = do_run(call(tmp_path)).record
    assert record["facts"] == finished[1]["facts"]
    assert record["metrics"] == pytest.approx(finished[1]["metrics"], abs=0)


def test_the_last_network_is_tested_unless_asked(tmp_path):
    record = do_run(replace(call(tmp_path), test_at="last")).record
    assert record["checkpoint"] == "checkpoints/last.ckpt"
    assert "tested_step" not in record["facts"]
