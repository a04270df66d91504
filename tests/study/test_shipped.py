"""The studies that ship: as many runs as their first lines say, each with a configuration that training takes."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from shipped import CONFIGS, kinds, parsed, planned, read

from data_gen.config_check import config_from_dict, load_config
from lightning_tl import tasks
from lightning_tl.study.expansion import expand
from lightning_tl.study.plan import data_sets
from lightning_tl.study.records import RESULT_COLUMNS

STUDIES = sorted((CONFIGS / "study").glob("*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_it_is_planned_as_it_says(path, tmp_path):
    study = read(path)
    runs = planned(study, tmp_path)
    counts = [sum(run.stage == stage for run in runs) for stage in ("pretrain", "finetune")]
    told = re.search(r"([\d,]+) pre-trainings.*?([\d,]+)\s+fine-tunings", path.read_text().replace("\n# ", " "))
    if told:
        assert counts == [int(number.replace(",", "")) for number in told.groups()]
    else:
        assert path.stem.endswith("_small") or path.stem == "quickstart"
    assert f"--config study/{path.stem} " in path.read_text()
    if not path.stem.endswith("_small") and path.stem != "quickstart":
        assert path.with_name(f"{path.stem.removesuffix('_hour')}_small.yaml").is_file()
        assert study.finetune.set.get("data.root") or "data.root" in study.finetune.axes, "no place for real images"


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_training_takes_its_configurations(path, tmp_path):
    for run in kinds(planned(read(path), tmp_path)):
        content = parsed(run.args)
        schedule = content["model"]["init_args"].get("schedule")
        if schedule is not None:  # it takes its length once, in images or in epochs
            made = getattr(tasks, schedule["class_path"].rpartition(".")[2])(**schedule["init_args"])
            data = content["data"]["init_args"]
            steps, warmup = made.steps(data["batch_size"], 100_000, data.get("context"))
            assert 0 <= warmup < steps


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_rendering_and_the_law_take_their_options(path, tmp_path):
    study = read(path)
    for each in data_sets(expand(study)):
        config_from_dict(each.config)
    if study.law is not None:  # read and checked; the columns that it names are those of results.csv
        columns = study.law.columns()
        assert {columns.size, columns.score, columns.target_size} <= {None, *RESULT_COLUMNS}


PAPER = ("scaling_law", "model_size", "extrapolation", "complexity", "full_law")


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_protocol(name, tmp_path):
    """What Mikami et al. do, in each large study: objects, images, fractions, steps and evaluations."""
    study = read(CONFIGS / f"study/{name}.yaml")
    runs = planned(study, tmp_path)
    for each in data_sets(expand(study)):
        config = config_from_dict(each.config)
        assert config.objects.count == (10, 10)
        assert len(config.sources) == 10
        assert {source.kind for source in config.sources} == {"bop"}
        assert config.room.materials == "ambientcg"
        assert (config.image.size, config.image.samples, config.camera.views) == (512, 50, 10)
        assert each.val_images == 1000
    fractions = set()
    for run in runs:
        if run.stage == "finetune":
            fractions.add(run.point.get("data.fraction", study.finetune.set.get("data.fraction")))
    assert fractions == ({0.02, 0.04, 0.07, 0.1, 0.16, 0.32, 0.64} if name == "full_law" else {0.01})
    for run in kinds(runs):
        content = parsed(run.args)
        assert "scheduler" not in content["model"]["init_args"] or content["model"]["init_args"]["scheduler"] is None
        schedule = content["model"]["init_args"]["schedule"]["init_args"]
        assert schedule["images"] is not None  # so the number of steps does not depend on how many images there are
        assert not schedule.get("warmup_epochs")


def test_the_built_in_library_is_one_option_away():
    """What each large study names as a fallback: the same study, without BOP's objects and ambientCG's materials."""
    for name in PAPER:
        text = (CONFIGS / f"study/{name}.yaml").read_text()
        option = re.search(r"# built-in shapes and patterns instead: --(render\.config) (\S+)\n", text)
        study = read(CONFIGS / f"study/{name}.yaml", f"--{option[1]}={option[2]}")
        sets = data_sets(expand(study))
        assert len(sets) == (8 if name == "complexity" else 1)
        for each in sets:
            config = config_from_dict(each.config)
            assert (config.sources, config.categories, config.room.materials) == ([], ["shapes"], "")
            assert (config.objects.count, config.image.size) == ((10, 10), 512)


def test_complexity_varies_what_the_eight_settings_do():
    """The study's four axes give the configurations in render/complexity, under their names."""
    study = read(CONFIGS / "study/complexity.yaml", "--render.config=render/complexity/with-multiple-random-random")
    sets = {each.name: config_from_dict(each.config) for each in data_sets(expand(study))}
    shipped = {path.stem: load_config(path) for path in (CONFIGS / "render/complexity").glob("*.yaml")}
    assert sets.keys() == shipped.keys()
    for name, config in sets.items():
        assert replace(config, image=shipped[name].image) == shipped[name]


def test_extrapolation_holds_out_five_sizes(tmp_path):
    study = read(CONFIGS / "study/extrapolation.yaml")
    runs = planned(study, tmp_path)
    sizes = sorted({run.point["data.n"] for run in runs if run.stage == "pretrain"})
    held = [n for n in sizes if n >= study.law.hold_out_from]
    assert held == [80_000, 160_000, 320_000, 640_000, 1_280_000]
    assert len(sizes) - len(held) == 8
    assert {run.point["model.backbone"] for run in runs} == {"resnet50", "resnet101", "resnet152"}


def test_model_size_pairs_each_task_with_itself(tmp_path):
    pairs = set()
    for run in planned(read(CONFIGS / "study/model_size.yaml"), tmp_path):
        if run.start is not None:
            assert run.point["model.backbone"] == run.point["pretrain.model.backbone"]
            pairs.add((run.point["pretrain.config"], run.point["config"], run.point["model.backbone"]))
    names = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
    tasks_ = (("pretrain/mulclass", "finetune/sinclass"), ("pretrain/objdet", "finetune/objdet"))
    assert pairs == {(*pair, name) for pair in tasks_ for name in names}


def test_the_network_that_complexity_is_measured_by(tmp_path):
    """The recipe writes the checkpoint where the study looks for it, after 48 passes over COCO's training images."""
    content = parsed(("--config=finetune/objdet", "--config=finetune/coco_features", "--data.root=coco"))
    folder = content["trainer"]["default_root_dir"]
    assert read(CONFIGS / "study/complexity.yaml").complexity.checkpoint == f"{folder}/checkpoints/last.ckpt"
    schedule = content["model"]["init_args"]["schedule"]["init_args"]
    assert schedule["images"] == 48 * 118_287
    assert content["model"]["init_args"]["backbone"] == "resnet50"
    assert content["model"]["init_args"]["init_from"] is None
    assert content["data"]["init_args"]["fraction"] == 1.0
