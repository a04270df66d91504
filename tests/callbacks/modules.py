"""Lightning modules in the style of other projects, none of which knows of the callbacks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import torchmetrics
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Classifier(LightningModule):
    """BatchNorm, dropout, a metric, logging, a scheduler: everything that a careless measurement would disturb."""

    def __init__(self, lr: float = 0.05) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.backbone = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(2), nn.Flatten()
        )
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(16, 3)
        self.accuracy = torchmetrics.Accuracy("multiclass", num_classes=3)
        self.seen: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.backbone(x)))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        x = x + 0.01 * torch.randn_like(x)  # augmentation: the global generator is part of the run
        out = self(x)
        loss = F.cross_entropy(out, y)
        self.accuracy(out, y)
        self.seen.append(float(loss.detach()))
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/accuracy", self.accuracy, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        self.log("val/loss", F.cross_entropy(self(x), y))

    def configure_optimizers(self):  # type: ignore[no-untyped-def]
        optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams["lr"])
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 2)}


def images(count: int = 48, batch: int = 8, seed: int = 1) -> DataLoader:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (count,), generator=generator)
    x = torch.randn(count, 1, 8, 8, generator=generator) + y[:, None, None, None]
    return DataLoader(TensorDataset(x, y), batch_size=batch, shuffle=True)


def trainer(**options) -> Trainer:  # type: ignore[no-untyped-def]
    settings = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(**(settings | options))
