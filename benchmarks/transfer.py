"""CPU seconds of a training step by each way to transfer, over those of full fine-tuning.

    python benchmarks/transfer.py                  # ResNet-18 at 64 px, and ResNet-10 at 24 px, on a CPU
    python benchmarks/transfer.py --only L2SP SAM

Goals: LinearProbe at most 0.5, L2SP at most 1.03, Replay 1/(1 - share). LPFT's is the mean of its two phases'. In each
round every method trains for a few steps in one process, full fine-tuning before and after it; its ratio is that to
the mean of the two, and the median over the rounds is reported, with the quartiles. Images are random and lie in
memory. What is done once (Fisher information, interpolations) is not counted.
"""

from __future__ import annotations

import argparse
import gc
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch

import lightning_tl.transfer as ways
from lightning_tl.data.batch_transform import BatchTransform
from lightning_tl.data.batched_module import BatchedDataModule, Batches
from lightning_tl.tasks import Classification

SETTINGS = {"resnet18": (64, 32, 10), "resnet10_w16": (24, 50, 40)}  # px, images a step, steps
WARM = 2  # steps that are not timed


class Noise(BatchedDataModule):
    """Random images of random classes, in memory."""

    num_classes, task = 10, "sinclass"

    def __init__(self, side: int, batch: int) -> None:
        super().__init__(batch_size=batch)
        pixels = np.random.default_rng(0).integers(0, 256, (256, side, side, 3), dtype=np.uint8)
        classes = torch.from_numpy(np.random.default_rng(1).integers(0, 10, 256))
        self.splits = {"train": Batches(pixels.__getitem__, classes, BatchTransform(size=side), 0)}


class Clock(pl.Callback):
    """The seconds from one step to another."""

    def __init__(self, first: int) -> None:
        self.first = first

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: object, index: int) -> None:
        """Start at the first step that is timed."""
        if trainer.global_step == self.first:
            self.began = time.process_time()

    def on_train_batch_end(self, *_: object) -> None:
        """Stop, for now."""
        self.ended = time.process_time()


def sgd(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9)  # type: ignore[arg-type]


def methods(steps: int) -> dict[str, tuple[Callable[[], object], str]]:
    """Return by label how to make the method, and what its ratio should be."""
    probe = f"{WARM + steps // 2}"
    return {
        "LinearProbe": (lambda: ways.LinearProbe(), "<= 0.5"),
        f"LPFT, half of the steps ({probe} in)": (lambda: ways.LPFT(probe_steps=int(probe)), "mean of both phases"),
        "L2SP": (lambda: ways.L2SP(0.01), "<= 1.03"),
        "L2SP, decoupled": (lambda: ways.L2SP(0.01, decoupled=True), "<= 1.03"),
        "EWC": (lambda: ways.EWC(1.0, images=2), ""),
        "LoRA, rank 4": (lambda: ways.LoRA(rank=4), ""),
        "Adapter, width 16": (lambda: ways.Adapter(width=16), ""),
        "Partial, share 0.5, frozen": (lambda: ways.Partial(share=0.5, inherited="frozen"), ""),
        "Replay, share 0.2": (lambda: ways.Replay(0.2), "1.25"),
        "Replay, share 0.5": (lambda: ways.Replay(0.5), "2"),
        "SAM": (lambda: ways.SAM(), "about 2"),
        "Average, ema": (lambda: ways.Average(ema=0.99), ""),
    }


def seconds(backbone: str, start: Path, method: object, steps: int) -> float:
    """Train, and return the CPU seconds of the timed steps, which other work on the machine changes little."""
    side, batch, _ = SETTINGS[backbone]
    torch.manual_seed(0)
    task = Classification(10, backbone, init_from=start, transfer=method, optimizer=sgd)  # type: ignore[arg-type]
    if hasattr(method, "use_pretraining"):
        source = Classification(10, backbone)
        source.load_state_dict(torch.load(start, weights_only=True))
        method.use_pretraining(source, Noise(side, batch))  # type: ignore[union-attr]
    gc.collect()  # the trainer of the training before
    clock = Clock(WARM)
    pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=WARM + steps,
        max_epochs=-1,
        callbacks=[clock],
        logger=False,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=start.parent,
    ).fit(task, Noise(side, batch))
    return clock.ended - clock.began


def main() -> None:
    """Print a table for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--backbones", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--only", nargs="+", default=[""], help="beginnings of the methods' names")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for backbone in options.backbones:
        side, batch, steps = SETTINGS[backbone]
        chosen = {name: way for name, way in methods(steps).items() if name.startswith(tuple(options.only))}
        with tempfile.TemporaryDirectory() as folder:
            start = Path(folder) / "start.pt"
            torch.save(Classification(10, backbone).state_dict(), start)
            ratios: dict[str, list[float]] = {name: [] for name in chosen}
            full = [seconds(backbone, start, None, steps)]
            for _ in range(options.rounds):
                for name, (make, _) in chosen.items():
                    taken = seconds(backbone, start, make(), steps)
                    full.append(seconds(backbone, start, None, steps))
                    ratios[name].append(taken / (full[-2] / 2 + full[-1] / 2))
        step = 1000 * np.median(full) / steps
        print(f"\n{backbone}, {side} px, {batch} images a step: {step:.1f} CPU ms a step of full fine-tuning")
        print(f"{'':42}ratio   quartiles      goal")
        for name, (_, goal) in chosen.items():
            low, middle, high = np.quantile(ratios[name], [0.25, 0.5, 0.75])
            print(f"{name:42}{middle:5.2f}   {low:.2f} to {high:.2f}   {goal}", flush=True)


if __name__ == "__main__":
    main()
