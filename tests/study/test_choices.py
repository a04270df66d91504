"""What a study chooses, and when its runs stop, depends on validation images only: the test images are sealed."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from sealed import BrokenSealError, Sealed, SealedFolder

from lightning_tl.data.transforms import CropTransform
from lightning_tl.study import run_study as module
from lightning_tl.study.config import Choice, Stage, Study
from lightning_tl.study.records import load_json
from lightning_tl.study.runs import do_run

pytestmark = pytest.mark.filterwarnings("ignore")
STEPS, EPOCH = 60, 4


class Here:
    """An engine that does each run at once, in this process."""

    def __init__(self) -> None:
        self.done = []

    @property
    def free(self) -> int:
        return 1

    def submit(self, call) -> None:
        self.done.append(do_run(call))

    def wait(self, seconds):
        done, self.done = self.done, []
        return done

    def close(self) -> None:
        pass


def write_images(root: Path) -> Path:
    """Bright and dark images under noise: 40 of each class to train on, 20 to test."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("val", 20)):
        for level, name in ((90, "dark"), (160, "bright")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.normal(level, 60, (24, 24, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


def write_overlay(path: Path) -> Path:
    """Checkpoints and early stopping by the validation error."""
    settings = {
        "trainer": {
            "callbacks": [
                {
                    "class_path": "ModelCheckpoint",
                    "init_args": {
                        "dirpath": "${trainer.default_root_dir}/checkpoints",
                        "filename": "best",
                        "monitor": "val/error",
                        "enable_version_counter": False,
                    },
                },
                {"class_path": "EarlyStopping", "init_args": {"monitor": "val/error", "patience": 2}},
            ]
        }
    }
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("choices")
    out = folder / "out"
    patched = pytest.MonkeyPatch()
    patched.setenv("SEALED_STUDY", str(out))
    patched.setattr(module, "_engine", lambda study: Here())
    study = Study(
        finetune=Stage(
            config=["finetune/digits", str(write_overlay(folder / "stopping.yaml"))],
            set={
                "data": "sealed.SealedFolder",
                "data.root": str(write_images(folder / "images")),
                "data.fraction": 0.5,
                "data.val_share": 0.25,
                "data.batch_size": 8,
                "data.steps_per_epoch": EPOCH,
                "data.transform": {"size": 24, "eval_resize": 24},
                "model.in_chans": 3,
                "trainer.max_steps": STEPS,
                "model.scheduler.warmup_steps": 2,
            },
            zip=[{"data.draw": [0, 1], "seed_everything": [0, 1]}],
        ),
        choose=Choice("model.optimizer.lr", [1e-6, 0.004]),
        law=None,
        retries=0,
    )
    Sealed.reads = 0
    failures = module.run_study(study, out)
    yield out, failures, Sealed.reads
    patched.undo()


@pytest.mark.slow
def test_no_choice_reads_a_test_image(finished):
    """Any early reading raises in the run, which then fails."""
    out, failures, reads = finished
    assert failures == {}
    chosen = load_json(out / "study.json")["chosen"]["scratch"]
    assert dict(chosen["tried"])[chosen["chosen"]] == min(value for _, value in chosen["tried"])
    assert len({value for _, value in chosen["tried"]}) == 2  # there was something to choose
    trials = [json.loads(path.read_text()) for path in out.glob("runs/trial-*/record.json")]
    assert len(trials) == 2
    for record in trials:
        assert "val/error" in record["metrics"]
        assert not any(name.startswith("test") for name in record["metrics"])
    assert reads == 2 * (40 + 8)  # in the end each of both runs reads all test images once, and eight for its picture


def test_the_runs_stopped_by_validation(finished):
    out, _, _ = finished
    steps = {
        path.parent.name: json.loads(path.read_text())["facts"]["steps"] for path in out.glob("runs/*/record.json")
    }
    assert len(steps) == 4
    assert min(steps.values()) < STEPS
    with (out / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    for row in rows:
        assert row["val_error"]
        assert row["error"]
        assert (out / "runs" / row["run_id"] / "checkpoints" / "best.ckpt").is_file()


def test_the_seal_holds(finished):
    """Reading a test image outside of a run's test does raise."""
    data = SealedFolder(finished[0].parent / "images", transform=CropTransform(size=24, eval_resize=24))
    data.setup("fit")
    list(data.val_dataloader())
    data.setup("test")
    with pytest.raises(BrokenSealError, match="was read before the end"):
        list(data.test_dataloader())


def test_a_study_that_is_tested_on_renders_says_so(finished, renders, tmp_path, monkeypatch):
    """Renders have no test part; the study's facts, which the report tells, name them."""
    monkeypatch.setattr(module, "_engine", lambda study: Here())
    settings = {"data.root": str(renders), "data.batch_size": 8, "data.steps_per_epoch": 2, "trainer.max_steps": 4}
    fine = Stage("pretrain/small_images", set=settings | {"model.scheduler.warmup_steps": 2})
    assert module.run_study(Study(finetune=fine, law=None), tmp_path / "out") == {}
    assert load_json(tmp_path / "out" / "study.json")["tested_on_validation"] == ["Rendered"]
    assert load_json(finished[0] / "study.json")["tested_on_validation"] == []
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["error"] == row["val_error"]
