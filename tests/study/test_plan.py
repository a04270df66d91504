import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from lightning_tl.errors import UserError
from lightning_tl.study.choice import choose
from lightning_tl.study.config import Choice, RenderStage, Stage, Study
from lightning_tl.study.expansion import expand
from lightning_tl.study.plan import data_sets, merged_config, plan


def manifests(out: Path, name: str, shards: list[str]) -> None:
    for split, hashes in (("train", shards), ("val", ["v"])):
        folder = out / "renders" / name / split
        folder.mkdir(parents=True, exist_ok=True)
        content = {"shards": [{"sha256": digest, "images": 8} for digest in hashes]}
        (folder / "manifest.json").write_text(json.dumps(content))


@pytest.fixture
def files(tmp_path):
    for name, content in {
        "digits": {"seed": 0, "image": {"size": 24}},
        "shapes": {"seed": 1},
        "pre": {"trainer": {"max_steps": 4}},
        "fine": {"trainer": {"max_steps": 2}},
    }.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return {name: str(tmp_path / f"{name}.yaml") for name in ("digits", "shapes", "pre", "fine")}


def study(files, **changes) -> Study:
    settings = {
        "render": RenderStage(product={"config": [files["digits"], files["shapes"]]}, val_images=8),
        "pretrain": Stage(files["pre"], product={"data.n": [8, 16, 20]}),
        "finetune": Stage(files["fine"], zip=[{"data.draw": [0, 1], "seed_everything": [0, 1]}]),
    }
    return Study(**(settings | changes))


@pytest.fixture
def out(tmp_path):
    for name in ("digits", "shapes"):
        manifests(tmp_path / "out", name, [f"{name}{i}" for i in range(3)])
    return tmp_path / "out"


def keys(runs):
    return {run.label + run.stage: run.key for run in runs}


def test_nested_settings_are_those_of_their_dotted_keys(files, out):
    given, dotted = study(files), study(files)
    given.render = replace(given.render, set={"image": {"size": 32}})
    dotted.render = replace(dotted.render, set={"image.size": 32})
    given.finetune = replace(given.finetune, set={"data": {"shots": 2}, "model": {"optimizer": "SGD"}})
    dotted.finetune = replace(dotted.finetune, set={"data.shots": 2, "model.optimizer": "SGD"})
    assert data_sets(expand(given)) == data_sets(expand(dotted))
    assert keys(plan(expand(given), out)) == keys(plan(expand(dotted), out))


@pytest.mark.parametrize("key", ["model.init_from", "model.init_args.pretrained"])
def test_fine_tunings_that_name_their_start_are_not_called_scratch(files, out, key):
    own_start = {"render": None, "pretrain": None}
    runs = plan(
        expand(study(files, **own_start, finetune=Stage(files["fine"], product={key: ["a/checkpoints/last.ckpt"]}))),
        out,
    )
    assert [run.label for run in runs] == ["a"]
    nested = {"model": {"init_from": "a.ckpt"}}
    (run,) = plan(expand(study(files, **own_start, finetune=Stage(files["fine"], set=nested))), out)
    assert run.name == f"finetune-{run.key[:8]}"
    (run,) = plan(expand(study(files, **own_start, finetune=Stage(files["fine"], set={"model.init_from": None}))), out)
    assert run.label == "scratch"


def test_the_last_value_of_a_key_counts():
    assert Stage(set={"data": {"n": 1, "draw": 2}, "data.n": 3}).set == {"data.n": 3, "data.draw": 2}
    assert Stage(set={"data.n": 3, "data": {"n": 1}}).set == {"data.n": 1}


def test_a_class_with_arguments_is_one_value():
    adam = {"class_path": "Adam", "init_args": {"lr": 0.1}}
    assert Stage(set={"model.optimizer": adam, "data": adam}).set == {"model.optimizer": adam, "data": adam}


def test_a_point_does_not_change_what_is_set(files):
    stage = Stage(files["pre"], set={"image.light": {"size": 32}}, product={"image.light.size": [24, 48]})
    for size in (24, 48):
        assert merged_config(stage, {"image.light.size": size}, "render")["image"] == {"light": {"size": size}}
    assert stage.set == {"image.light": {"size": 32}}


def test_a_data_set_is_rendered_once_at_its_largest_size(files):
    given = study(files)
    given.render.set = {"image.size": 32}
    given.pretrain.exclude = [{"render": "shapes", "data.n": [16, 20]}]
    found = {each.name: each for each in data_sets(expand(given))}
    assert {name: each.images for name, each in found.items()} == {"digits": 20, "shapes": 8}
    assert found["digits"].config == {"seed": 0, "image": {"size": 32}}
    assert found["shapes"].val_images == 8


def test_runs_and_what_they_start_from(files, out):
    runs = plan(expand(study(files)), out)
    assert len({run.name for run in runs}) == len(runs) == 2 * 3 + 2 + 2 * 3 * 2
    by_name = {run.name: run for run in runs}
    for run in runs:
        if run.start:
            start = by_name[run.start]
            assert run.point["pretrain.data.n"] == start.point["data.n"]
            assert run.point["render"] == start.render
            assert run.label.startswith(start.label)
    scratch = [run for run in runs if run.stage == "finetune" and run.start is None]
    assert [run.label for run in scratch] == ["scratch-draw0", "scratch-draw1"]
    call = next(run for run in runs if run.label == "digits-n8-draw1").call(
        out, {next(r.name for r in runs if r.label == "digits-n8"): {"checkpoint": "checkpoints/best.ckpt"}}, 3
    )
    assert call.args[0] == f"--config={files['fine']}"
    assert {"--data.draw=1", "--seed_everything=1"} <= set(call.args)
    assert call.args[-1].endswith("/checkpoints/best.ckpt")
    assert call.test
    assert call.threads == 3


def test_a_change_changes_only_what_depends_on_it(files, out):
    before = keys(plan(expand(study(files)), out))

    def changed(given):
        after = keys(plan(expand(given), out))
        return {name for name in before if after.get(name) != before[name]}

    one = study(files)
    one.finetune.zip[0]["data.draw"] = [0, 7]
    assert all(name.endswith("draw1finetune") for name in changed(one))
    two = study(files)
    two.pretrain.set = {"data.seed": 5}
    assert changed(two) == {name for name in before if "scratch" not in name}
    # a longer data set, of which the first shards are the same, is the same to who reads its beginning
    manifests(out, "digits", ["digits0", "digits1", "digits2", "digits3"])
    assert changed(study(files)) == set()
    manifests(out, "digits", ["digits0", "digits1", "other"])
    assert changed(study(files)) == {name for name in before if name.startswith("digits-n20")}
    # comments and the place of a file are nothing to a run, its content is
    text = Path(files["fine"]).read_text()
    Path(files["fine"]).write_text("# a comment\n" + text)
    manifests(out, "digits", ["digits0", "digits1", "digits2"])
    assert changed(study(files)) == set()
    Path(files["fine"]).write_text(text.replace("2", "3"))
    assert changed(study(files)) == {name for name in before if "finetune" in name}


def test_several_configurations_of_each_stage(files, out):
    given = study(
        files,
        pretrain=Stage(product={"config": [files["pre"], [files["pre"], files["fine"]]], "data.n": [8]}),
        finetune=Stage(
            product={"config": [files["fine"], files["pre"]]}, exclude=[{"config": files["pre"], "render": "shapes"}]
        ),
    )
    labels = {run.label for run in plan(expand(given), out)}
    assert {"digits-pre-n8", "digits-pre-fine-n8", "digits-pre-n8-pre", "scratch-pre", "scratch-fine"} <= labels
    assert "shapes-pre-n8-pre" not in labels


def test_a_value_is_chosen_for_each_series_by_its_middle_size(files, out):
    given = study(files, choose=Choice("model.optimizer.lr", [0.1, 0.2]))
    trials = [run for run in plan(expand(given), out) if run.stage == "finetune"]
    assert {run.label for run in trials} == {
        f"{origin}-draw0-lr{lr}" for origin in ("scratch", "digits-n16", "shapes-n16") for lr in ("0.1", "0.2")
    }
    best = {"scratch": "0.2", "digits-n16": "0.1", "shapes-n16": "0.2"}
    records = {
        run.name: {"metrics": {"val/error": 0.1 if run.label.endswith(best[run.label.split("-draw")[0]]) else 0.3}}
        for run in trials
    }
    chosen = choose(given.choose, plan(expand(given), out), records)
    assert {origin: found["chosen"] for origin, found in chosen.items()} == {
        "scratch": 0.2,
        "digits": 0.1,
        "shapes": 0.2,
    }
    runs = {run.label: run for run in plan(expand(given), out, chosen)}
    assert "--model.optimizer.lr=0.1" in runs["digits-n8-draw1-lr0.1"].args
    assert "--model.optimizer.lr=0.2" in runs["shapes-n20-draw0-lr0.2"].args
    # trials are not tested; the runs with the chosen values are done with their test
    started = {run.name: {"checkpoint": "best.ckpt"} for run in plan(expand(given), out) if run.stage == "pretrain"}
    assert not any(run.call(out, started, 1).test for run in trials)
    assert all(run.call(out, started, 1).test for run in runs.values() if run.stage == "finetune")
    assert not {run.name for run in trials} & {run.name for run in runs.values()}
    given.choose.metric = "val/eror"
    with pytest.raises(UserError, match=r"choose\.metric is val/eror, which run .* did not log; it has val/error"):
        choose(given.choose, plan(expand(given), out), records)


def test_a_value_is_chosen_for_each_way_of_fine_tuning(files, out):
    pull = {"class_path": "L2SP", "init_args": {"strength": 0.1}}
    axes = {"model.transfer": ["Full", pull], "data.shots": [5, 1]}
    given = study(
        files,
        finetune=Stage(files["fine"], product=axes),
        scratch={"model.transfer": "Full"},
        choose=Choice("model.optimizer.lr", [0.1, 0.2], each=["model.transfer"]),
    )
    given.check()
    trials = [run for run in plan(expand(given), out) if run.stage == "finetune"]
    series = [
        "scratch-Full",
        *(f"{data}-n16-{way}" for data in ("digits", "shapes") for way in ("Full", "L2SP-strength0.1")),
    ]
    assert {run.label for run in trials} == {f"{name}-shots5-lr{lr}" for name in series for lr in ("0.1", "0.2")}
    records = {
        run.name: {"metrics": {"val/error": 0.1 if ("L2SP" in run.label) == run.label.endswith("lr0.2") else 0.3}}
        for run in trials
    }
    chosen = choose(given.choose, plan(expand(given), out), records)
    assert {name: found["chosen"] for name, found in chosen.items()} == {
        "scratch Full": 0.1,
        "digits Full": 0.1,
        "digits L2SP-strength0.1": 0.2,
        "shapes Full": 0.1,
        "shapes L2SP-strength0.1": 0.2,
    }
    for run in plan(expand(given), out, chosen):
        if run.stage == "finetune":
            assert f"--model.optimizer.lr={0.2 if 'L2SP' in run.label else 0.1}" in run.args
    given.choose.each = ["model.transfr"]
    with pytest.raises(UserError, match=r"choose\.each names 'model\.transfr', which is no axis of finetune; did you"):
        given.check()


@pytest.mark.parametrize(
    "change,words",
    [
        (lambda s: s.pretrain.product.update({"data.n": [0, 8]}), "data.n is 0; where data are rendered"),
        (lambda s: s.pretrain.product.update({"data.n": [8.5]}), "data.n is 8.5"),
        (lambda s: s.pretrain.product.clear(), "data.n is not given"),
        (
            lambda s: setattr(s.pretrain, "config", "pre-train/nothing"),
            "no such file, and no shipped configuration of this name",
        ),
        (lambda s: s.finetune.zip[0].update({"data.draw": [0, 0], "seed_everything": [1, 1]}), "two runs are the same"),
        (lambda s: s.render.set.update({"seed.high": 3}), "'seed.high' goes through 'seed', which is a value"),
        (
            lambda s: s.render.set.update({"light": "fix", "light.x": 3}),
            "'light.x' goes through 'light', which is a value",
        ),
        (
            lambda s: s.render.product.update({"config": s.render.product["config"][:1] * 2}),
            "two data sets are the same",
        ),
    ],
)
def test_wrong_plans_are_named(files, out, change, words):
    given = study(files)
    change(given)

    def both():
        data_sets(expand(given))
        plan(expand(given), out)

    with pytest.raises(UserError, match=words):
        both()


@pytest.mark.parametrize("text,words", [("a: [", "not valid YAML"), ("3", "is not a mapping of keys to values")])
def test_a_broken_configuration_is_named(files, out, text, words):
    Path(files["fine"]).write_text(text)
    with pytest.raises(UserError, match=rf"fine\.yaml.*: {words}"):
        plan(expand(study(files)), out)
