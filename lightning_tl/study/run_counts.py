"""How much each run of a study does: steps, validations, images; from its configuration, without running it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning_tl.study.forgetting import BN_IMAGES, LINE_IMAGES
from lightning_tl.study.plan_items import Run

#: Keys that change neither how much a run does nor how fast.
_NEUTRAL = ("data.draw", "data.seed", "seed_everything", "model.optimizer.lr", "model.optimizer.init_args.lr")
#: Keys that change how much it does, and not how fast.
_AMOUNTS = (
    "data.n",
    "data.shots",
    "data.fraction",
    "data.steps_per_epoch",
    "trainer.max_steps",
    "trainer.max_epochs",
    "model.schedule.init_args.images",
    "model.schedule.init_args.epochs",
    "model.schedule.init_args.warmup_images",
)
#: Forward passes of measuring what was forgotten: over all validation images, over those for BatchNorm's statistics,
#: and over those for slope and curvature, where a gradient counts as three and a Hessian-vector product as six.
_LOSSES, _STATISTICS, _LINE = 4, 2, 11


@dataclass(frozen=True)
class Work:
    """What one run does.

    Attributes:
        steps: Training steps.
        validations: Number of validations.
        val_images: Images of each.
        test_images: Images of the test.
        kind: Its stage and, where the stage has several, what tells those runs apart that may differ in speed.
        start_images: Images that the network of the pre-training is applied to, to measure what was forgotten.
    """

    steps: int
    validations: int
    val_images: int
    test_images: int
    kind: str
    start_images: int = 0


def kinds_of(runs: Sequence[Run]) -> dict[str, str]:
    """Return run name → kind of run: those of one kind are equally fast. A kind begins with its stage."""
    own = {run.name: [arg.lstrip("-") for arg in run.args if not _is(arg, (*_NEUTRAL, *_AMOUNTS))] for run in runs}
    kinds = {}
    for stage in dict.fromkeys(run.stage for run in runs):
        names = [run.name for run in runs if run.stage == stage]
        shared = set.intersection(*(set(own[name]) for name in names))
        for name in names:
            kinds[name] = " ".join([stage, *(_short(arg) for arg in own[name] if arg not in shared)])
    return kinds


def _short(argument: str) -> str:
    key, _, value = argument.partition("=")
    return Path(value).stem if key == "config" else argument


def work_of(runs: Sequence[Run], place: Path, val_images: int) -> dict[str, Work]:
    """Return run name → what it does.

    Args:
        runs: All runs.
        place: ``place/renders`` holds the data sets, or stand-ins for them.
        val_images: Validation images of each rendering.
    """
    known: dict[tuple[Any, ...], Work] = {}
    work = {}
    kinds = kinds_of(runs)
    for run in runs:
        same = (run.stage, run.trial, run.start is None, *(arg for arg in run.args if not _is(arg, _NEUTRAL)))
        if same not in known:
            known[same] = _work(run, place, val_images)
        work[run.name] = replace(known[same], kind=kinds[run.name])
    for run in runs:
        if run.forgetting and run.start in work:
            work[run.name] = replace(work[run.name], start_images=_images_for_forgetting(work[run.start].val_images))
    return work


def _images_for_forgetting(val_images: int) -> int:
    return _LOSSES * val_images + _STATISTICS * BN_IMAGES + _LINE * min(LINE_IMAGES, val_images)


def _is(argument: str, keys: Sequence[str]) -> bool:
    return argument.lstrip("-").partition("=")[0] in keys


def _work(run: Run, place: Path, val_images: int) -> Work:
    from lightning_tl.data.batched_module import BatchedDataModule
    from lightning_tl.run import CheckCLI

    args = list(run.args)
    if run.render is not None:
        args.append(f"--data.root={place / 'renders' / run.render}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cli = CheckCLI(["fit", *args])
        data, trainer = cli.datamodule, cli.trainer
        images = {"train": 0, "val": val_images, "test": 0}
        if run.render is not None:
            images["train"] = int(cli.config["fit"].get("data.init_args.n") or 0)
        elif isinstance(data, BatchedDataModule):
            for stage in ("fit", "test"):
                data.setup(stage)
                images |= {name: len(split) for name, split in data.splits.items()}
    batch = (getattr(data, "batch_size", None) or 1) * trainer.world_size
    every = getattr(data, "steps_per_epoch", None) or math.ceil(images["train"] / batch)
    every = max(1, math.ceil(every / trainer.accumulate_grad_batches))
    steps = _steps(cli, batch * trainer.accumulate_grad_batches, images["train"], every)
    test = images["test"] if run.stage == "finetune" and not run.trial else 0
    again = run.test_at == "best"  # the best network is validated once more
    return Work(steps, max(1, math.ceil(steps / every)) + again, images["val"], test, run.stage)


def _steps(cli: Any, batch: int, images: int, every: int) -> int:
    """Return the steps of a training: those of the trainer or of the module's schedule, whichever end first."""
    trainer, schedule = cli.trainer, getattr(cli.model, "schedule", None)
    limits = [trainer.max_steps] if trainer.max_steps >= 0 else []
    if trainer.max_epochs is not None and trainer.max_epochs >= 0:
        limits.append(every * trainer.max_epochs)
    if schedule is not None and trainer.max_steps < 0:
        tokens = getattr(cli.datamodule, "sample_tokens", None)
        limits.append(schedule.steps(batch, images, tokens)[0])
    return int(min(limits, default=every))
