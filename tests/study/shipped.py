"""Shipped studies, read and planned without rendering anything."""

from __future__ import annotations

import io
import json
from collections import defaultdict
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

import pytest
import yaml

from lightning_tl.cli.main import main
from lightning_tl.cli.parsing import command_parser
from lightning_tl.study.config import Study
from lightning_tl.study.expansion import expand
from lightning_tl.study.plan import data_sets, plan

CONFIGS = Path(__file__).parents[2] / "configs"


def read(path, *more):
    parser = command_parser("study run", "")
    parser.add_class_arguments(Study)
    given = parser.instantiate_classes(parser.parse_args([f"--config={path}", *more]))
    study = Study(**{name: given[name] for name in Study.__dataclass_fields__})
    study.check()
    return study


def planned(study, out):
    """Return a study's runs, as if its data sets were rendered."""
    for each in data_sets(expand(study)):
        for split, images in (("train", each.images), ("val", each.val_images)):
            manifest = out / "renders" / each.name / split / "manifest.json"
            manifest.parent.mkdir(parents=True)
            manifest.write_text(json.dumps({"shards": [{"sha256": "0", "images": images}]}))
    chosen = None
    if study.choose is not None:
        tried = {"tried": [], "chosen": study.choose.values[0]}
        chosen = defaultdict(lambda: tried, {"": tried})  # not empty: a choice has been made
    return plan(expand(study), out, chosen)


@cache
def parsed(args):
    """Return a run's configuration as the training command reads it, all keys checked."""
    said = io.StringIO()
    with pytest.raises(SystemExit) as ended, redirect_stdout(said):
        main(["fit", *args, "--print_config"])
    assert ended.value.code == 0
    return yaml.safe_load(said.getvalue())


def kinds(runs):
    """One run of each stage and configuration."""
    found = {}
    for run in runs:
        found.setdefault((run.stage, repr(run.point.get("config"))), run)
    return found.values()
