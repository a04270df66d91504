"""The page on studies: its study is planned as written, its logger is taken, its names exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from shipped import planned, read

from lightning_tl.cli.main import main
from lightning_tl.laws.law_options import LawOptions

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/study.md").read_text()
EXAMPLE, UNTIL, LOGGER = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)


def test_the_example_is_planned(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(EXAMPLE)
    study = read(path)
    runs = planned(study, tmp_path)
    starts = {run.name: run for run in runs if run.stage == "pretrain"}
    assert len(starts) == 2 * 4
    fine = [run for run in runs if run.stage == "finetune"]
    assert len(fine) == 3 + 8 * 3 - 4  # from scratch, all, those left out
    assert {run.render for run in starts.values()} == {"with", "without"}
    assert study.law == LawOptions(target_error=0.1)


def test_the_example_in_steps(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(EXAMPLE + UNTIL)
    study = read(path)
    study.check()
    assert study.until is not None
    assert study.until.question == "more_or_different"


def test_another_logger_by_configuration(tmp_path, capsys):
    (tmp_path / "wandb.yaml").write_text(LOGGER)
    command = ["fit", "--config=pretrain/mulclass_small", f"--config={tmp_path / 'wandb.yaml'}", "--print_config"]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "project: pairs" in said
    assert "WandbLogger" in said
    assert "CSVLogger" not in said


def test_all_shipped_studies_are_on_the_page():
    names = {path.stem for path in (ROOT / "configs/study").glob("*.yaml")}
    shipped = {name for name in names if name.removesuffix("_small") not in names - {name}}  # a twin has no row
    assert shipped == set(re.findall(r"^\| `study/(\w+)`", PAGE, re.M))
    for name in re.findall(r"\]\((\w+\.md)\)", PAGE):
        assert (ROOT / "docs" / name).is_file()


def test_the_example_of_ways_of_fine_tuning_is_planned(tmp_path):
    page = (ROOT / "docs/transfer.md").read_text()
    text = next(block for block in re.findall(r"```yaml\n(.*?)```", page, re.S) if "analysis: transfer" in block)
    stages = "pretrain: {config: pretrain/small_images, set: {data.root: renders, data.n: 64}}\n"
    path = tmp_path / "study.yaml"
    path.write_text(stages + text.replace("finetune:\n", "finetune:\n  config: finetune/digits\n"))
    study = read(path)
    fine = [run for run in planned(study, tmp_path) if run.stage == "finetune"]
    assert len(fine) == (3 + 1) * 3 * 5  # from scratch only one of the methods
