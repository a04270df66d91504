"""Through the command line: four pre-trainings from renders, twelve fine-tunings, each better than guessing."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from tasks.real import write_ade20k, write_coco, write_folders, write_renders

from lightning_tl.cli.main import main
from lightning_tl.run import run
from lightning_tl.tasks.average_precision import BoxAveragePrecision

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(1800)]

PRETRAIN = {"mulclass": 1600, "objdet": 1600, "semseg": 640, "normal": 1600}  # images
FINETUNE = {"sinclass": 1152, "objdet": 1600, "semseg": 480}


def training_data(data):
    """Return all training images and targets, as in evaluation."""
    return data.splits["train"][list(range(len(data.splits["train"])))]


@torch.no_grad()
def beats_guessing(model, data) -> tuple[float, float]:
    """Return what the model and the best constant answer get on the training data; less is better."""
    model.eval()
    images, targets = training_data(data)
    if model.task == "objdet":
        return _boxes(model, images, targets)
    ours = float(
        model.loss(model.outputs_and_aux(images)[0] if hasattr(model, "aux_weight") else model(images), targets)
    )
    if model.task == "normal":
        mean = targets.sum((0, 2, 3)) / (targets.square().sum(1) > 0.5).sum()
        return ours, float(1 - mean.norm())  # of one direction everywhere
    if model.task == "mulclass":
        share = targets.mean(0).clamp(1e-6, 1 - 1e-6)
        return ours, float(-(share * share.log() + (1 - share) * (1 - share).log()).mean())
    share = torch.bincount(targets[targets != 255].flatten(), minlength=data.num_classes).double()
    return ours, float(torch.special.entr(share / share.sum()).sum())  # of the classes' shares everywhere


def _boxes(model, images, targets) -> tuple[float, float]:
    errors = []
    boxes = torch.cat([target["boxes"] for target in targets])
    labels = torch.cat([target["labels"] for target in targets]).unique()
    mean = boxes.mean(0, keepdim=True).expand(len(labels), 4)
    constant = {"boxes": mean, "labels": labels, "scores": torch.full((len(labels),), 0.5)}
    for found in (model(images), [constant] * len(images)):
        metric = BoxAveragePrecision()
        metric.update(found, targets)
        errors.append(1 - float(metric.compute()["score"]))
    return errors[0], errors[1]


def losses(out: Path) -> list[float]:
    with (out / "metrics.csv").open(newline="") as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


def trained(kind: str, name: str, out: Path, *more: str):
    """Run one recipe by the command line; return its model and data, made anew from what it saved."""
    arguments = ["fit", "--config", f"{kind}/{name}_small", f"--trainer.default_root_dir={out}", *more]
    assert main([*arguments, "--trainer.enable_progress_bar=false", "--trainer.log_every_n_steps=1"]) == 0
    found = losses(out)
    assert sum(found[-5:]) / 5 < 0.9 * found[0], f"the loss of {out.name} did not fall: {found}"
    last = out / "checkpoints/last.ckpt"
    cli = run(["validate", f"--config={out}/config.yaml", f"--ckpt_path={last}", "--trainer.logger=false"])
    cli.datamodule.setup("fit")
    ours, constant = beats_guessing(cli.model, cli.datamodule)
    print(f"{out.name}: {ours:.3f}, constant answer {constant:.3f}")
    assert ours < constant, f"{out.name}: {ours:.3f} on its training data; a constant answer gets {constant:.3f}"
    return cli


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Return the four pre-trainings' folders."""
    root = tmp_path_factory.mktemp("pairs")
    renders = write_renders(tmp_path_factory.mktemp("renders") / "squares")
    for task, images in PRETRAIN.items():
        more = [f"--model.schedule.images={images}", "--model.schedule.warmup_images=80"]
        if task in ("mulclass", "objdet"):
            more.append("--data.steps_per_epoch=50")
        trained("pretrain", task, root / task, f"--data.root={renders}", *more)
    return root


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    root = tmp_path_factory.mktemp("real")
    write_folders(root / "sinclass"), write_coco(root / "objdet"), write_ade20k(root / "semseg")
    return root


@pytest.mark.parametrize("to", FINETUNE)
@pytest.mark.parametrize("start", PRETRAIN)
def test_pair(pretrained, real, start, to):
    out = pretrained / f"{start}-{to}"
    best = pretrained / start / "checkpoints/best.ckpt"
    more = [
        f"--model.init_from={best}",
        f"--data.root={real / to}",
        f"--model.schedule.images={FINETUNE[to]}",
        "--model.schedule.warmup_images=80",
    ]
    if to == "semseg":
        more.append("--data.num_classes=4")
    cli = trained("finetune", to, out, *more)
    assert cli.model.task == to
    test = ["test", f"--config={out}/config.yaml", f"--ckpt_path={out}/checkpoints/last.ckpt"]
    assert main([*test, "--trainer.enable_progress_bar=false"]) == 0
