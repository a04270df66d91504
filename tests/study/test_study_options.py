"""Mistakes in a study's options are reported when its YAML is read, before anything runs."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path

import pytest
import yaml
from shipped import read

from lightning_tl.cli import law
from lightning_tl.cli import study as command
from lightning_tl.errors import UserError
from lightning_tl.laws.law_options import LawOptions
from lightning_tl.study.config import Stage, Study


def write_study(folder: Path, line: str) -> Path:
    path = folder / "study.yaml"
    path.write_text(f"finetune: {{config: finetune/digits}}\n{line}\n")
    return path


@pytest.mark.parametrize(
    "line,words",
    [
        (
            "law: {target_eror: 0.1}",
            r"law: unknown key 'target_eror' in the configuration; did you mean 'target_error'",
        ),
        ("law: {form: transfr}", r"law: form: .*did you mean 'transfer'"),
        ("law: {space: logs}", r"law: space: .*did you mean 'log'"),
        ("law: {loss: hubber}", r"law: loss: .*did you mean 'huber'"),
        ("law: {score_is: acuracy}", r"law: score_is: .*did you mean 'accuracy'"),
        ("law: {plots: pgn}", r"law: plots: .*did you mean 'png'"),
        ("law: {fix_d: pooling}", r"law: fix_d: .*did you mean 'pooled'"),
        ("law: {fix_d: -1}", r"law: D is fixed at -1; it must be over 0"),
        ("law: {fix_d: shared, space: linear}", r"law: D shared needs --space log"),
        ("law: {level: 95}", r"law: level is 95; give a confidence level"),
        ("law: {level: high}", r"law: level: .*high"),
        ("law: {bootstrap: -1}", r"law: bootstrap is -1"),
        ("law: {target_error: 5}", r"law: target error 5 is not between 0 and 1"),
        ("law: {budget: 5}", r"law: cost_per_image and budget go together"),
        ("law: {budget: 5, cost_per_image: 0}", r"law: cost per image is 0; it must be over 0"),
        ("complexity: {imagse: 5}", r"complexity: unknown key 'imagse' in the configuration; did you mean 'images'"),
        ("complexity: {images: 0}", r"complexity\.images is 0; it must be at least 1"),
        ("complexity: {size: -1}", r"complexity\.size is -1; it must be at least 1"),
        ("complexity: {standardize: imagenets}", r"complexity: standardize: .*did you mean 'imagenet'"),
        ("choose: {key: a, valeus: [1]}", r"choose: unknown key 'valeus' in the configuration; did you mean 'values'"),
        ("choose: {key: a, values: 1}", r"choose: values: .*1"),
        ("choose: {key: a, values: [1], metric: test/error}", r"choose\.metric is test/error.*validation"),
    ],
)
@pytest.mark.parametrize("action", ["run", "status"])
def test_a_mistake_is_reported_before_any_run(tmp_path: Path, action: str, line: str, words: str) -> None:
    path = write_study(tmp_path, line)
    with pytest.raises(UserError, match=words):
        command.main([action, f"--config={path}", f"--out={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "line", ["law: null", "law: {}", "law: {fix_d: 0.5, plots: none}", "law: {form: full+E, by: 'a,b'}"]
)
def test_options_of_the_law(tmp_path: Path, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_study(tmp_path, line)
    assert command.main(["status", f"--config={path}", f"--out={tmp_path / 'out'}"]) == 0
    assert "1 runs: 1 waiting" in capsys.readouterr().out


def test_the_command_has_the_same_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        law.main(["--help"])
    said = capsys.readouterr().out
    for option in fields(LawOptions):
        assert f"--{option.name} " in said


def test_a_study_is_read_back_from_what_its_report_says(tmp_path: Path) -> None:
    """The report prints the study of ``study.json`` as YAML, to run it again."""
    study = Study(finetune=Stage(config="finetune/digits"), law=LawOptions(fix_d=0.5, form="full+E", plots="none"))
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(asdict(study), sort_keys=False))
    assert read(str(tmp_path / "study.yaml")) == study
