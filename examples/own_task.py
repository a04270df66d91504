"""A task of your own: subclass, train, test, and take its backbone to another task.

    python examples/own_task.py

The images are 5,000 real handwritten digits that a package ships; nothing is downloaded. Training is far too short to
be good: it shows what has to be written.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassF1Score

from lightning_tl.data import Digits
from lightning_tl.tasks import Classification, TransferTask


class RareClasses(TransferTask):
    """Classification in which every class counts the same, however rare."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy with smoothed labels."""
        return F.cross_entropy(outputs, targets, label_smoothing=0.1)

    def build_metric(self) -> Metric:
        """Return the score in [0, 1]; the test error is 1 minus the score."""
        return MulticlassF1Score(self.num_classes, average="macro")


def quiet_trainer(steps: int, folder: str) -> Trainer:
    """Return a trainer of so many steps that prints nothing."""
    return Trainer(
        max_steps=steps,
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def main() -> None:
    """Pre-train the own task for 40 steps; fine-tune plain classification from its backbone on five images a class."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = quiet_trainer(40, folder)
        data = Digits()
        task = RareClasses(num_classes=data.num_classes, backbone="resnet10_w16", in_chans=1)
        trainer.fit(task, data)
        (scores,) = trainer.test(task, data, verbose=False)
        print(f"own task: F1 {scores['test/score']:.3f}")
        checkpoint = Path(folder) / "own.ckpt"
        trainer.save_checkpoint(checkpoint)
        few = Digits(shots=5)
        tuned = Classification(few.num_classes, "resnet10_w16", in_chans=1, init_from=checkpoint)
        trainer = quiet_trainer(20, folder)
        trainer.fit(tuned, few)
        (scores,) = trainer.test(tuned, few, verbose=False)
        print(f"fine-tuned on {few.num_classes * 5} images: accuracy {scores['test/score']:.3f}")


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec")  # between versions of Lightning and torch
    main()
