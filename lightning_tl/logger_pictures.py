"""Pictures in TensorBoard and Weights & Biases: training images, predictions beside the truth, sensitivity curves."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from PIL import Image
from torch import Tensor

from lightning_tl.data.prediction_pictures import prediction_sheet
from lightning_tl.data.preview import image_grid, visible_pixels
from lightning_tl.measured_value import Measured
from lightning_tl.tasks import TransferTask

_SHEET, _COLUMNS, _SIDE = 24, 6, 96


def takes_pictures(logger: Logger) -> bool:
    """Return whether a logger shows images: TensorBoard's, and those with ``log_image``, as Weights & Biases'."""
    return isinstance(logger, TensorBoardLogger) or hasattr(logger, "log_image")


class LoggerPictures(Callback):
    """Logs pictures to the loggers that take them; ``lightning-tl fit`` adds it where there is one.

    - ``pictures/training``: images of the first batch, as the network gets them.
    - ``pictures/predictions``: of the first validation batch, beside the truth, after each validation. They are those
      that the validation has computed.
    - ``pictures/measurements``: curves of what the measuring callbacks have measured, at the end.

    Args:
        count: Images of which predictions are shown.
    """

    def __init__(self, count: int = 4) -> None:
        self.count = count
        self._kept: tuple[list[Any], list[Any], list[Any]] | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Log a sheet of the images that a training begins with."""
        if trainer.global_step or batch_idx or trainer.current_epoch or not trainer.is_global_zero:
            return
        images = batch[0] if isinstance(batch, list | tuple) and len(batch) == 2 else None
        if images is not None and _are_images(images):
            pixels = [visible_pixels(image.float().cpu().numpy()) for image in images[:_SHEET]]
            _log(trainer, "training", image_grid(pixels, _COLUMNS, _SIDE))

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep what the validation computes for its first images."""
        first = batch_idx == dataloader_idx == 0 and trainer.is_global_zero and not trainer.sanity_checking
        if not first or not isinstance(pl_module, TransferTask):
            return
        compute = pl_module.outputs_and_loss

        def compute_and_keep(images: Any, targets: Any, stage: str) -> tuple[Any, Tensor]:
            outputs, loss = compute(images, targets, stage)
            if _are_images(images):
                self._kept = (list(images)[: self.count], list(targets)[: self.count], list(outputs)[: self.count])
            return outputs, loss

        pl_module.outputs_and_loss = compute_and_keep  # type: ignore[method-assign]

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Log the predictions that were kept."""
        vars(pl_module).pop("outputs_and_loss", None)
        kept, self._kept = self._kept, None
        if kept is not None:
            classes = getattr(trainer.datamodule, "classes", ())  # type: ignore[attr-defined]
            _log(trainer, "predictions", prediction_sheet(*kept, classes or ()))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log curves of what was measured."""
        callbacks: Iterable[Any] = trainer.callbacks  # type: ignore[attr-defined]
        records = [record for callback in callbacks for record in getattr(callback, "history", ())]
        records = [record for record in records if isinstance(record, Measured)]
        if records and trainer.is_global_zero:
            from lightning_tl.offline.checkpoints_plot import plot_measurements

            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "measurements.png"
                plot_measurements(records, path)
                with Image.open(path) as picture:
                    _log(trainer, "measurements", picture.convert("RGB"))


def _are_images(images: Any) -> bool:
    """Return whether these are images: ``[B, C, H, W]`` or a list of ``[C, H, W]``, with 1 or at least 3 channels."""
    if isinstance(images, list | tuple):
        return bool(images) and all(_are_images(image[None]) for image in images if isinstance(image, Tensor))
    return isinstance(images, Tensor) and images.ndim == 4 and images.is_floating_point() and images.shape[1] != 2


def _log(trainer: Trainer, name: str, picture: Image.Image) -> None:
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            pixels = np.asarray(picture)
            logger.experiment.add_image(f"pictures/{name}", pixels, trainer.global_step, dataformats="HWC")
        elif takes_pictures(logger):
            logger.log_image(key=f"pictures/{name}", images=[picture])  # type: ignore[attr-defined]
