"""How much each run of a study does: steps, validations, images; from its configuration, without running it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_tl.study.plan_items import Run

#: Keys that change neither how much a run does nor how fast.
_NEUTRAL = ("data.draw", "data.seed", "seed_everything", "model.optimizer.lr")


@dataclass(frozen=True)
class Work:
    """What one run does.

    Attributes:
        steps: Training steps.
        validations: Number of validations.
        val_images: Images of each.
        test_images: Images of the test.
    """

    steps: int
    validations: int
    val_images: int
    test_images: int


def work_of(runs: Sequence[Run], place: Path, val_images: int) -> dict[str, Work]:
    """Return run name → what it does.

    Args:
        runs: All runs.
        place: ``place/renders`` holds the data sets, or stand-ins for them.
        val_images: Validation images of each rendering.
    """
    known: dict[tuple[Any, ...], Work] = {}
    work = {}
    for run in runs:
        kind = (run.stage, run.trial, run.start is None, *(arg for arg in run.args if not _neutral(arg)))
        if kind not in known:
            known[kind] = _work(run, place, val_images)
        work[run.name] = known[kind]
    return work


def _neutral(argument: str) -> bool:
    return argument.lstrip("-").partition("=")[0] in _NEUTRAL


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
    batch = getattr(data, "batch_size", None) or 1
    every = getattr(data, "steps_per_epoch", None) or math.ceil(images["train"] / batch)
    every = max(1, math.ceil(every / trainer.accumulate_grad_batches))
    steps = trainer.max_steps if trainer.max_steps and trainer.max_steps > 0 else every * (trainer.max_epochs or 1)
    test = images["test"] if run.stage == "finetune" and not run.trial else 0
    return Work(int(steps), max(1, math.ceil(steps / every)), images["val"], test)
