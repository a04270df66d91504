"""Short training runs for the tests, from the shipped configurations."""

from __future__ import annotations

from pathlib import Path

import torch

STEPS, EPOCH = 10, 4

OVERLAY = """\
trainer:
  callbacks+:
    - class_path: ModelCheckpoint
      init_args:
        dirpath: {folder}/steps
        filename: "{{step}}"
        every_n_train_steps: {every}
        save_top_k: -1
"""

# a program: runs its arguments and kills itself before the optimizer step that its first argument names
DRIVER = """
import os, signal, sys
from lightning.pytorch import Callback
from lightning_tl.run import run

class Kill(Callback):
    def on_before_optimizer_step(self, trainer, *_):
        if trainer.global_step == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)

import torch
torch.set_num_threads(1)
run(sys.argv[2:], callbacks=[Kill()])
"""


def every_step(folder: Path, every: int = 1) -> str:
    """Return the option that adds a checkpoint every few steps."""
    path = folder.with_suffix(".yaml")
    path.write_text(OVERLAY.format(folder=folder, every=every))
    return f"--config={path}"


def pretraining(renders: Path, out: Path, *more: str) -> list[str]:
    """Arguments of a pre-training of ten steps, validated after every four."""
    return [
        "fit",
        "--config=pretrain/small_images",
        f"--data.root={renders}",
        "--data.batch_size=8",
        f"--data.steps_per_epoch={EPOCH}",
        f"--trainer.max_steps={STEPS}",
        "--model.scheduler.warmup_steps=2",
        f"--trainer.default_root_dir={out}",
        "--trainer.enable_progress_bar=false",
        *more,
    ]


def finetuning(out: Path, *more: str) -> list[str]:
    """Arguments of a fine-tuning of six steps."""
    return [
        "fit",
        "--config=finetune/digits",
        "--data.shots=2",
        "--data.batch_size=8",
        "--data.steps_per_epoch=6",
        "--trainer.max_steps=6",
        "--model.scheduler.warmup_steps=2",
        f"--trainer.default_root_dir={out}",
        "--trainer.enable_progress_bar=false",
        *more,
    ]


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)["state_dict"]


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}
