"""What a study notes of the networks between the pre-trained and the fine-tuned one."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from training import finetuning, pretraining

from lightning_tl.study.collect import collect
from lightning_tl.study.plan_items import Run
from lightning_tl.study.runs import Call, do_run
from lightning_tl.transfer import evaluation

pytestmark = pytest.mark.filterwarnings("ignore")

WISEFT = "--model.transfer={class_path: WiSEFT, init_args: {alphas: [0, 0.5, 1]}}"


def done(out: Path, name: str, args: list[str], start: str | None = None) -> dict:
    args = [text for text in args[1:] if "default_root_dir" not in text]
    if start is not None:
        args.append(f"--model.init_from={out / start}/checkpoints/best.ckpt")
    paths = {"folder": str(out / name), "locks": str(out / "locks"), "targets": str(out / "targets")}
    fine = start is not None
    begin = str(out / start) if start else None
    outcome = do_run(Call(name, key=name, args=tuple(args), test=fine, start=begin, forgetting=fine, **paths))
    assert outcome.error is None, outcome.error
    return outcome.record


def finetuned(name: str) -> Run:
    return Run(name, name, "finetune", {}, (), None, None, name)


@pytest.mark.slow
def test_errors_and_pretraining_losses_of_both_ends(renders, tmp_path, monkeypatch):
    """They are those that are measured without interpolation."""
    monkeypatch.setattr(evaluation, "IMAGES", 64)
    done(tmp_path, "pre", pretraining(renders, Path("-")))
    record = done(tmp_path, "fine", finetuning(Path("-"), WISEFT), "pre")
    plain = done(tmp_path, "plain", finetuning(Path("-")), "pre")
    first, middle, last = record["interpolations"]
    facts = record["facts"]
    assert first["pretrain_loss"] == pytest.approx(facts["pretrain_loss_before"], rel=1e-6)
    assert last["pretrain_loss"] == pytest.approx(facts["pretrain_loss_after"], rel=1e-6)
    assert middle["pretrain_loss"] not in (first["pretrain_loss"], last["pretrain_loss"])
    assert record["metrics"] == plain["metrics"]  # the network that is tested is the fine-tuned one
    assert all(0 < row["error"] < 1 and 0 < row["val_error"] < 1 for row in (first, middle, last))
    assert facts["transfer"] == "wiseft(alphas=[0 0.5 1])"
    with (tmp_path / "fine/interpolations.csv").open() as file:
        assert [set(row) for row in csv.DictReader(file)] == [{"alpha", "val_error", "error", "pretrain_loss"}] * 3


def test_the_table_of_a_study(tmp_path):
    rows = [{"alpha": 0.0, "val_error": 0.5, "error": 0.6, "pretrain_loss": 0.1}, {"alpha": 1.0, "val_error": 0.2}]
    facts = {"facts": {}, "metrics": {}, "seconds": 1.0}
    runs = [finetuned("a"), finetuned("b"), finetuned("not run")]
    collect(runs, [], {"a": {**facts, "interpolations": rows}, "b": facts}, tmp_path)
    with (tmp_path / "interpolations.csv").open() as file:
        assert file.read() == "run_id,alpha,val_error,error,pretrain_loss\na,0.0,0.5,0.6,0.1\na,1.0,0.2,,\n"
    collect(runs[1:], [], {"b": facts}, tmp_path / "none")
    assert not (tmp_path / "none/interpolations.csv").exists()
