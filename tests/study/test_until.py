"""What is wrong with `until` is one clear error, before anything runs."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import yaml
from study.shipped import CONFIGS, read
from study.small_study import write
from study.stepped import study

from lightning_tl.cli import study as command
from lightning_tl.errors import UserError
from lightning_tl.study.config import OvertrainingOptions, Stage
from lightning_tl.study.curves import curves_of
from lightning_tl.study.expansion import expand
from lightning_tl.study.until import Until


@pytest.mark.parametrize(
    "until,words",
    [
        ({"confidence": 1.0}, "until: confidence is 1; give a share of right decisions from 0.5 to below 1"),
        ({"at": 0}, "until: the question is asked for n = 0; give a number of images over 0"),
        (
            {"question": "target"},
            "until: question target needs the error to reach, such as 0.05",
        ),
        ({"question": "target", "target": 1.5}, "until: target error 1.5 is not between 0 and 1"),
        ({"question": "best", "target": 0.1}, "until: target is 0.1, but the question is best: give question: target"),
        ({"question": "best", "within": 1.0}, "until: within is 1; give a share of the error from 0 to below 1"),
        ({"zone": -0.1}, "until: zone is -0.1; give a share of the reduction"),
        ({"noise": 2.0}, "until: noise is 2; give the relative scatter of the error, such as 0.02"),
        ({"cost_per_run": 0}, "until: cost per run or per draw is 0; every run costs something"),
        ({"cost_per_image": -1}, "until: per image is -1; a cost is a number from 0 on"),
        ({"budget": 0}, "until: budget is 0; it must be over 0, or null for no limit"),
        ({"max_hours": float("nan")}, "until: max_hours is nan; it must be over 0, or null for no limit"),
        ({"max_runs": 0}, "until: max_runs is 0; it must be at least 1, or null"),
        ({"batch": 0}, "until: batch is 0; it must be at least 1, or null"),
        ({"least_sizes": -1}, "until: least_sizes is -1; it must be at least 0"),
    ],
)
def test_values_out_of_range(until, words):
    with pytest.raises(UserError, match=re.escape(words)):
        study(Until(**until)).check()


def test_studies_that_cannot_be_run_in_steps():
    given = study(Until())
    for changes, words in (
        (
            {"pretrain": None, "finetune": Stage("finetune/digits")},
            "until: it decides which pre-trainings to run, and there is no pretrain stage",
        ),
        (
            {"until": Until("negative_transfer"), "scratch": False},
            "until: negative_transfer compares with runs without pre-training: leave scratch: true",
        ),
        (
            {"analysis": "overtraining", "forgetting": True, "overtraining": OvertrainingOptions()},
            "until: analysis: overtraining needs the whole grid; leave one of the two out",
        ),
        (
            {"finetune": replace(given.finetune, product={"data.shots": [1, 2]}, same=[])},
            "until: fine-tuning varies data.shots, so that one pre-training would belong to several curves; give it "
            "one value under finetune.set",
        ),
    ):
        with pytest.raises(UserError, match=re.escape(words)):
            replace(given, **changes).check()


@pytest.mark.parametrize(
    "until,changes,words",
    [
        (
            {"budget": 5, "cost_per_image": 0.1},
            {},
            "until: budget is 5, and the cheapest pre-training costs 7.4; raise",
        ),
        (
            {"max_runs": 5},
            {},
            "until: max_runs is 5, and more_or_different is not decided for 2 curves with fewer than 6",
        ),
        (
            {},
            {"sizes": (64, 128), "seeds": (0,)},
            "until: resnet10_w8 has 2 pre-trainings, and more_or_different is not decided with fewer than 3; give it",
        ),
        ({"least_sizes": 7}, {}, "until: least_sizes is 7, and resnet10_w8 has 6; add values to data.n"),
        ({"question": "best"}, {"widths": ()}, "until: best compares curves, and there is one; vary the rendering"),
        ({}, {"sizes": (64, 0, 128)}, "until: data.n of a pre-training is 0; give sizes as an axis"),
        ({}, {"sizes": (64, "many")}, "until: data.n of a pre-training is 'many'; give sizes as an axis"),
    ],
)
def test_too_few_candidates(until, changes, words):
    with pytest.raises(UserError, match=re.escape(words)):
        curves_of(expand(study(Until(**until), **changes)))


def test_a_pre_training_without_size_or_fine_tuning():
    given = study(Until())
    given.pretrain = Stage("pretrain/small_images", {"data.root": "renders"}, {"seed_everything": [0, 1, 2]})
    given.finetune = Stage("finetune/digits")
    with pytest.raises(UserError, match=r"until: data.n of a pre-training is None; give sizes as an axis"):
        curves_of(expand(given))
    given = study(Until(), widths=())
    given.finetune.exclude = [{"pretrain.data.n": 64}]
    with pytest.raises(UserError, match=r"until: the pre-training pretrained, n = 64 has no fine-tuning: exclude it"):
        curves_of(expand(given))


@pytest.mark.parametrize(
    "until,words",
    [
        ({"question": "bset"}, "bset"),
        ({"confidnce": 0.9}, "confidnce"),
        ({"confidence": "high"}, "high"),
        ("best", "best"),
        ({"max_runs": 2.5}, "2.5"),
    ],
)
def test_wrong_keys_and_kinds_are_named(tmp_path, renders, until, words):
    path = write(tmp_path, renders, until=until)
    with pytest.raises(UserError, match=re.escape(words)) as error:
        command.main(["run", f"--config={path}", f"--out={tmp_path / 'out'}", "--dry-run"])
    assert "until" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_dry_run_shows_the_candidates_and_what_comes_first(tmp_path, renders, capsys):
    path = write(tmp_path, renders, sizes=(8, 16, 24), until={"question": "more_or_different"})
    settings = yaml.safe_load(path.read_text())
    settings["pretrain"]["product"]["seed_everything"] = [0, 1]
    path.write_text(yaml.safe_dump(settings))
    assert command.main(["run", f"--config={path}", f"--out={tmp_path / 'out'}", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "in steps, until more_or_different is decided at n = 24; pre-trainings to choose:" in said
    assert "  pretrained: n = 8 (2 seeds), 16 (2 seeds), 24 (2 seeds)\n" in said
    assert said.count("Next: pretrained, n = ") == 2
    assert "6 pre-trainings:" in said
    assert not (tmp_path / "out").exists()


def test_the_quickstart_in_steps_and_as_a_grid():
    path = CONFIGS / "study/quickstart.yaml"
    steps = read(path, "--until.confidence=0.95")
    assert steps.until is not None
    assert (steps.until.confidence, steps.until.least_sizes) == (0.95, 4)
    assert len(curves_of(expand(steps)).candidates) == 12
    assert read(path, "--until=null").until is None
