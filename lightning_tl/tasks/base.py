"""What every task shares: a backbone, a head, and test error = 1 - score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_tl.errors import UserError
from lightning_tl.models import KeyReport, build_backbone, load_backbone


class TransferTask(pl.LightningModule):
    """A backbone under a new head, for pre-training or for fine-tuning all parameters.

    For a new task, subclass it and define ``build_head``, ``loss`` and ``build_metric``; a batch is
    ``(images, targets)``. A task whose network is no backbone under a head overrides ``configure_models`` instead, and
    keeps its backbone at ``self.backbone``.

    Logged: ``train/loss``; for each stage in ``val`` and ``test`` ``<stage>/loss``, ``<stage>/score`` and
    ``<stage>/error`` = 1 - score.

    Args:
        num_classes: Outputs of the head. From the command line the data module's number is taken.
        backbone: One of ``lightning_tl.models.BACKBONES``.
        in_chans: Channels of the images.
        init_from: A checkpoint whose backbone to start from, of any task. (To go on with an interrupted run, give
            Lightning's ``ckpt_path`` instead.)
        optimizer: From the parameters to an optimiser.
        scheduler: From the optimiser to a learning-rate schedule, stepped after every training step.
        channels_last: Keep images and filters in the memory format that convolutions are quickest in.

    Raises:
        UserError: Unknown backbone; a checkpoint that is none, or of another backbone.
    """

    #: the score's name in tables of results, such as ``accuracy``
    metric_name = "score"

    def __init__(
        self,
        num_classes: int,
        backbone: str = "resnet50",
        in_chans: int = 3,
        init_from: Path | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        scheduler: LRSchedulerCallable | None = None,
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise UserError(f"model.num_classes is {num_classes}; it must be at least 1")
        self.num_classes, self.backbone_name, self.in_chans = num_classes, backbone, in_chans
        self.init_from, self.optimizer, self.scheduler = init_from, optimizer, scheduler
        self.key_report: KeyReport | None = None
        self.configure_models()
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=self.memory_format)
        self.val_score = self.build_metric()
        self.test_score = self.build_metric()
        if init_from is not None:
            self.key_report = load_backbone(init_from, self.backbone)
            rank_zero_info(str(self.key_report))

    def configure_models(self) -> None:
        """Make ``self.backbone`` and ``self.head``."""
        self.backbone = build_backbone(self.backbone_name, self.in_chans)
        self.head = self.build_head(self.backbone.num_features)  # type: ignore[arg-type]

    def build_head(self, num_features: int) -> nn.Module:
        """Return the head: pooled features ``[B, num_features]`` → outputs."""
        return nn.Linear(num_features, self.num_classes)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the scalar loss of a batch."""
        raise TypeError(f"{type(self).__name__} must define loss(outputs, targets)")

    def build_metric(self) -> Metric:
        """Return a torchmetrics metric of (outputs, targets) whose value is a score in [0, 1]."""
        raise TypeError(f"{type(self).__name__} must define build_metric()")

    def forward(self, images: Tensor) -> Any:
        """Return the head's outputs for images ``[B, in_chans, H, W]``."""
        return self.head(self.backbone(images.contiguous(memory_format=self.memory_format)))

    def shared_step(self, batch: Any, stage: str) -> Tensor:
        """Return the loss of a batch, logged; outside training the score is updated and logged too."""
        images, targets = batch
        outputs = self(images)
        loss = self.loss(outputs, targets)
        training = stage == "train"
        self.log(f"{stage}/loss", loss, on_step=training, on_epoch=not training, batch_size=len(images))
        if not training:
            score = self._score(stage)
            score.update(outputs, targets)
            self.log(f"{stage}/score", score, on_step=False, on_epoch=True, batch_size=len(images))
        return loss

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the training loss."""
        return self.shared_step(batch, "train")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Update and log validation loss and score."""
        self.shared_step(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Update and log test loss and score."""
        self.shared_step(batch, "test")

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        """Return the outputs for a batch's images."""
        return self(batch[0] if isinstance(batch, list | tuple) else batch)

    def _score(self, stage: str) -> Metric:
        return {"val": self.val_score, "test": self.test_score}[stage]

    def _log_error(self, stage: str) -> None:
        self.log(f"{stage}/error", 1 - self._score(stage).compute(), prog_bar=True)

    def on_validation_epoch_end(self) -> None:
        """Log ``val/error``."""
        self._log_error("val")

    def on_test_epoch_end(self) -> None:
        """Log ``test/error``."""
        self._log_error("test")

    def configure_optimizers(self) -> Any:
        """Return the optimiser, and the schedule by step where one was given."""
        optimizer = self.optimizer(self.parameters())
        if self.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write into the checkpoint what its network is."""
        checkpoint["lightning_tl"] = {
            "task": type(self).__name__,
            "backbone": self.backbone_name,
            "in_chans": self.in_chans,
            "num_classes": self.num_classes,
        }
