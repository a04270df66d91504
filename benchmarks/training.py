"""A training by `lightning-tl fit` beside a loop in plain torch with the same network, optimiser, data and batches.

    python benchmarks/training.py                      # all three cases, on one core
    python benchmarks/training.py images --steps 1200  # more steps: a narrower interval
    python benchmarks/training.py images --plain       # a LightningModule that only returns the loss in place of ours
    python benchmarks/training.py images --gpu         # one GPU: ResNet-50 at 224 px, bf16, channels_last

Cases: `images`, a small ResNet on images of 32 px (goal: ratio of at least 0.97); `language`, a decoder of 3 million
parameters (at least 0.95); `tiny`, a decoder of 6,144 parameters, whose step takes a few milliseconds, so that any
framework's time per step shows. Loading should take less than 2 % of the time.

Both sides take turns of a few steps in one process, so that a busy machine slows both alike. On the CPU, time is that
of the process, on one thread. The ratio is that of the speeds, over all turns; its 95 % interval is a bootstrap over
pairs of turns. Our side has the trainer, seeds, loggers and checkpoints of a recipe, and makes a log entry every 25
steps; `--plain` shows what Lightning itself costs. The bare loop takes its batches from the same loader, so "loading"
is the share of our side's time in it.

Measured on one core, `--steps 1200`: images 0.960 (0.957 to 0.963), 3.2 % loading; with `--plain` 0.963 (0.959 to
0.967). So that goal is not reached there: Lightning's own millisecond per step is 4 % of the 25 of this small network.
Language, `--steps 200`: 0.993 (0.991 to 0.996), 0.1 % loading.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import nn

from lightning_tl.data.batch_transform import BatchTransform
from lightning_tl.data.batched_module import BatchedDataModule, Batches
from lightning_tl.data.text import Text
from lightning_tl.tasks import CausalLanguageModel, Classification, TransferTask, WarmupCosine

LOG_EVERY = 25


class Noise(BatchedDataModule):
    """Random images of random classes, in memory."""

    num_classes, task = 10, "sinclass"

    def __init__(self, side: int, number: int, **shared: Any) -> None:
        super().__init__(**shared)
        pixels = np.random.default_rng(0).integers(0, 256, (number, side, side, 3), dtype=np.uint8)
        classes = torch.from_numpy(np.random.default_rng(1).integers(0, 10, number))
        self.splits = {"train": Batches(pixels.__getitem__, classes, BatchTransform(size=side, hflip=0.5))}


@dataclass(frozen=True)
class Case:
    """What both sides train.

    Attributes:
        network: Makes the task, given the number of classes and further arguments of its constructor.
        data: Makes the data module, given further arguments.
        optimizer: From parameters.
        batch: Samples in a batch.
        turn: Steps of a turn.
        clip: Largest norm of the gradient.
    """

    network: Callable[..., TransferTask]
    data: Callable[..., BatchedDataModule]
    optimizer: Callable[[Any], torch.optim.Optimizer]
    batch: int
    turn: int
    clip: float | None = None


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=1e-4)


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)


def image_case(backbone: str, side: int, batch: int, turn: int) -> Case:
    def network(classes: int, **given: Any) -> TransferTask:
        return Classification(classes, backbone=backbone, **given)

    def data(**given: Any) -> BatchedDataModule:
        return Noise(side, 8 * batch, **given)

    return Case(network, data, sgd, batch, turn)


def language_case(batch: int, context: int, turn: int, **architecture: Any) -> Case:
    def network(classes: int, **given: Any) -> TransferTask:
        return CausalLanguageModel(classes, **architecture, **given)

    def data(**given: Any) -> BatchedDataModule:
        text = Text("builtin:python", context=context, **given)
        text.prepare_data()
        text.setup("fit")
        return text

    return Case(network, data, adamw, batch, turn, clip=1.0)


MIDDLE = {"width": 256, "layers": 4, "heads": 4, "hidden": 704}
CPU = {
    "images": image_case("resnet10_w16", 32, 64, turn=3),
    "language": language_case(8, 128, turn=2, shape=MIDDLE),
    "tiny": language_case(32, 32, turn=20, backbone="decoder_6k"),
}
GPU = {
    "images": image_case("resnet50", 224, 256, turn=100),
    "language": language_case(64, 512, turn=50, backbone="decoder_30m"),
    "tiny": language_case(32, 32, turn=100, backbone="decoder_6k"),
}


class Plain(pl.LightningModule):
    """The network of a task in the shortest LightningModule: no log, no metric."""

    def __init__(self, task: TransferTask, optimizer: Callable[[Any], Any], schedule: Callable[[Any], Any]) -> None:
        super().__init__()
        self.network = nn.Sequential(task.backbone, task.head)
        self.optimizer, self.schedule = optimizer, schedule

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return F.cross_entropy(self.network(batch[0]).flatten(0, -2), batch[1].flatten())

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.parameters())
        return [optimizer], [{"scheduler": self.schedule(optimizer), "interval": "step"}]


def now(gpu: bool) -> float:
    """Return the time of the process in seconds; with a GPU, that of the clock when the GPU has done its work."""
    if not gpu:
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


class Turns:
    """The batches of our side. After every ``turn`` of them the other side does as many steps; both are timed."""

    def __init__(self, loader: Any, other: Iterator[None], turn: int, gpu: bool) -> None:
        self.loader, self.other, self.turn, self.gpu = loader, other, turn, gpu
        self.ours: list[float] = []
        self.bare: list[float] = []
        self.loading: list[float] = []

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        batches, begun, loading = iter(self.loader), 0.0, 0.0
        for number in range(len(self.loader)):
            if number % self.turn == 0:
                ended = now(self.gpu)
                if number:
                    self.ours.append(ended - begun)
                    self.loading.append(loading)
                for _ in range(self.turn):
                    next(self.other)
                begun, loading = now(self.gpu), 0.0
                self.bare.append(begun - ended)
            clock = time.perf_counter if self.gpu else time.process_time
            before = clock()
            batch = next(batches)
            loading += clock() - before
            yield batch


def bare_steps(case: Case, task: TransferTask, batches: Iterator[Any], steps: int, gpu: bool) -> Iterator[None]:
    """Train by hand, a step at a time."""
    device = torch.device("cuda" if gpu else "cpu")
    network = nn.Sequential(task.backbone, task.head).to(device).train()
    parameters = list(network.parameters())
    optimizer = case.optimizer(parameters)
    schedule = WarmupCosine(optimizer, total_steps=steps)
    for inputs, targets in batches:
        inputs, targets = inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True)
        if inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cuda", torch.bfloat16) if gpu else nullcontext():
            loss = F.cross_entropy(network(inputs).flatten(0, -2), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        if case.clip is not None:
            nn.utils.clip_grad_norm_(parameters, case.clip)
        optimizer.step()
        schedule.step()
        yield


def measure(case: Case, steps: int, workers: int, gpu: bool, plain: bool) -> Turns:
    """Train on both sides in turns."""
    pl.seed_everything(0, verbose=False)
    data = case.data(batch_size=case.batch, steps_per_epoch=steps, num_workers=workers)

    def schedule(optimizer: torch.optim.Optimizer) -> WarmupCosine:
        return WarmupCosine(optimizer, total_steps=steps)

    task, other = (case.network(data.num_classes, optimizer=case.optimizer, scheduler=schedule) for _ in range(2))
    by_hand = bare_steps(case, other, data.training_batches(), 2 * steps, gpu)
    turns = Turns(data.train_dataloader(), by_hand, case.turn, gpu)
    data.train_dataloader = lambda: turns  # type: ignore[method-assign, assignment, return-value]
    with tempfile.TemporaryDirectory() as folder:
        pl.Trainer(
            default_root_dir=folder,
            accelerator="gpu" if gpu else "cpu",
            devices=1,
            precision="bf16-mixed" if gpu else "32-true",
            max_steps=steps,
            max_epochs=-1,
            log_every_n_steps=LOG_EVERY,
            limit_val_batches=0,
            gradient_clip_val=case.clip,
            enable_progress_bar=False,
            enable_model_summary=False,
            logger=not plain
            and [
                CSVLogger(folder, name="csv", flush_logs_every_n_steps=LOG_EVERY),
                TensorBoardLogger(folder, name="tb"),
            ],
            callbacks=[ModelCheckpoint(Path(folder) / "checkpoints", save_last=True, save_top_k=0)],
        ).fit(Plain(task, case.optimizer, schedule) if plain else task, data)
    return turns


def report(name: str, case: Case, turns: Turns, warmup: int) -> str:
    """Return a line: milliseconds per step, their ratio with its interval, the share of loading."""
    ours, loading = (np.array(values[warmup:]) for values in (turns.ours, turns.loading))
    bare = np.array(turns.bare[warmup : warmup + len(ours)])
    draws = np.random.default_rng(0).integers(0, len(ours), (2000, len(ours)))
    low, high = np.quantile(bare[draws].sum(1) / ours[draws].sum(1), [0.025, 0.975])
    step = [1000 * side.mean() / case.turn for side in (ours, bare)]
    return (
        f"{name:<8}  fit {step[0]:7.2f} ms per step, by hand {step[1]:7.2f}, ratio {bare.sum() / ours.sum():.3f} "
        f"({low:.3f} to {high:.3f}), loading {loading.sum() / ours.sum():.1%}"
    )


def main() -> None:
    """Print one line per case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"{', '.join(CPU)}; default: all")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--plain", action="store_true", help="a LightningModule that only returns the loss, no logger")
    parser.add_argument("--steps", type=int, help="of each side; default: 200 turns, with --gpu 6")
    parser.add_argument("--warmup", type=int, help="turns that are not counted; default: 5, with --gpu 1")
    parser.add_argument("--workers", type=int, help="loader processes; default: 0, with --gpu 12")
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CPU):
        parser.error(f"no case {', '.join(unknown)}")
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    turns, warmup, workers = (6, 1, 12) if options.gpu else (200, 5, 0)
    if options.warmup is not None:
        warmup = options.warmup
    if options.workers is not None:
        workers = options.workers
    if not options.gpu:
        torch.set_num_threads(1)
        if not torch.cuda.is_available():  # as in `lightning-tl fit`; a loop that does not import Lightning has it so
            os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    for name in options.cases or CPU:
        case = (GPU if options.gpu else CPU)[name]
        steps = options.steps or (turns + warmup) * case.turn
        print(report(name, case, measure(case, steps, workers, options.gpu, options.plain), warmup), flush=True)


if __name__ == "__main__":
    main()
