"""Checkpoints as a training writes them, of networks with random weights."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from models.networks import randomised

from lightning_tl.data.transforms import CropTransform

CLASSES = ["cup", "saucer", "tea | pot"]


def checkpoint(path: Path, kind: Any, backbone: str, *args: Any, size: int = 64, step: int = 7, **options: Any) -> Any:
    """Write the checkpoint of a task of three outputs that was trained on images of a size; return the task."""
    torch.manual_seed(0)
    task = kind(3, backbone, *args, **options)
    randomised(task.backbone, scale=0.05)
    for name, parameter in task.named_parameters():
        if name.endswith(("lora_B", "adapter.up.weight")):
            torch.nn.init.normal_(parameter, std=0.01)
    data = SimpleNamespace(classes=CLASSES, transform=CropTransform(size=size, eval_resize=size + 16))
    task._trainer = SimpleNamespace(datamodule=data)
    content: dict[str, Any] = {"state_dict": task.state_dict(), "hyper_parameters": dict(task.hparams)}
    content |= {"global_step": step, "pytorch-lightning_version": "2.6.0"}
    task.on_save_checkpoint(content)
    task._trainer = None
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return task.eval()


def images(side: int = 64, number: int = 3) -> torch.Tensor:
    return torch.rand(number, 3, side, side, generator=torch.Generator().manual_seed(2))


def close(theirs: torch.Tensor, ours: torch.Tensor) -> bool:
    return float((theirs - ours).abs().max()) <= 1e-5 * float(ours.abs().max())
