"""Study files that lie over another one: keys are merged, and what ships is planned."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from shipped import kinds, parsed, planned

from data_gen.config_check import config_from_dict
from lightning_tl.cli import study as command
from lightning_tl.config_files import with_merged_configs
from lightning_tl.study.expansion import expand
from lightning_tl.study.plan import data_sets

OVERLAYS = sorted((Path(__file__).parents[2] / "configs/study/overtraining").glob("*.yaml"))


def test_keys_of_mappings_are_merged_and_lists_replaced(tmp_path):
    base = "finetune: {set: {a.b: 1, c: 2}, product: {lr: [1, 2]}, zip: [{x: [1]}]}\ntitle: A\n"
    (tmp_path / "a.yaml").write_text(base)
    (tmp_path / "b.yaml").write_text("finetune: {set: {c: 5}, product: {lr: [3]}}\n")
    arguments = [f"--config={tmp_path}/a.yaml", "--out=x", "--config", f"{tmp_path}/b.yaml", "--title=T"]
    (first, *rest) = with_merged_configs(arguments, tmp_path)
    assert rest == ["--out=x", "--title=T"]
    assert yaml.safe_load(Path(first.removeprefix("--config=")).read_text()) == {
        "finetune": {"set": {"a.b": 1, "c": 5}, "product": {"lr": [3]}, "zip": [{"x": [1]}]},
        "title": "A",
    }
    assert with_merged_configs(arguments[:2], tmp_path) == arguments[:2]


@pytest.mark.parametrize("path", OVERLAYS, ids=lambda path: path.stem)
def test_a_shipped_overlay_changes_the_study_as_it_says(path, tmp_path, monkeypatch, capsys):
    taken = []
    monkeypatch.setattr(command, "run", lambda study, out: taken.append(study) or 0)
    below = "study/overtraining_small" if path.stem.endswith("_small") else "study/overtraining"
    common = ["run", "--config", below, f"--out={tmp_path}"]
    command.main(common)
    command.main([*common, "--config", f"study/overtraining/{path.stem}"])
    base, changed = taken
    changed.check()
    assert f"--config {below} --config study/overtraining/{path.stem} " in path.read_text()
    assert changed.render == base.render
    assert (changed.pretrain, changed.finetune) != (base.pretrain, base.finetune)
    assert data_sets(expand(changed)) == data_sets(expand(base))
    for run in kinds(planned(changed, tmp_path)):
        parsed(run.args)  # training takes all keys


def test_options_for_single_keys_of_a_stage_all_count(tmp_path, monkeypatch):
    """Several, below one group or not; the keys beside them keep the values that they have."""
    taken = []
    monkeypatch.setattr(command, "run", lambda study, out: taken.append(study) or 0)
    options = ["--finetune.set.data.root", "A b", "--render.set.image.size=64", "--finetune.set.data.fraction=2e-1"]
    more = ["--render.set.image.samples", "2", "--pretrain.product.data.n", "[8, 16]"]
    command.main(["run", "--config=study/photos_small", f"--out={tmp_path}", *options, *more])
    sets = data_sets(expand(taken[0]))
    for each in sets:
        image = config_from_dict(each.config).image
        assert (each.images, image.size, image.samples, image.bounces) == (16, 64, 2, 1)
    content = parsed(next(run.args for run in planned(taken[0], tmp_path) if run.stage == "finetune"))
    data = content["data"]["init_args"]
    assert (data["root"], data["fraction"], data["val_share"]) == ("A b", 0.2, 0.3)
