"""A study's runs read the built-in texts of its beginning, and their keys name them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from lightning_tl.corpus import builtin
from lightning_tl.study.config import Stage, Study
from lightning_tl.study.expansion import expand
from lightning_tl.study.pinned_texts import with_pinned_texts
from lightning_tl.study.plan import plan


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setenv("LIGHTNING_TL_CACHE", str(tmp_path / "cache"))
    content = {"data": {"class_path": "Text", "init_args": {"root": "builtin:json", "tokenizer": "bytes"}}}
    (tmp_path / "pre.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "fine.yaml").write_text("data: {class_path: Text}\n")
    return Study(
        pretrain=Stage(str(tmp_path / "pre.yaml"), product={"data.n": [100, 200]}),
        finetune=Stage(str(tmp_path / "fine.yaml"), product={"data.root": ["builtin:json", "builtin:sympy", "texts"]}),
        law=None,
        scratch=False,
    )


def keys(study: Study, out: Path) -> list[str]:
    return [run.key for run in plan(expand(study), out)]


def test_later_installations_change_nothing(study, tmp_path, monkeypatch):
    pinned = with_pinned_texts(study, tmp_path / "out", record=True)
    root = pinned.pretrain.set["data.root"]
    assert root == builtin.pinned_source("builtin:json", "bytes") != builtin.pinned_source("builtin:json")
    json_text, sympy_text, folder = pinned.finetune.product["data.root"]
    assert json_text == builtin.pinned_source("builtin:json")
    assert sympy_text.startswith("builtin:sympy@")
    assert folder == "texts"
    arguments = [run.args for run in plan(expand(pinned), tmp_path) if run.stage == "pretrain"]
    assert all(f"--data.root={root}" in args for args in arguments)

    monkeypatch.setattr(builtin, "_VERSION", 2)  # as if other files were installed
    assert builtin.pinned_source("builtin:json", "bytes") != root
    again = with_pinned_texts(study, tmp_path / "out", record=True)
    assert keys(again, tmp_path) == keys(pinned, tmp_path)
    assert not set(keys(with_pinned_texts(study, tmp_path / "other"), tmp_path)) & set(keys(pinned, tmp_path))
    assert not (tmp_path / "other").exists()
    assert len(json.loads((tmp_path / "out/texts.json").read_text())["texts"]) == 3


def test_other_data_and_an_axis_of_tokenizers_stay_as_they_are(study, tmp_path):
    (tmp_path / "pre.yaml").write_text("data: {class_path: Digits, init_args: {root: digits}}\n")
    study.finetune.product = {"data.root": ["builtin:json"], "data.tokenizer": ["ascii", "bytes"]}
    assert with_pinned_texts(study, tmp_path / "out", record=True) == study
    assert not (tmp_path / "out").exists()


def test_a_class_given_by_its_name_reads_them_too(study, tmp_path):
    (tmp_path / "pre.yaml").write_text("data: Text\n")
    study.pretrain.set = {"data.root": "builtin:json"}
    study.finetune.set = {"data": "my.Text", "data.tokenizer": "bytes"}
    pinned = with_pinned_texts(study, tmp_path / "out")
    assert pinned.pretrain.set["data.root"] == builtin.pinned_source("builtin:json")
    assert pinned.finetune.product["data.root"][0] == builtin.pinned_source("builtin:json", "bytes")
