"""The callback of every task: seeds each training batch, sets the length of the training, validates at its end."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_tl.tasks.lr_schedules import Schedule
from lightning_tl.torch_seed import seed_torch
from lightning_tl.transfer.final_weights import is_last_step


class TrainingControl(Callback):
    """Seeds, length and end of a training. Every task adds it to its runs, whichever hooks the task overrides.

    * With ``seed_everything``, torch's global generator is seeded for each training batch by (seed, batch, process).
      Dropout and other draws are then the same in a resumed run as in an uninterrupted one.
    * Where the trainer's ``max_steps`` is not given, it follows from the module's ``schedule``.
    * After the last step the training stops with a validation, also where that step is within an epoch.
    * A ``ModelCheckpoint`` that keeps only the newest checkpoint, but not of every epoch, also saves the last step.
    """

    scheduled: int | None = None  # steps of the module's schedule

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set the length of the training."""
        schedule = getattr(pl_module, "schedule", None)
        if stage != "fit" or schedule is None:
            return
        sizes = batch_and_images(trainer, schedule)
        batch = sizes[0]
        steps, _ = schedule.steps(*sizes)
        if trainer.max_steps == -1:
            trainer.fit_loop.epoch_loop.max_steps = steps
        elif trainer.max_steps < steps and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            rank_zero_warn(_cut_short("trainer.max_steps", trainer.max_steps, trainer.max_steps, steps))
        elif trainer.max_steps > steps:
            rank_zero_info(f"trainer.max_steps is {trainer.max_steps}; model.schedule has {steps} steps")
        self.scheduled = steps
        other = f", at the learning rate of a batch of {schedule.batch}" if schedule.batch not in (None, batch) else ""
        scaled = " scaled to it" if other and schedule.scale_lr == "linear" else ""
        samples = "images" if sizes[2] is None else f"texts of up to {sizes[2]} tokens"
        rank_zero_info(f"{steps} steps of {batch} {samples}{other}{scaled}")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn where the epochs end before the schedule does."""
        if self.scheduled is None or trainer.max_epochs in (None, -1) or trainer.max_steps < self.scheduled:
            return
        batches = trainer.num_training_batches
        if batches != float("inf"):
            steps = trainer.max_epochs * -(-int(batches) // trainer.accumulate_grad_batches)
            if steps < self.scheduled:
                rank_zero_warn(_cut_short("trainer.max_epochs", trainer.max_epochs, steps, self.scheduled))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed torch's global generators for this batch."""
        if "PL_GLOBAL_SEED" in os.environ:  # set by seed_everything
            done = trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]
            words = np.random.SeedSequence([int(os.environ["PL_GLOBAL_SEED"]), 2, done, trainer.global_rank])
            seed_torch(int(words.generate_state(1, np.uint64)[0] >> 1))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End the training at its last step."""
        if 0 < trainer.max_steps <= trainer.global_step:
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last step, which Lightning would leave out with ``every_n_train_steps: 1000`` after 1,500 steps."""
        if not is_last_step(trainer):
            return
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and _leaves_out_this_step(callback, trainer):
                candidates = callback._monitor_candidates(trainer)
                callback._save_topk_checkpoint(trainer, candidates)
                callback._save_last_checkpoint(trainer, candidates)


def _leaves_out_this_step(callback: ModelCheckpoint, trainer: Trainer) -> bool:
    """Return whether a callback that keeps only the newest checkpoint saves no checkpoint of this step by itself."""
    if callback.monitor is not None or callback.save_top_k not in (0, 1):
        return False
    every = callback.every_n_epochs
    by_itself = every and (trainer.current_epoch + 1) % every == 0 and callback._should_save_on_train_epoch_end(trainer)
    return not by_itself and not callback._should_skip_saving_checkpoint(trainer)


def _cut_short(key: str, value: int | None, steps: int, scheduled: int) -> str:
    return (
        f"{key} is {value}: the training ends after {steps} of the {scheduled} steps of model.schedule, before its "
        f"learning rate has come down; leave {key} out, or shorten the schedule (model.schedule.init_args.images, "
        "epochs or tokens)"
    )


def batch_and_images(trainer: Trainer, schedule: Schedule) -> tuple[int, int, int | None]:
    """Return what a schedule's steps follow from.

    These are the images of a training step over all processes, those of a pass (0 where the schedule needs none), and
    the tokens of a sample (None where the data module does not say). The batch is the data module's ``batch_size``,
    where it has one, else that of its loader.
    """
    batch = getattr(trainer.datamodule, "batch_size", None)  # type: ignore[attr-defined]
    images = 0
    if schedule.in_epochs or batch is None:
        trainer.fit_loop.setup_data()
        loader: Any = trainer.train_dataloader
        batch = batch or loader.batch_size or loader.batch_sampler.batch_size
        images = len(loader.dataset) if schedule.in_epochs else 0
    tokens = getattr(trainer.datamodule, "sample_tokens", None)  # type: ignore[attr-defined]
    return batch * trainer.accumulate_grad_batches * trainer.world_size, images, tokens
