from dataclasses import replace

import pytest

from lightning_tl.errors import UserError
from lightning_tl.study.config import Choice, RenderStage, Stage, Study
from lightning_tl.study.expansion import expand
from lightning_tl.study.grid import excluder, label, points, specification_text


def test_products_and_zips():
    found = points({"a": [1, 2], "b": ["x", "y"]}, [{"seed": [0, 1], "draw": [5, 6]}], "finetune")
    assert len(found) == 8
    assert found[0] == {"a": 1, "b": "x", "seed": 0, "draw": 5}
    assert found[1] == {"a": 1, "b": "x", "seed": 1, "draw": 6}
    assert {(p["seed"], p["draw"]) for p in found} == {(0, 5), (1, 6)}
    assert points({}, [], "finetune") == [{}]


def test_exclusions_leave_out_what_matches_all_their_keys():
    known = [{"a": 1}, {"a": 2}, {"a": 3}, {"b": "x"}, {"b": "y"}, {"b": "z"}]
    excluded = excluder([{"a": 1, "b": ["x", "z"]}, {"a": 3}], known, "pretrain")
    assert [excluded({"a": a, "b": b}) for a, b in ((1, "x"), (1, "y"), (2, "x"), (3, "y"))] == [
        True,
        False,
        False,
        True,
    ]
    stage = Stage("c", product={"n": [1, 2]}, exclude=[{"render": "digits", "n": 2}])
    pairs = stage.grid("pretrain", [{"render": "digits"}, {"render": "shapes"}])
    assert [(render["render"], own["n"]) for render, own in pairs] == [("digits", 1), ("shapes", 1), ("shapes", 2)]


def test_fine_tuning_agrees_with_its_pre_training():
    models = {"model.backbone": ["small", "large"]}
    stage = Stage("c", product={"lr": [1, 2], **models}, same=["model.backbone"])
    starts = [{"start": name, "pretrain.model.backbone": name} for name in models["model.backbone"]]
    pairs = [(other.get("start"), own["model.backbone"], own["lr"]) for other, own in stage.grid("finetune", starts)]
    assert pairs == [("small", "small", 1), ("small", "small", 2), ("large", "large", 1), ("large", "large", 2)]
    assert len(stage.grid("finetune")) == 4  # from scratch: all


def test_what_must_agree_is_an_axis_of_both():
    pre, fine = Stage("p", product={"model.backbone": ["a"]}), Stage("f", product={"model.backbone": ["a"]})
    Study(replace(fine, same=["model.backbone"]), pretrain=pre).check()
    with pytest.raises(UserError, match=r"finetune\.same names 'model\.backbon', which is no axis of pretrain; did"):
        Study(replace(fine, same=["model.backbon"]), pretrain=pre).check()
    with pytest.raises(UserError, match=r"finetune\.same names 'model\.backbone', which is no axis of finetune"):
        Study(Stage("f", same=["model.backbone"]), pretrain=pre).check()
    with pytest.raises(UserError, match=r"pretrain\.same: only fine-tuning has an earlier stage to agree with"):
        Study(fine, pretrain=replace(pre, same=["model.backbone"])).check()


@pytest.mark.parametrize(
    "product,zips,words",
    [
        ({"lr": 0.1}, [], "pretrain: the axis 'lr' must be a list of at least one value, not 0.1"),
        ({"lr": []}, [], "the axis 'lr' must be a list of at least one value"),
        ({"lr": "0.1"}, [], "the axis 'lr' must be a list"),
        ({"a": [1]}, [{"a": [1], "b": [2]}], "'a' is on two axes"),
        ({}, [{"a": [1, 2], "b": [1]}], "must be equally many: a has 2, b has 1"),
    ],
)
def test_wrong_axes_are_named(product, zips, words):
    with pytest.raises(UserError, match=words):
        points(product, zips, "pretrain")


def test_an_unknown_key_of_an_exclusion_is_named():
    with pytest.raises(UserError, match=r"finetune: exclude names 'data\.m', which is no axis; did you mean 'data\.n'"):
        excluder([{"data.m": 1}], [{"data.n": 1}], "finetune")


@pytest.mark.parametrize("value", ["digit", ["digits", "digit"]])
def test_an_unknown_value_of_an_exclusion_is_named(value):
    known = [{"render": "digits"}, {"render": "shapes"}]
    words = r"finetune: exclude: 'render' is never 'digit'; did you mean 'digits'\?"
    with pytest.raises(UserError, match=words):
        excluder([{"render": value}], known, "finetune")


@pytest.mark.parametrize(
    "point,text",
    [
        ({"render": "digits", "data.n": 64}, "digits-n64"),
        ({"config": ["a/pretrain/mulclass_small.yaml", "over.yaml"]}, "mulclass_small-over"),
        ({"config": "/some/where/shapes.yaml"}, "shapes"),
        ({"camera.fill": [0.9, 1.3], "objects.count": (2, 5)}, "fill0.9-1.3-count2-5"),
        ({"model.optimizer.lr": 0.0004, "data.flip": True, "name": "a b/c*"}, "lr0.0004-flip-True-c"),
    ],
)
def test_labels_can_be_names_of_files(point, text):
    assert label(point) == text


def test_the_two_checkpoints_of_a_run_have_different_labels():
    starts = [f"runs/a/checkpoints/{name}.ckpt" for name in ("last", "best")]
    assert [label({"model.init_from": start}) for start in starts] == ["a", "a-best"]
    assert label({"model.init_from": "there/best.ckpt"}) == "best.ckpt"


FINE = {"finetune": Stage("finetune/digits")}


@pytest.mark.parametrize(
    "study,words",
    [
        (Study(**FINE, retries=-1), "retries is -1; it must be at least 0"),
        (Study(**FINE, threads=0), "threads is 0; it must be at least 1"),
        (Study(**FINE, workers=0), "workers is 0"),
        (Study(**FINE, render=RenderStage("render/digits")), "a render stage but no pretrain stage"),
        (Study(**FINE, scratch=False), "nothing to run"),
        (Study(**FINE, forgetting=True), "forgetting is measured under a pre-training's head"),
        (Study(Stage()), "finetune names no configuration: give finetune.config"),
        (Study(Stage("x", set={"lr": 1}, product={"lr": [1]})), "finetune: 'lr' is both set and an axis"),
        (
            Study(Stage("x", set={"data": {"n": 1}}, product={"data.n": [1]})),
            "finetune: 'data.n' is both set and an axis",
        ),
        (
            Study(**FINE, pretrain=Stage("x"), render=RenderStage("x", val_images=0)),
            "render.val_images is 0; it must be at least 1",
        ),
        (Study(**FINE, choose=Choice("lr", [])), "choose.values is empty: give values of lr"),
        *(
            (Study(**FINE, choose=Choice("lr", [1], metric)), f"choose.metric is {metric}, which is measured on test")
            for metric in ("test/error", "test_loss", "Test/loss_epoch", "loss/test")
        ),
    ],
)
def test_wrong_studies_are_named(study, words):
    with pytest.raises(UserError, match=words):
        study.check()


def test_a_point_without_values_has_no_name() -> None:
    """A data set without axes is named by its configuration."""
    assert label({}) == ""


L2SP = {"class_path": "lightning_tl.transfer.L2SP", "init_args": {"strength": 0.01}}


def test_classes_as_values_have_names_that_can_be_read():
    assert label({"model.transfer": L2SP}) == "L2SP-strength0.01"
    assert label({"model.transfer": "LinearProbe", "data.draw": 1}) == "LinearProbe-draw1"
    both = [L2SP, {"class_path": "Layerwise", "init_args": {"decay": 0.5}}]
    assert label({"model.transfer": both}) == "L2SP-strength0.01+Layerwise-decay0.5"
    assert specification_text(both) == "L2SP(strength=0.01) + Layerwise(decay=0.5)"
    assert specification_text({"class_path": "Full"}) == "Full"
    assert specification_text([L2SP, "Full"]) == "L2SP(strength=0.01) + Full"


def test_only_some_fine_tunings_are_also_done_from_scratch():
    stage = Stage("f", product={"model.transfer": ["Full", L2SP]}, zip=[{"data.draw": [0, 1]}])
    study = Study(stage, pretrain=Stage("p"), scratch={"model.transfer": "Full"})
    study.check()
    expansion = expand(study)
    assert [point["model.transfer"] for point in expansion.scratch] == ["Full", "Full"]
    assert len(expansion.finetune) == 4
    assert len(expand(replace(study, scratch=True)).scratch) == 4
    with pytest.raises(UserError, match=r"finetune: scratch names 'model\.transfr', which is no axis; did you mean"):
        expand(replace(study, scratch={"model.transfr": "Full"}))
    with pytest.raises(UserError, match=r"finetune: scratch: 'model\.transfer' is never 'Fulll'"):
        expand(replace(study, scratch={"model.transfer": "Fulll"}))
