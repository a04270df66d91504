"""Small fine-tunings on the rendered test set, from a pre-trained network of random weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_tl.data import Rendered
from lightning_tl.tasks import MultiLabelClassification, SemanticSegmentation

BACKBONE = "resnet10_w8"


def data(renders: Path, target: str = "mulclass", **settings: Any) -> Rendered:
    transform = {"size": 24} if target == "mulclass" else {"crop": 32, "shorter": [32, 40], "eval_shorter": 32}
    given = {"n": 24, "batch_size": 8, "steps_per_epoch": 2, "transform": transform} | settings
    return Rendered(renders, target=target, **given)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def task(start: Path | None, transfer: Any = None, target: str = "mulclass", seed: int = 1, **settings: Any) -> Any:
    """Return a task of three categories; its head follows from the seed."""
    torch.manual_seed(seed)
    given = {"backbone": BACKBONE, "init_from": start, "transfer": transfer, "optimizer": sgd} | settings
    if target == "mulclass":
        return MultiLabelClassification(3, **given)
    return SemanticSegmentation(4, output_stride=16, **given)


def pretrained(path: Path, target: str = "mulclass") -> Path:
    """Write the checkpoint of a network whose BatchNorm has seen something."""
    network = task(None, target=target, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        network.train()(torch.rand(16, 3, 32, 32, generator=generator))
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": network.state_dict()}, path)
    return path


def trainer(folder: Path, **settings: Any) -> pl.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    quiet |= {"enable_checkpointing": False, "max_epochs": -1, "max_steps": 4, "num_sanity_val_steps": 0}
    return pl.Trainer(default_root_dir=folder, accelerator="cpu", **({"devices": 1} | quiet | settings))


def every_step(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1, save_weights_only=False)


def fit(module: Any, images: Any, folder: Path, resume: Path | None = None, **settings: Any) -> pl.Trainer:
    pl.seed_everything(0, verbose=False)
    made = trainer(folder, **settings)
    made.fit(module, images, ckpt_path=str(resume) if resume else None, weights_only=True)
    return made


def state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def different(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> list[str]:
    """Return the names of the tensors that are not equal bit for bit."""
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


def resumed_differs(make: Any, renders: Path, folder: Path, target: str = "mulclass", at: int = 2) -> list[str]:
    """Train whole, and again from the checkpoint of a step; return what differs."""
    kept = folder / "kept"
    whole = make()
    fit(whole, data(renders, target), folder / "whole", callbacks=[every_step(kept)], enable_checkpointing=True)
    again = make()
    fit(again, data(renders, target), folder / "again", kept / f"step={at}.ckpt")
    return different(state(whole), state(again))


def only_these_moved(module: Any, before: dict[str, torch.Tensor], pattern: str) -> None:
    """Check a finished training: these parameters moved and were in the optimiser; BatchNorm followed where they are.

    Args:
        module: The trained task.
        before: Its state before the training.
        pattern: Of the names of the parameters that are trained.
    """
    parameters = dict(module.named_parameters())
    moved = {key for key in parameters if not torch.equal(parameters[key], before[key])}
    assert moved == {key for key in parameters if re.fullmatch(pattern, key)}
    in_groups = {id(p) for group in module.optimizers().param_groups for p in group["params"]}
    assert in_groups == {id(parameters[key]) for key in moved}
    sizes = sum(parameters[key].numel() for key in moved), sum(p.numel() for p in parameters.values())
    assert module.transfer.parameter_counts(module) == sizes
    for key, layer in module.backbone.named_modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            own = {f"backbone.{key}.{each}" for each in ("weight", "bias")}
            for name in ("running_mean", "running_var", "num_batches_tracked"):
                kept = torch.equal(layer.get_buffer(name), before[f"backbone.{key}.{name}"])
                assert kept == (not own & moved), (key, name)
