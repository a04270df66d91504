"""Keeps `metrics.csv` over interruptions: Lightning's CSVLogger would delete it when a run is resumed."""

from __future__ import annotations

import csv
import io
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only

from lightning_tl._io.atomic import replacing


@rank_zero_only
def keep_history(logger: CSVLogger, before_step: int | None = None) -> None:
    """Let a logger append to the `metrics.csv` in its folder.

    Args:
        logger: A logger that has not logged anything yet.
        before_step: Rows from this step on are dropped; the resumed run writes them again. None keeps all.
    """
    path = Path(logger.log_dir) / "metrics.csv"
    if not path.is_file():
        return
    text = path.read_text()
    reader = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))  # a line may have been cut by a kill
    columns = list(reader.fieldnames or ())
    if "step" not in columns:
        return
    rows = [row for row in reader if before_step is None or int(row["step"]) < before_step]
    kept = io.StringIO()
    writer = csv.DictWriter(kept, columns)
    writer.writeheader()
    writer.writerows(rows)
    with replacing(path) as beside:
        beside.write_text(kept.getvalue(), newline="")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its warning that the file will be deleted
            experiment = logger.experiment  # deletes it
    experiment.metrics_keys = columns


class WholeHistory(Callback):
    """Makes the history of a resumed run that of one that was never interrupted.

    It is written with each checkpoint, so that nothing before the checkpoint is missing. And its steps are counted on:
    after resuming from the end of an epoch Lightning counts the last step twice, for loggers only.
    """

    def __init__(self) -> None:
        self._counted = False

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write what was logged since the last writing."""
        for logger in trainer.loggers:
            if isinstance(logger, CSVLogger):
                logger.save()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Correct the loggers' count before the first step."""
        if not self._counted and pl_module.automatic_optimization and len(trainer.optimizers) == 1:
            trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
        self._counted = True
