"""`lightning-tl render` with a renderer that fails (the farm's own tests have the rest)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from small_render import CONFIG

from data_gen import farm, local_pool
from lightning_tl.cli.main import main

FAKE = Path(__file__).parents[1] / "data_gen" / "fake_worker.py"


@pytest.fixture
def command(tmp_path, monkeypatch):
    monkeypatch.setattr(local_pool, "worker_arguments", lambda: [str(FAKE)])
    monkeypatch.setattr(farm, "check_environment", lambda: None)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    out = tmp_path / "out"
    return ["render", f"--config={tmp_path / 'config.yaml'}", f"--out={out}", "--images=12", "--workers=1"]


def manifest(tmp_path):
    return json.loads((tmp_path / "out" / "train" / "manifest.json").read_text())


@pytest.mark.parametrize("fault", ["FAKE_RAISE", "FAKE_KILL"])
def test_a_scene_that_fails_is_left_out_by_skip(command, tmp_path, monkeypatch, capsys, fault):
    monkeypatch.setenv(fault, "train2")
    assert main([*command, "--on-error", "skip"]) == 0
    assert "skipped in train: 1 scenes that could not be rendered (2)" in capsys.readouterr().err
    assert manifest(tmp_path)["skipped"] == [2]
    assert [shard["images"] for shard in manifest(tmp_path)["shards"]] == [4, 6]


@pytest.mark.parametrize("option", [[], ["--on_error=continue"]])
def test_other_shards_are_rendered_by_continue_and_the_same_command_mends_it(
    command, tmp_path, monkeypatch, capsys, option
):
    monkeypatch.setenv("FAKE_KILL", "train2")
    assert main([*command, *option]) == 2
    said = capsys.readouterr().err
    assert "scene 2 of train (seed 0) cannot be rendered" in said
    assert f"-m data_gen.reproduce {tmp_path / 'out'} --split train --scene 2" in said
    assert "Traceback" not in said
    assert (tmp_path / "out/train/shards/000001.tar").exists()
    monkeypatch.delenv("FAKE_KILL")
    assert main([*command, *option]) == 0
    assert [shard["images"] for shard in manifest(tmp_path)["shards"]] == [6, 6]
    assert "skipped" not in manifest(tmp_path) or not manifest(tmp_path)["skipped"]


def test_another_word(command, capsys):
    assert main([*command, "--on-error=ignore"]) == 2
    assert "ignore" in capsys.readouterr().err
