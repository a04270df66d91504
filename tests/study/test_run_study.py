"""Whole studies through the command line: killed and run again, two at once, one run that fails, how far it is."""

from __future__ import annotations

import csv
import json
import random
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from study.small_study import SMALL, kill_after, records, rows, run, write

from lightning_tl.cli import study as command
from lightning_tl.errors import UserError
from lightning_tl.tasks.image_results import bootstrap_weights


@pytest.fixture(scope="module")
def finished(renders, tmp_path_factory):
    """A study that two commands at once have run, neither interrupted. Of its data the last shard, not read, is bad."""
    folder = tmp_path_factory.mktemp("study")
    own = Path(shutil.copytree(renders, folder / "renders"))
    sorted((own / "train" / "shards").glob("*.tar"))[-1].write_bytes(b"not a shard")
    path, out = write(folder, own), folder / "out"
    both = [subprocess.Popen(run(path, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    said = [process.communicate(timeout=500) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    return path, out, said


@pytest.mark.slow
def test_two_commands_share_the_work(finished):
    _, out, _ = finished
    assert len(records(out)) == 2 + 2 + 2 * 2
    logs = [(out / "runs" / name / "log.txt").read_text() for name in records(out)]
    assert [log.count("`Trainer.fit` stopped") for log in logs] == [1] * len(logs)  # each was trained once
    for name in ("results.csv", "measurements.csv", "study.json", "fits.json", "report.html", "report.md"):
        assert (out / name).stat().st_size > 0


def test_the_table(finished):
    found = rows(finished[1])
    assert len(found) == 6
    assert sorted(row["pretrain_images"] for row in found) == ["0", "0", "24", "24", "8", "8"]
    for row in found:
        assert float(row["error"]) == pytest.approx(1 - float(row["score"]), abs=2e-6)
        assert (row["finetune_task"], row["metric"], row["backbone"]) == ("sinclass", "accuracy", "resnet10_w16")
        assert (row["pretrain_task"] == "mulclass") == (row["pretrain_images"] != "0")
        logged = json.loads((finished[1] / "runs" / row["run_id"] / "record.json").read_text())["metrics"]
        for column, metric in (
            ("error", "test/error"),
            ("val_error", "val/error"),
            ("finetune_loss", "test/loss"),
            ("val_finetune_loss", "val/loss"),
        ):
            assert float(row[column]) == pytest.approx(logged[metric], rel=1e-6)
        assert row["finetune_loss"] != row["val_finetune_loss"]
    assert {row["draw_seed"] for row in found} == {"0", "1"}


def test_errors_over_test_images(finished):
    """Against what is kept of each image; runs on the same test images have the same hash and the same samples."""
    _, out, _ = finished
    with (out / "error_replicates.csv").open(newline="") as file:
        replicates = {row.pop("run_id"): np.array(list(row.values()), float) for row in csv.DictReader(file)}
    found = rows(out)
    assert replicates.keys() == {row["run_id"] for row in found}
    assert len({row["test_set"] for row in found}) == 1
    for row in found:
        with np.load(out / "runs" / row["run_id"] / "test_images.npz") as kept:
            right = kept["sums"][:, 0]
        assert float(row["score"]) == pytest.approx(right.mean(), abs=1e-6)
        weights = bootstrap_weights(len(right), len(replicates[row["run_id"]]))
        assert replicates[row["run_id"]] == pytest.approx(1 - weights @ right / len(right), abs=1e-6)
        assert float(row["error_stderr"]) == pytest.approx(replicates[row["run_id"]].std(ddof=1), rel=1e-4)


@pytest.mark.slow
def test_killed_and_run_again_it_ends_with_the_same_table(finished, tmp_path):
    path, out = write(tmp_path, finished[0].parent / "renders"), tmp_path / "out"
    kill_after(run(path, out), out, 2)
    before = records(out)
    assert 2 <= len(before) < 8
    done = subprocess.run(run(path, out), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert {name: records(out)[name] for name in before} == before
    assert rows(out) == rows(finished[1])


def test_one_run_that_fails_leaves_the_others_and_is_told(finished, tmp_path, capfd):
    path, out, _ = finished
    own = tmp_path / "out"
    shutil.copytree(out, own)
    settings = yaml.safe_load(path.read_text())
    settings["pretrain"]["product"]["data.n"] = [8, 24, 60]
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(settings))
    before = records(own)
    assert command.main(["run", f"--config={tmp_path / 'study.yaml'}", f"--out={own}"]) == 1
    said = capfd.readouterr().out
    assert "failed: pretrain-n60-" in said
    assert "corrupted" in said
    assert "failed: finetune-n60-draw1-" in said
    assert "not run, as pretrain-n60-" in said
    assert records(own) == before  # nothing that was done was done again
    assert "corrupted" in (own / "report.html").read_text()
    assert command.main(["status", f"--config={tmp_path / 'study.yaml'}", f"--out={own}"]) == 1
    said = capfd.readouterr().out
    assert "11 runs: 8 done, 3 failed" in said  # two of them not run, as their pre-training failed
    assert "corrupted" in said


def test_where_no_fine_tuning_is_done_the_failures_are_named(tmp_path, capfd):
    finetune = {"config": "finetune/digits", "set": {"model.optimizer.lr": 1e30}, "product": {"data.shots": [1, 2]}}
    settings = {"finetune": finetune, "workers": 1}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(settings))
    out = tmp_path / "out"
    assert command.main(["run", f"--config={tmp_path / 'study.yaml'}", f"--out={out}"]) == 1
    said = capfd.readouterr()
    for shots in (1, 2):
        assert f"failed: finetune-scratch-shots{shots}-" in said.out
        assert "lower model.optimizer.lr" in said.out
        assert "lower model.optimizer.lr" in (out / "report.html").read_text()
    assert "no rows" not in said.err


def test_where_nothing_is_pre_trained_there_is_a_table_and_no_law(tmp_path, capsys, monkeypatch):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({"finetune": {"config": "finetune/digits"}}))
    (tmp_path / "results.csv").write_text("run_id,pretrain_images,transfer,error\nfinetune-scratch,0,full,0.2\n")
    monkeypatch.setattr("lightning_tl.study.run_study.run_study", lambda study, out: {})
    assert command.main(["run", f"--config={tmp_path / 'study.yaml'}", f"--out={tmp_path}"]) == 0
    assert f"pre-trains nothing: its results are in {tmp_path / 'results.csv'}" in capsys.readouterr().out


def test_status_of_a_study_that_is_done_or_not_begun(finished, tmp_path, capsys):
    path, out, _ = finished
    assert command.main(["status", f"--config={path}", f"--out={out}", "--all"]) == 0
    said = capsys.readouterr().out
    assert "8 runs: 8 done" in said
    assert said.count(" error 0.") == 8
    assert command.main(["status", f"--config={path}", f"--out={tmp_path / 'none'}"]) == 0
    assert "8 runs: 8 waiting" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv,words",
    [
        (["rum"], r"no action 'rum' of lightning-tl study; did you mean 'run'"),
        (["run", "--config=study/none"], "no such file, and no shipped configuration of this name"),
        (["run", "--finetune.confg=x"], "unknown option|unknown key"),
        (["run", "--finetune.config=finetune/digits", "--scratch=false"], "nothing to run"),
        (["run", "--finetune.config=finetune/digits", "--engine=slurm"], "slurm"),
    ],
)
def test_wrong_commands_are_one_message(argv, words, tmp_path):
    with pytest.raises(UserError, match=words):
        command.main([*argv, f"--out={tmp_path}"] if len(argv) > 1 else argv)


def test_status_is_watched_until_all_runs_have_ended(finished, tmp_path, capsys, monkeypatch):
    path, out, _ = finished
    own = tmp_path / "out"
    shutil.copytree(out, own)
    record = next((own / "runs").glob("finetune-*/record.json"))
    record.rename(tmp_path / "away")
    slept = []

    def another_process_ends_the_run(seconds):
        slept.append(seconds)
        (tmp_path / "away").rename(record)

    monkeypatch.setattr(command.time, "sleep", another_process_ends_the_run)
    assert command.main(["status", f"--config={path}", f"--out={own}", "--watch=7"]) == 0
    said = capsys.readouterr().out
    assert slept == [7]
    assert said.index("8 runs: 7 done") < said.index("8 runs: 8 done")
    with pytest.raises(UserError, match=r"--watch is -1; it must be at least 0 seconds"):
        command.main(["status", f"--config={path}", f"--out={own}", "--watch=-1"])


@pytest.mark.slow
def test_ten_kills(renders, tmp_path):
    """Twelve pre-trainings and more, killed ten times after 0 to 2 further records: the table of one never killed."""
    tables = []
    for name, kills in (("whole", 0), ("killed", 10)):
        folder = tmp_path / name
        folder.mkdir()
        path, out = write(folder, renders, sizes=(4, 8, 12, 16), draws=(0, 1, 2)), folder / "out"
        rng = random.Random(0)
        for _ in range(kills):
            before = records(out)
            kill_after(run(path, out), out, rng.randint(0, 2))
            assert before.items() <= records(out).items()
        done = subprocess.run(run(path, out), capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr
        tables.append(rows(out))
    assert tables[0] == tables[1]


@pytest.mark.render
def test_the_quickstart_small_with_real_renders(tmp_path):
    """The shipped study on tiny sizes, rendered by Blender: every file that the README speaks of."""
    scene = {"image": {"size": 24, "samples": 1}, "camera": {"views": 2}, "scenes_per_shard": 4, "appearance": "single"}
    configs = []
    for name in ("digits", "shapes"):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(scene | {"categories": [name]}))
        configs.append(str(tmp_path / f"{name}.yaml"))
    settings = yaml.safe_load((Path(__file__).parents[2] / "configs/study/quickstart.yaml").read_text())
    settings["render"] = {"product": {"config": configs}, "val_images": 8}
    settings["pretrain"]["set"] = SMALL | {"trainer.max_steps": 6, "data.steps_per_epoch": 3}
    settings["pretrain"]["product"]["data.n"] = [4, 8, 16]
    settings["until"] |= {"least_sizes": 3}
    settings["finetune"]["set"] = SMALL | {"trainer.max_steps": 4, "data.steps_per_epoch": 4, "data.shots": 1}
    settings["finetune"]["zip"] = [{"data.draw": [0], "seed_everything": [0]}]
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(settings | {"workers": 2}))
    out = tmp_path / "out"
    done = subprocess.run(run(tmp_path / "study.yaml", out), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    found = rows(out)
    assert len(found) == 2 * (3 + 1)  # three of each are needed, and there are no more
    assert {row["render"] for row in found} == {"digits", "shapes"}
    assert len({row["run_id"] for row in found}) == 7  # scratch stands once for each rendering
    for name in ("report.html", "renders/digits/sheet.png", "renders/shapes/sheet.png"):
        assert (out / name).stat().st_size > 0
    assert len(list((out / "targets").glob("*-sinclass.png"))) == 1
    page = (out / "report.html").read_text()
    assert "chosen once" in page
    assert "How it was decided" in page
    assert "with 6 of 6 pre-trainings" in page
