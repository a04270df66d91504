"""A study is checked whole before anything is rendered or trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lightning_tl.cli import study as command
from lightning_tl.errors import UserError
from lightning_tl.study.plan_items import Run
from lightning_tl.study.preflight import covering

RENDER = {"config": "render/digits", "val_images": 8}


def settings(**changes) -> dict:
    return {
        "render": RENDER,
        "pretrain": {"config": "pretrain/small_images", "product": {"data.n": [8, 16]}},
        "finetune": {
            "config": "finetune/digits",
            "set": {"data.shots": 1},
            "zip": [{"data.draw": [0, 1], "seed_everything": [0, 1]}],
        },
    } | changes


def write(folder: Path, **changes) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(settings(**changes)))
    return path


def stage(name: str, **changes) -> dict:
    content = settings()[name]
    for key, value in changes.items():
        content[key] = content.get(key, {}) | value if isinstance(value, dict) else value
    return {name: content}


MISTAKES = [
    (stage("finetune", set={"data.rooot": "x"}), r"^finetune \(digits\): .*rooot"),
    (stage("pretrain", set={"trainer.max_stepz": 5}), r"^pretrain \(small_images\): .*max_stepz"),
    (stage("finetune", product={"data.fraction": [0.5, "half"]}), r"^finetune \(digits\): .*fraction"),
    (stage("pretrain", set={"model.backbone": "resnet11"}), r"^pretrain \(small_images\): .*resnet11"),
    (stage("finetune", set={"model.backbone": "resnet10_w8"}), r"^finetune .*backbone is resnet10_w8.*resnet10_w16"),
    (stage("finetune", set={"data.shots": 5000}), r"^finetune \(digits\): .*5000"),
    (stage("finetune", set={"data": {"rooot": "x"}}), r"^finetune \(digits\): .*rooot"),
    (
        stage("finetune", set={"model.optimizer.lr": -1}),
        r"^finetune \(digits\): model.optimizer: Invalid learning rate",
    ),
    (
        stage("pretrain", set={"trainer": {"max_steps": 20}}),
        r"^pretrain \(small_images\): WarmupCosine: total_steps is 20 and warmup_steps 20; the warm-up must be shorter",
    ),
    (stage("finetune", set={"trainer.accelerator": "gpuu"}), r"^finetune \(digits\): .*gpuu"),
    (
        {"finetune": {"config": "finetune/sinclass_small", "set": {"data.root": "/no/such/folder"}}, "pretrain": None}
        | {"render": None},
        r"^finetune \(sinclass_small\): data.root is /no/such/folder",
    ),
    ({"choose": {"key": "model.optimizer.lrr", "values": [0.1]}}, r"^finetune \(digits\): .*lrr"),
    (
        {"choose": {"key": "model.optimizer.lr", "values": [0.1], "metric": "val/eror"}},
        r"choose.metric is val/eror.*did you mean 'val/error'",
    ),
    ({"law": {"by": "rendr"}}, r"law: by names 'rendr', which is no column of results.csv; did you mean 'render'"),
    ({"law": {"target_size": "finetune_image"}}, r"law: target_size .*did you mean 'finetune_images'"),
    ({"render": RENDER | {"product": {"config": ["render/digits", "render/shapes"], "image.sise": [32]}}}, r"sise"),
    ({"render": RENDER | {"set": {"lights.hdris": "/no/such/hdris"}}}, r"^render .*/no/such/hdris"),
]


@pytest.mark.parametrize("changes,words", MISTAKES, ids=[words for _, words in MISTAKES])
@pytest.mark.parametrize("option", [[], ["--dry-run"]], ids=["run", "dry-run"])
def test_a_mistake_is_found_before_the_start(tmp_path: Path, option: list[str], changes: dict, words: str) -> None:
    path = write(tmp_path, **changes)
    with pytest.raises(UserError, match=words):
        command.main(["run", f"--config={path}", f"--out={tmp_path / 'out'}", *option])
    assert not (tmp_path / "out" / "renders").exists()
    assert not (tmp_path / "out" / "runs").exists()


def test_too_few_rendered_images_are_found_before_the_start(renders: Path, tmp_path: Path) -> None:
    pretrain = {"config": "pretrain/small_images", "set": {"data.root": str(renders)}, "product": {"data.n": [8, 61]}}
    path = write(tmp_path, render=None, pretrain=pretrain)
    with pytest.raises(UserError, match=r"^pretrain \(small_images\): 61 images asked for"):
        command.main(["run", f"--config={path}", f"--out={tmp_path / 'out'}"])


@pytest.mark.parametrize(
    "sizes,law,needed",
    [
        ([8, 16], {}, 4),
        ([8, 16, 24, 32], {}, 0),
        ([8, 16], {"form": "power"}, 3),
        pytest.param([8, 16, 24], {"fix_d": 0.5}, 0, marks=pytest.mark.slow),
        pytest.param([8, 16], {"target_size": "finetune_images"}, 0, marks=pytest.mark.slow),
        ([8, 16], {"form": "chinchilla", "size": "pretrain_tokens", "score": "finetune_loss"}, 0),
        pytest.param([8, 16], None, 0, marks=pytest.mark.slow),
    ],
)
def test_too_few_sizes_for_the_law_are_known_before_hours_are_spent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], sizes: list[int], law: dict | None, needed: int
) -> None:
    path = write(tmp_path, **stage("pretrain", product={"data.n": sizes}), law=law)
    command.main(["run", f"--config={path}", f"--out={tmp_path / 'out'}", "--dry-run"])
    note = f"note: the law needs {needed} pre-training sizes, and this study has {len(sizes)}: "
    assert (note in capsys.readouterr().err) == bool(needed)


def test_a_dry_run_lists_what_would_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, choose={"key": "model.optimizer.lr", "values": [0.001, 0.01]})
    assert command.main(["run", f"--config={path}", f"--out={tmp_path / 'out'}", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "16 images for training, 8 for validation, to render" in said
    assert "2 pre-trainings:\n  digits-n8\n  digits-n16\n" in said
    # the values for scratch and for the one series, at its middle size
    assert "4 trial runs:\n" in said
    # two draws from scratch and from each of two pre-trainings
    assert "6 fine-tunings:\n" in said
    assert said.count("\n  ") == 1 + 2 + 4 + 6
    assert not (tmp_path / "out").exists()


def made(name: str, *args: str, start: str | None = None) -> Run:
    return Run(name, name, "finetune" if start else "pretrain", {}, args, start, None, name)


def test_every_value_occurs_among_the_runs_that_are_checked() -> None:
    runs = [
        made(f"{word}{number}{file}", f"--config={file}", f"--a={word}", f"--b={number}")
        for file in ("x", "y")
        for word in ("one", "two", "three")
        for number in (1, 2, 30, 4)
    ]
    kept = covering(runs)
    assert len(kept) < len(runs)
    for file in ("x", "y"):
        own = [run.args for run in kept if f"--config={file}" in run.args]
        assert {arg for args in own for arg in args} >= {"--a=one", "--a=two", "--a=three", "--b=1", "--b=30"}


def test_every_pair_of_backbones_is_checked() -> None:
    starts = [made(f"p{name}", "--config=p", f"--model.backbone={name}") for name in "abc"]
    tuned = [
        made(f"f{start.name}{name}", "--config=f", f"--model.backbone={name}", start=start.name)
        for start in starts
        for name in "abc"
    ]
    assert len([run for run in covering([*starts, *tuned]) if run.start]) == 9
