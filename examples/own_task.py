"""A task of your own: subclass, train, test, and take its backbone to another task.

    python examples/own_task.py

The images are 5,000 real handwritten digits that a package ships; nothing is downloaded. Training is far too short to
be good: it shows what has to be written.
"""

from __future__ import annotations

import tempfile
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


def main() -> None:
    """Pre-train the own task for 40 steps; fine-tune plain classification from its backbone on five images a class."""
    torch.manual_seed(0)
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(max_steps=40, default_root_dir=folder, enable_checkpointing=False, **quiet)
        data = Digits()
        task = RareClasses(num_classes=data.num_classes, backbone="resnet10_w16", in_chans=1)
        trainer.fit(task, data)
        (scores,) = trainer.test(task, data, verbose=False)
        print(f"own task: F1 {scores['test/score']:.3f}")
        checkpoint = Path(folder) / "own.ckpt"
        trainer.save_checkpoint(checkpoint)
        few = Digits(shots=5)
        tuned = Classification(few.num_classes, "resnet10_w16", in_chans=1, init_from=str(checkpoint))
        trainer = Trainer(max_steps=20, default_root_dir=folder, enable_checkpointing=False, **quiet)
        trainer.fit(tuned, few)
        (scores,) = trainer.test(tuned, few, verbose=False)
        print(f"fine-tuned on {few.num_classes * 5} images: accuracy {scores['test/score']:.3f}")


if __name__ == "__main__":
    main()
