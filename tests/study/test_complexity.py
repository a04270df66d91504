"""How complex each rendering is: as the command of data sets says, measured once, in the table and the report."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch

from lightning_tl.errors import UserError
from lightning_tl.inspection.complexity_report import complexity
from lightning_tl.models import build_backbone
from lightning_tl.study.collect import collect
from lightning_tl.study.complexity import measure_complexity
from lightning_tl.study.config import Complexity, RenderStage, Stage, Study
from lightning_tl.study.plan_items import DataSet, Run
from lightning_tl.study.report_page import write_report
from lightning_tl.study.run_study import run_study


@pytest.fixture
def done(renders, tmp_path):
    """The folder of a study with two renderings and one fine-tuning from scratch."""
    for name in ("plain", "rich"):
        shutil.copytree(renders, tmp_path / "renders" / name)
    folder = tmp_path / "runs" / "a" / "checkpoints"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    state = {f"backbone.{key}": value for key, value in build_backbone("resnet10_w8").state_dict().items()}
    torch.save({"state_dict": state, "lightning_tl": {"backbone": "resnet10_w8"}}, folder / "last.ckpt")
    sets = [DataSet(name, {}, {}, 60, 24) for name in ("plain", "rich")]
    runs = [Run("a", "a", "finetune", {}, (), None, None, "key")]
    record = {"checkpoint": "checkpoints/last.ckpt", "facts": {}, "metrics": {"test/error": 0.5}, "seconds": 1.0}
    return tmp_path, sets, runs, {"a": record}


SETTINGS = Complexity(images=60, size=16, standardize="image")


def test_it_is_what_the_command_says_and_measured_once(done, monkeypatch):
    out, sets, runs, records = done
    found = measure_complexity(SETTINGS, sets, runs, records, out)
    checkpoint = out / "runs/a/checkpoints/last.ckpt"
    _, told = complexity(out / "renders/plain", checkpoint, images=60, size=16, standardize="image")
    assert found["plain"]["complexity"] == pytest.approx(told["complexity"], abs=1e-4)
    low, high = told["entropy"]["interval"]
    assert found["plain"]["complexity_low"] == pytest.approx(low, abs=1e-4)
    assert found["plain"]["complexity_high"] == pytest.approx(high, abs=1e-4)

    with monkeypatch.context() as patched:
        patched.setattr("lightning_tl.inspection.complexity_report.complexity", None)
        assert measure_complexity(SETTINGS, sets, runs, records, out) == found
    manifest = out / "renders/rich/train/manifest.json"
    content = json.loads(manifest.read_text())
    content["shards"].pop()
    manifest.write_text(json.dumps(content))
    again = measure_complexity(SETTINGS, sets, runs, records, out)
    assert again["plain"] == found["plain"]
    assert again["rich"] != found["rich"]


def test_another_network_in_the_same_file_is_another_measurement(done):
    out, sets, runs, records = done
    settings = replace(SETTINGS, checkpoint=str(out / "runs/a/checkpoints/last.ckpt"))
    before = measure_complexity(settings, sets, runs, records, out)
    assert before == measure_complexity(settings, sets, runs, records, out)
    content = torch.load(settings.checkpoint, weights_only=True)
    content["state_dict"]["backbone.conv1.weight"] *= -1
    torch.save(content, settings.checkpoint)
    assert measure_complexity(settings, sets, runs, records, out) != before


def test_it_is_in_the_table_and_in_the_report(done):
    out, sets, runs, records = done
    found = measure_complexity(SETTINGS, sets, runs, records, out)
    collect(runs, sets, records, out, found)
    header, plain, rich = (line.split(",") for line in (out / "results.csv").read_text().splitlines())
    column = header.index("complexity")
    assert [float(row[column]) for row in (plain, rich)] == [found[name]["complexity"] for name in ("plain", "rich")]
    (out / "study.json").write_text(json.dumps({"failures": {"b": "none"}}))
    page = write_report(out).read_text()
    assert "How complex the renderings are" in page
    assert f"{found['rich']['complexity']:.1f}" in page


def test_a_checkpoint_that_is_not_there(done):
    out, sets, runs, records = done
    with pytest.raises(UserError, match=r"complexity\.checkpoint is nowhere\.ckpt: no such file"):
        measure_complexity(Complexity("nowhere.ckpt"), sets, runs, records, out)
    # a study says so before it renders or trains
    fine, pre = Stage("finetune/digits"), Stage("pretrain/small_images", set={"data.n": 8})
    study = Study(fine, "t", RenderStage("render/digits"), pre, complexity=Complexity("nowhere.ckpt"))
    with pytest.raises(UserError, match=r"complexity\.checkpoint is nowhere\.ckpt: no such file, relative to .*coco"):
        run_study(study, out / "study")
    assert not (out / "study").exists()


def test_a_study_without_renders_or_without_a_network():
    fine, pre = Stage("finetune/digits"), Stage("pretrain/small_images", set={"data.n": 8})
    with pytest.raises(UserError, match="complexity is measured on what was rendered: there is no render stage"):
        Study(fine, pretrain=pre, complexity=Complexity()).check()
    with pytest.raises(UserError, match=r"complexity needs a network: give complexity\.checkpoint, or scratch: true"):
        Study(fine, "t", RenderStage("render/digits"), pre, scratch=False, complexity=Complexity()).check()
