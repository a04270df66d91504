"""Resuming by a file, by ``last`` and by ``hpc``; and what a method needs of the pre-training then."""

from __future__ import annotations

import csv
import shutil

import pytest
import torch
import yaml
from training import equal, finetuning, pretraining, state

from lightning_tl.errors import UserError
from lightning_tl.pretraining_files import load_pretrained, pretraining_config
from lightning_tl.run import run
from lightning_tl.tasks import Classification
from lightning_tl.transfer import EWC, Replay
from lightning_tl.transfer.pretraining import UsesPretraining

pytestmark = pytest.mark.filterwarnings("ignore")

PULL = "--model.transfer={class_path: L2SP, init_args: {strength: 1.0}}"
SHORT = ("--model.scheduler=null", "--trainer.log_every_n_steps=1", "--trainer.num_sanity_val_steps=0")


@pytest.fixture
def start(tmp_path):
    torch.manual_seed(1)
    path = tmp_path / "start.ckpt"
    torch.save(Classification(3, "resnet10_w16", 1).state_dict(), path)
    return path


def test_every_way_to_name_the_checkpoint(start, tmp_path):
    def args(name, steps):
        return finetuning(tmp_path / name, f"--model.init_from={start}", PULL, *SHORT, f"--trainer.max_steps={steps}")

    whole = run([*args("whole", 2), "--ckpt_path=last"])  # there is none yet: a new run, from init_from
    assert whole.model.key_report is not None
    last = tmp_path / "whole/checkpoints/last.ckpt"
    for name in ("last", "file", "hpc"):
        shutil.copytree(tmp_path / "whole", tmp_path / name)
    last.rename(tmp_path / "hpc/hpc_ckpt_1.ckpt")
    start.unlink()
    given = {"last": "last", "file": tmp_path / "file/checkpoints/last.ckpt", "hpc": "hpc"}
    resumed = {name: run([*args(name, 4), f"--ckpt_path={place}"]) for name, place in given.items()}
    for name, cli in resumed.items():
        assert cli.trainer.global_step == 4
        assert cli.model.key_report is None
        assert equal(state(cli.model), state(resumed["file"].model))
        with (tmp_path / name / "metrics.csv").open() as file:
            steps = [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]]
        assert steps == [0, 1, 2, 3], name


@pytest.mark.parametrize("name", ["hpc", "best"])
def test_a_name_without_a_checkpoint(start, tmp_path, name):
    with pytest.raises(UserError, match=f"--ckpt_path {name}: found no such checkpoint; give the file"):
        run(finetuning(tmp_path / "out", f"--model.init_from={start}", *SHORT, f"--ckpt_path={name}"))


def test_a_pretraining_on_other_machines(renders, tmp_path, monkeypatch):
    """Its trainer is made anew for its task and data: on this CPU, without its loggers and callbacks."""
    run(pretraining(renders, tmp_path / "pre", "--trainer.max_steps=1", "--model.scheduler.warmup_steps=0"))
    path = tmp_path / "pre/config.yaml"
    config = yaml.safe_load(path.read_text())
    config["trainer"] |= {
        "accelerator": "cuda",
        "devices": 8,
        "num_nodes": 2,
        "strategy": "ddp",
        "precision": "16-mixed",
        "logger": {"class_path": "lightning.pytorch.loggers.CometLogger"},
        "callbacks": [{"class_path": "lightning.pytorch.callbacks.DeviceStatsMonitor"}],
    }
    path.write_text(yaml.safe_dump(config))
    trainers = []
    take = UsesPretraining.use_pretraining
    monkeypatch.setattr(
        UsesPretraining,
        "use_pretraining",
        lambda self, task, data: (trainers.append(task._trainer), take(self, task, data))[1],
    )
    begin = f"--model.init_from={tmp_path}/pre/checkpoints/last.ckpt"
    method = "--model.transfer={class_path: Replay, init_args: {share: 0.5}}"
    done = run(finetuning(tmp_path / "fine", begin, method, *SHORT, "--trainer.max_steps=1"))
    assert done.trainer.global_step == 1
    assert len(trainers) == 1


def test_what_a_method_needs_is_missing(start, tmp_path):
    with pytest.raises(UserError, match=r"transfer Replay: config is nowhere\.yaml, and there is no such file"):
        pretraining_config(Replay(0.5, config="nowhere.yaml"), str(start))
    with pytest.raises(
        UserError, match=r"transfer EWC: there is no .*config\.yaml, the configuration of the pre-train"
    ):
        pretraining_config(EWC(1.0), str(start))
    (tmp_path / "mine.yaml").touch()
    assert pretraining_config(Replay(0.5, config=tmp_path / "mine.yaml"), str(start)) == tmp_path / "mine.yaml"
    with pytest.raises(
        UserError, match=r"transfer EWC needs the pre-training's network, also to resume: .*no such file"
    ):
        load_pretrained(Classification(3, "resnet10_w16", 1), str(tmp_path / "gone.ckpt"), "transfer EWC")
    for other, words in (
        (Classification(3, "resnet10_w8", 1), r"configuration: backbone\.\S+ is \[16, .* there and \[8, .* here"),
        (Classification(3, "resnet18", 1), r"configuration: only one of the two has backbone\."),
    ):
        with pytest.raises(UserError, match=rf"transfer EWC: \S+start\.ckpt is not of the network of the .*{words}"):
            load_pretrained(other, str(start), "transfer EWC")
