"""The studies that ship: as many runs as their first lines say, each with a configuration that training takes."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import pytest

from lightning_tl.cli.main import main
from lightning_tl.cli.parsing import command_parser
from lightning_tl.study.config import Study
from lightning_tl.study.plan import data_sets, plan

STUDIES = sorted((Path(__file__).parents[2] / "configs/study").glob("*.yaml"))


def planned(path, out):
    parser = command_parser("study run", "")
    parser.add_class_arguments(Study)
    given = parser.instantiate_classes(parser.parse_args([f"--config={path}"]))
    study = Study(**{name: given[name] for name in Study.__dataclass_fields__})
    study.check()
    for each in data_sets(study):
        for split, images in (("train", each.images), ("val", each.val_images)):
            manifest = out / "renders" / each.name / split / "manifest.json"
            manifest.parent.mkdir(parents=True)
            manifest.write_text(json.dumps({"shards": [{"sha256": "0", "images": images}]}))
    chosen = None
    if study.choose is not None:
        tried = {"tried": [], "chosen": study.choose.values[0]}
        chosen = dict.fromkeys(("scratch", "digits", "shapes"), tried)
    return study, plan(study, out, chosen)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_it_is_planned_as_it_says(path, tmp_path):
    study, runs = planned(path, tmp_path)
    counts = [sum(run.stage == stage for run in runs) for stage in ("pretrain", "finetune")]
    told = re.search(r"([\d,]+) pre-trainings.*?([\d,]+)\s+fine-tunings", path.read_text().replace("\n# ", " "))
    if told:
        assert counts == [int(number.replace(",", "")) for number in told.groups()]
    else:
        assert path.stem.endswith("_small") or path.stem == "quickstart"
    assert f"--config study/{path.stem} " in path.read_text()
    if not path.stem.endswith("_small") and path.stem != "quickstart":
        assert path.with_name(f"{path.stem}_small.yaml").is_file()
        assert study.finetune.set.get("data.root") or "data.root" in study.finetune.axes, "no place for real images"


@cache
def parsed(args):
    """Let the training command read a run's configuration."""
    with pytest.raises(SystemExit) as ended:
        main(["fit", *args, "--print_config"])
    return ended.value.code


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_training_takes_its_configurations(path, tmp_path, capsys):
    kinds = {}
    for run in planned(path, tmp_path)[1]:
        kinds.setdefault((run.stage, repr(run.point.get("config"))), run)
    for run in kinds.values():
        assert parsed(run.args) == 0, capsys.readouterr().err
