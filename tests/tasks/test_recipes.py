"""The paper's recipes (Mikami et al., Appendix A), as they stand in the shipped configurations."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lightning_tl import data, tasks

CONFIGS = Path(__file__).parents[2] / "configs"
IMAGENET = 1_281_167
# batch, learning rate, schedule, its steps, steps of its warm-up, steps between two validations
TABLE = {
    "pretrain/objdet": (64, 0.02, "Cosine", 225_000, 1875, 1875),
    "finetune/objdet": (64, 0.02, "Cosine", 22_500, 1875, 1875),
    "pretrain/semseg": (32, 0.02, "Polynomial", 125_000, 0, 3125),
    "finetune/semseg": (32, 0.02, "Polynomial", 18_750, 0, 3125),
    "pretrain/mulclass": (256, 0.1, "Cosine", 112_500, 469, 469),
    "finetune/sinclass": (256, 0.1, "Cosine", 450_411, 25_023, 5005),
    "pretrain/normal": (32, 0.04, "Polynomial", 200_000, 0, 10_000),
}
SMALL = [f"{name}_small" for name in TABLE]


def load(name):
    return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())


def schedule(content):
    made = content["model"]["init_args"]["schedule"]
    return getattr(tasks, made["class_path"])(**made["init_args"])


@pytest.mark.parametrize("name", TABLE)
def test_table(name):
    batch, lr, kind, steps, warmup, interval = TABLE[name]
    content = load(name)
    model, loader = content["model"]["init_args"], content["data"]["init_args"]
    plan = schedule(content)
    assert loader["batch_size"] == plan.batch == batch
    assert model["optimizer"]["init_args"]["lr"] == lr
    assert type(plan).__name__ == kind
    assert plan.scale_lr == "none"
    # as many steps for one per cent of ImageNet as for all of it, and as many evaluations
    assert plan.steps(batch, IMAGENET) == plan.steps(batch, IMAGENET // 100) == (steps, warmup)
    assert loader["steps_per_epoch"] == interval
    dense = name.endswith(("semseg", "normal"))
    assert (model.get("aux_weight"), model.get("aux_lr_factor")) == ((0.5, 10) if dense else (None, None))
    trainer = content["trainer"]
    assert trainer.get("precision") == ("16-mixed" if name.endswith("objdet") else None)
    assert trainer.get("sync_batchnorm", False) == (not name.endswith("class"))
    transform = loader["transform"]
    assert transform["hflip"] == (0.0 if name.endswith("normal") else 0.5)
    size = {"shorter": [260, 1040], "crop": 480, "eval_shorter": 520} if dense else None
    size = size or {"size": 224 if name.endswith("sinclass") else 640}
    assert {key: transform[key] for key in size} == size


@pytest.mark.parametrize("name", [*TABLE, *SMALL])
def test_what_all_recipes_share(name):
    content = load(name)
    optimizer = content["model"]["init_args"]["optimizer"]
    assert optimizer["class_path"] == "torch.optim.SGD"
    assert (optimizer["init_args"]["momentum"], optimizer["init_args"]["weight_decay"]) == (0.9, 1e-4)
    task = getattr(tasks, content["model"]["class_path"])
    assert task.task == name.split("/")[1].removesuffix("_small")
    assert hasattr(data, content["data"]["class_path"])
    target = content["data"]["init_args"].get("target")
    assert target == (task.task if name.startswith("pretrain") else None)
    batch = content["data"]["init_args"]["batch_size"]
    steps, warmup = schedule(content).steps(batch, 500)
    assert 0 <= warmup < steps
    assert (steps, warmup) == schedule(content).steps(batch, 50_000)  # of every n and fraction
    assert content["trainer"]["max_steps"] == -1  # it follows from the schedule
    saved = [callback["init_args"] for callback in content["trainer"]["callbacks"]]
    # of the last validation, whether it was the best or not; Lightning's save_last follows the best alone
    assert (saved[-1]["filename"], saved[-1]["save_top_k"], "monitor" in saved[-1]) == ("last", 1, False)
    assert ("monitor" in saved[0]) == name.startswith("pretrain")


@pytest.mark.parametrize("name", [name for name in TABLE if name.startswith("finetune")])
def test_validation_is_about_as_large_as_the_official_one_or_smaller(name):
    """It is split off the training images of the real data sets; their official validation set is the test."""
    training, official = {
        "finetune/sinclass": (IMAGENET, 50_000),
        "finetune/objdet": (118_287, 5000),
        "finetune/semseg": (20_210, 2000),
    }[name]
    images = load(name)["data"]["init_args"]["val_share"] * training
    assert 2000 < images < 1.2 * official
    evaluations = schedule(load(name)).images / (TABLE[name][0] * TABLE[name][-1])
    assert evaluations * images < 0.06 * schedule(load(name)).images  # the cost of all evaluations
