"""The trials of `study plan`: which are made, and one clear message where one fails."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path

import pytest
import yaml
from small_render import CONFIG
from study.shipped import CONFIGS
from study.small_study import write

from data_gen import farm, local_pool
from lightning_tl.errors import UserError
from lightning_tl.study.plan_items import DataSet
from lightning_tl.study.trials import _results, filling, render_trial, spread

FAKE = Path(__file__).parents[1] / "data_gen" / "fake_worker.py"

#: A task whose training fails at its third step.
BROKEN = """
from lightning_tl.tasks import MultiLabelClassification

class Broken(MultiLabelClassification):
    def training_step(self, batch, batch_idx):
        if batch_idx == 2:
            raise ZeroDivisionError("no images left")
        return super().training_step(batch, batch_idx)
"""


def test_of_many_some_at_equal_distances_and_no_worker_is_idle():
    assert spread("abc", 4) == ["a", "b", "c"]
    assert spread("abcdefgh", 4) == ["b", "d", "f", "h"]
    assert spread("abcdefghi", 3) == ["b", "e", "h"]
    assert filling(["a"], 3) == ["a", "a", "a"]
    assert filling(["a", "b", "c"], 2) == ["a", "b", "c"]
    assert filling([], 2) == []


def planned(path: Path, out: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lightning_tl.cli.main", "study", "plan", f"--config={path}", f"--out={out}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=500, env=os.environ | environment)


@pytest.mark.slow
def test_a_training_that_fails_is_named_with_its_stage(tmp_path, renders):
    (tmp_path / "broken_task.py").write_text(BROKEN)
    path = write(tmp_path, renders)
    settings = yaml.safe_load(path.read_text())
    recipe = (CONFIGS / "pretrain/small_images.yaml").read_text()
    (tmp_path / "broken.yaml").write_text(recipe.replace("MultiLabelClassification", "broken_task.Broken"))
    settings["pretrain"]["config"] = str(tmp_path / "broken.yaml")
    path.write_text(yaml.safe_dump(settings))
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = planned(path, tmp_path / "out", PYTHONPATH=paths)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "the trial of pretrain failed: ZeroDivisionError: no images left" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_data_that_cannot_be_read(tmp_path, renders):
    own = Path(shutil.copytree(renders, tmp_path / "renders"))
    for shard in (own / "train" / "shards").glob("*.tar"):
        shard.write_bytes(b"not a shard")
    done = planned(write(tmp_path, own), tmp_path / "out")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "the trial of pretrain failed: " in done.stderr
    assert str(own / "train") in done.stderr
    assert "Traceback" not in done.stderr


def test_a_rendering_that_fails_is_named_with_its_reason(tmp_path, monkeypatch):
    """Without the hint of how to see the scene: the folder of a trial is gone by then."""
    monkeypatch.setattr(local_pool, "worker_arguments", lambda: [str(FAKE)])
    monkeypatch.setattr(farm, "check_environment", lambda: None)
    monkeypatch.setenv("FAKE_RAISE", "train0")
    data = DataSet("digits", {}, CONFIG, 12, 4)
    with pytest.raises(UserError, match=r"data_gen\.reproduce") as raised:
        render_trial(data, tmp_path / "digits")
    failed: Future[None] = Future()
    failed.set_exception(pickle.loads(pickle.dumps(raised.value)))  # as from another process
    with pytest.raises(UserError, match=r"^the trial of rendering digits failed: ") as error:
        _results("the trial of rendering", ["digits"], [failed])
    assert "reproduce" not in str(error.value)
    assert "\n" not in str(error.value)
    assert str(raised.value).splitlines()[-1].removeprefix("The first: ") in str(error.value)
