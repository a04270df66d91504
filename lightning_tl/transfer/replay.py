"""Pre-training images among those of the fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from lightning_tl.data.batched_module import BatchedDataModule
from lightning_tl.errors import UserError
from lightning_tl.losses.training_step import quiet
from lightning_tl.measure.batchnorm import running_layers
from lightning_tl.transfer.pretraining import UsesPretraining, same_parameters


class Replay(UsesPretraining):
    """A share of each training batch is of the pre-training, under the pre-training's head.

    Springer et al. 2025, §6. The target's B images of a step are those without replay; k = share/(1 − share)·B images
    of the pre-training are added, rounded to a whole number, in the order and augmentation of the pre-training's own
    data module from its first step on. The loss is (B·L_target + k·L_pre)/(B + k). The pre-training's head is that of
    its checkpoint, and does not change. In each of the two parts BatchNorm normalises by the part's own images; the
    network that is left has the statistics of the target's.

    Logged: ``train/replay``, L_pre.

    Args:
        share: Share of pre-training images in a batch, above 0 and below 1.
        config: The pre-training's ``config.yaml``. Default: the one of the run whose checkpoint is ``init_from``.

    Raises:
        UserError: A share that gives fewer than two images (too few for BatchNorm), no pre-training, or another kind
            of data module.
    """

    name = "replay"
    part = "batches"
    excludes: ClassVar[Mapping[str, str]] = {
        "LinearProbe": "the backbone does not move, so nothing of the pre-training is forgotten",
        "LoRA": "the pre-trained head is put on the backbone's own weights",
        "Adapter": "the pre-trained head is put on the backbone without adapters",
    }

    def __init__(self, share: float, config: str | Path | None = None) -> None:
        super().__init__(config)
        if not 0 < share < 1:
            raise UserError(f"Replay: share is {share:g}; it must be above 0 and below 1")
        self.share = share
        self._stream: Iterator[Any] | None = None
        self._batch: Any = None
        self._modes: list[tuple[nn.Module, nn.Module]] = []

    def added(self, batch_size: int) -> int:
        """Return how many images are added to a batch."""
        return round(self.share / (1 - self.share) * batch_size)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the fine-tuned backbone under the pre-training's head."""
        if self._network is None:
            self.need_start(pl_module, "goes on with the pre-training")
        target: Any = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(target, BatchedDataModule):
            raise UserError(
                f"transfer Replay: {type(target).__name__} is not a BatchedDataModule, so it has no batch_size"
            )
        if (count := self.added(target.batch_size)) < 2:
            raise UserError(
                f"transfer Replay: a share of {self.share:g} adds {count} images to a batch of {target.batch_size}; at "
                "least 2 are needed: raise share or data.batch_size"
            )
        network, _ = self.prepare(trainer, pl_module)
        network.requires_grad_(False).eval()
        for layer in running_layers(network):
            layer.momentum = 0.0  # so that it keeps the saved statistics, for where the backbone is frozen
        backbone: Any = pl_module.backbone
        same_parameters(backbone, network.backbone, "Replay")
        for name, parameter in backbone.named_parameters():
            owner, _, own = name.rpartition(".")
            network.backbone.get_submodule(owner)._parameters[own] = parameter
        modules = dict(backbone.named_modules())
        both = [(module, modules.get(name)) for name, module in network.backbone.named_modules()]
        self._modes = [(theirs, ours) for theirs, ours in both if ours is not None]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Read the images of this step."""
        assert self._images is not None
        first = self._stream is None
        if self._stream is None:
            done = trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]
            size = trainer.datamodule.batch_size  # type: ignore[attr-defined]
            self._stream = self._images.training_batches(done, self.added(size))
        replayed = self._on_device(trainer, next(self._stream))
        if first:
            self._network.check_batch(*replayed, "train")
        self._batch = (len(batch[0]), replayed)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop reading."""
        self._stream = self._batch = None

    def batch_loss(self, task: Any, loss: Tensor) -> Tensor:
        """Return the mean of both losses, weighted by the numbers of images."""
        for theirs, ours in self._modes:
            theirs.training = ours.training
        size, (images, targets) = self._batch
        with quiet(self._network):  # it has no trainer to log with
            replayed: Tensor = self._network.outputs_and_loss(images, targets, "train")[1]
        task.log("train/replay", replayed.detach(), on_step=True, on_epoch=False)
        mean: Tensor = (size * loss + len(images) * replayed) / (size + len(images))
        return mean
