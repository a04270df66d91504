"""Images a second of a whole training run beside a hand-written torch loop with the same model, data and batch.

    python benchmarks/training.py                 # CPU: classification of rendered digits' size, goal: ratio >= 0.97
    python benchmarks/training.py --gpu           # one GPU: ResNet-50 at 224 px, bf16, channels_last

Both sides take turns in one process, so that a busy machine slows both; the ratio is the median over the pairs. The
images are random and lie in memory. The run is that of `lightning-tl fit`: its task, a data module of this library,
Lightning's trainer with the loggers and the checkpoints of a recipe.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from contextlib import nullcontext
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lightning_tl.data.batch_transform import BatchTransform
from lightning_tl.data.batched_module import BatchedDataModule, Batches
from lightning_tl.tasks import Classification, WarmupCosine


class Noise(BatchedDataModule):
    """Random images of random classes, in memory."""

    num_classes, task = 10, "sinclass"

    def __init__(self, side: int, batch: int, steps: int, number: int, workers: int) -> None:
        super().__init__(batch_size=batch, steps_per_epoch=steps, num_workers=workers)
        pixels = np.random.default_rng(0).integers(0, 256, (number, side, side, 3), dtype=np.uint8)
        classes = torch.from_numpy(np.random.default_rng(1).integers(0, 10, number))
        self.splits = {"train": Batches(pixels.__getitem__, classes, BatchTransform(size=side, hflip=0.5), 0, 0)}


class Clock(pl.Callback):
    """The seconds of the steps behind the first ones, and how much of it was spent waiting for data."""

    def __init__(self, warmup: int) -> None:
        self.warmup, self.waiting, self._ended = warmup, 0.0, 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: object, index: int) -> None:
        """Start the clock, or stop that of waiting."""
        if index == self.warmup:
            synchronize()
            self.began = time.perf_counter()
        elif index > self.warmup:
            self.waiting += time.perf_counter() - self._ended

    def on_train_batch_end(self, *_: object) -> None:
        """From here on the run waits for data."""
        self._ended = time.perf_counter()

    def on_train_end(self, *_: object) -> None:
        """Stop the clock."""
        synchronize()
        self.seconds = time.perf_counter() - self.began


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def sgd(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=1e-4)  # type: ignore[arg-type]


def model(options: argparse.Namespace) -> Classification:
    torch.manual_seed(0)
    total = options.warmup + options.steps
    return Classification(
        10, backbone=options.backbone, optimizer=sgd, scheduler=lambda o: WarmupCosine(o, total_steps=total)
    )


def ours(options: argparse.Namespace, data: Noise) -> tuple[float, float]:
    """Return the images a second of a run, and the share of the time that it waited for data."""
    clock = Clock(options.warmup)
    with tempfile.TemporaryDirectory() as folder:
        pl.Trainer(
            default_root_dir=folder,
            accelerator="gpu" if options.gpu else "cpu",
            devices=1,
            precision="bf16-mixed" if options.gpu else "32-true",
            max_steps=options.warmup + options.steps,
            max_epochs=-1,
            log_every_n_steps=25,
            limit_val_batches=0,
            enable_progress_bar=False,
            enable_model_summary=False,
            logger=[CSVLogger(folder, name="csv", flush_logs_every_n_steps=25), TensorBoardLogger(folder, name="tb")],
            callbacks=[clock, ModelCheckpoint(Path(folder) / "checkpoints", save_last=True, save_top_k=0)],
        ).fit(model(options), data)
    return options.batch * options.steps / clock.seconds, clock.waiting / clock.seconds


def bare(options: argparse.Namespace, data: Noise) -> float:
    """Return the images a second of a loop written by hand."""
    device = torch.device("cuda" if options.gpu else "cpu")
    task = model(options)
    network = torch.nn.Sequential(task.backbone, task.head).to(device).train()
    optimizer = sgd(network.parameters())
    schedule = WarmupCosine(optimizer, total_steps=options.warmup + options.steps)
    data.trainer = None
    began = 0.0
    for step, (images, classes) in enumerate(data.train_dataloader()):
        if step == options.warmup:
            synchronize()
            began = time.perf_counter()
        images = images.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last)
        classes = classes.to(device, non_blocking=True)
        with torch.autocast("cuda", torch.bfloat16) if options.gpu else nullcontext():
            loss = F.cross_entropy(network(images), classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    synchronize()
    return options.batch * options.steps / (time.perf_counter() - began)


def main() -> None:
    """Print a line a pair, then the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--backbone", help="default: resnet10_w16, with --gpu resnet50")
    parser.add_argument("--side", type=int, help="pixels; default: 32, with --gpu 224")
    parser.add_argument("--batch", type=int, help="default: 64, with --gpu 256")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--workers", type=int, help="loader processes; default: 0, with --gpu 12")
    options = parser.parse_args()
    for name, small, large in (("backbone", "resnet10_w16", "resnet50"), ("side", 32, 224), ("batch", 64, 256)):
        if getattr(options, name) is None:
            setattr(options, name, large if options.gpu else small)
    workers = (12 if options.gpu else 0) if options.workers is None else options.workers
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    steps = options.warmup + options.steps
    data = Noise(options.side, options.batch, steps, 8 * options.batch, workers)
    ratios, rates, waits = [], [], []
    for pair in range(options.pairs):
        # the two orders in turn: what the first of a pair warms up is the second's
        if pair % 2:
            hand, (rate, wait) = bare(options, data), ours(options, data)
        else:
            (rate, wait), hand = ours(options, data), bare(options, data)
        ratios.append(rate / hand)
        rates.append(rate)
        waits.append(wait)
        print(f"fit {rate:.0f} images/s, by hand {hand:.0f}, ratio {rate / hand:.3f}, waiting for data {wait:.1%}")
    print(
        f"median: fit {statistics.median(rates):.0f} images/s, ratio {statistics.median(ratios):.3f} "
        f"(from {min(ratios):.3f} to {max(ratios):.3f}), waiting for data {statistics.median(waits):.1%}"
    )


if __name__ == "__main__":
    main()
