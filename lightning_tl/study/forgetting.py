"""What fine-tuning does to the pre-training: its loss under the fine-tuned backbone, and how far the backbone moved."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_tl.errors import UserError
from lightning_tl.losses.training_step import quiet, step_loss
from lightning_tl.measure import Curve, Objective, distance, loss_along, select
from lightning_tl.measure.batchnorm import batch_statistics, reestimate
from lightning_tl.models.low_rank import is_adapter, is_factor, merge_updates
from lightning_tl.study.records import load_json
from lightning_tl.study.shapes import RunRecord

#: Training images of the pre-training on which BatchNorm's statistics are re-estimated (whole batches, at least one).
BN_IMAGES = 1024
#: Validation images on which the loss along the line from the pre-trained to the fine-tuned weights is measured.
LINE_IMAGES = 512


def forgotten(finetuned: Any, network: Pretrained) -> dict[str, float]:
    """Return the pre-training loss before and after fine-tuning, and how far the backbone moved.

    All losses are those of the pre-training's validation images under its saved head, whose weights never change; or
    under the fine-tuned head, where that started from the saved one (``TransferTask.keeps_head``), as language
    models' do: it is then a part of the network in all that follows. The losses differ in weights and BatchNorm
    statistics. Fine-tuning replaces the backbone's statistics by those of the target images, which raises the
    pre-training loss even where no weight has moved. So before and after are compared with statistics that are
    re-estimated on the same pre-training images, for all layers of backbone and head.

    Low-rank updates (LoRA) count as added to the weights. Bottleneck adapters are put into the pre-trained network too,
    with their fine-tuned down-projections and up-projections of 0, which change nothing: d holds the up-projections.

    Args:
        finetuned: The fine-tuned module.
        network: That of the pre-training that it started from; it is changed.

    Returns:
        By name, losses in the units of the pre-training's loss (for classification nats):

        * ``pretrain_loss_before``, ``pretrain_loss_after``: pre-trained and fine-tuned backbone, statistics
          re-estimated (:data:`BN_IMAGES` training images in the order and augmentation of the pre-training's first
          steps). For a network without BatchNorm: as it is.
        * ``pretrain_loss_saved``: the pre-trained network with the statistics that its training left.
        * ``pretrain_loss_after_saved_bn``: the fine-tuned backbone with these statistics.
        * ``pretrain_loss_after_target_bn``: the fine-tuned backbone with its own statistics, of the target images.
        * ``param_distance``: ‖d‖₂, d = θ_ft − θ_pre of the backbone's parameters (Springer et al. 2025, §3 and Fig. 8).
        * ``line_slope``, ``line_curvature``: gᵀd and dᵀHd of the pre-training loss at θ_pre; ``line_rise``:
          L(θ_pre + d) − L(θ_pre) (their App. D, Fig. 10). For these three BatchNorm normalises by the batch, so that
          gradient and Hessian include what the weights do to its statistics; on the first :data:`LINE_IMAGES`
          validation images.

    Raises:
        UserError: The module has no backbone.
    """
    if not hasattr(finetuned, "backbone"):
        raise UserError(f"forgetting: {type(finetuned).__name__} has no .backbone to put under the pre-training's head")
    keeps_head = getattr(finetuned, "keeps_head", False)
    parts = {"backbone": finetuned.backbone} | ({"head": finetuned.head} if keeps_head else {})
    target: dict[str, Tensor] = {}
    for part, module in parts.items():
        merged, _ = merge_updates(_state(module))
        target |= {f"{part}.{name}": value for name, value in merged.items()}
    names = [name for name, _ in finetuned.named_parameters() if name in target and not is_factor(name)]
    if any(is_adapter(name) and name not in network.saved for name in target):
        network.adapt(finetuned, target)
    weights = {name: target[name] for name in names}
    moved = distance(weights, network.saved)
    losses = {"pretrain_loss_saved": network.loss()}
    network.reestimate()
    losses["pretrain_loss_before"] = network.loss()
    line = network.along({name: target[name] - network.saved[name] for name in names})
    network.load(weights)
    losses["pretrain_loss_after_saved_bn"] = network.loss()
    network.reestimate()
    losses["pretrain_loss_after"] = network.loss()
    network.load(target)
    losses["pretrain_loss_after_target_bn"] = network.loss()
    return {
        **losses,
        "param_distance": moved.total,
        "line_slope": line.slope,
        "line_curvature": line.curvature,
        "line_rise": line.loss[1] - line.loss[0],
    }


class Pretrained:
    """The network of a finished pre-training run, with its data.

    Args:
        folder: Of the run.

    Attributes:
        module: The network; ``load`` and ``reestimate`` change it.
        saved: Its state as its training left it, on the CPU.

    Raises:
        UserError: The folder is no finished run.
    """

    def __init__(self, folder: Path) -> None:
        from lightning_tl.run import run

        checkpoint = folder / load_json(folder / "record.json", shape=RunRecord)["checkpoint"]
        args = ["validate", f"--config={folder / 'config.yaml'}", f"--ckpt_path={checkpoint}", "--trainer.logger=false"]
        self._cli = run([*args, "--trainer.enable_progress_bar=false"])
        self._first = float(self._cli.trainer.callback_metrics["val/loss"])
        self.module = self._cli.model
        self.saved = _state(self.module)
        self.adapted = False
        merged, updated = merge_updates(self.saved)
        if updated:
            self.saved |= merged | {key: 0 * value for key, value in self.saved.items() if key.endswith(".lora_B")}
            self.module.load_state_dict(self.saved)
        self._present: dict[str, Tensor] | None = self.saved  # None once statistics were re-estimated
        self._loss: float | None = self._first  # of the present network, where it is known
        self._cli.datamodule.setup("fit")

    def adapt(self, finetuned: Any, target: dict[str, Tensor]) -> None:
        """Put the bottleneck adapters of a fine-tuned task into the network, where they change nothing yet.

        Args:
            finetuned: The task.
            target: Its state; of its adapters, the down-projections are taken.
        """
        for method in finetuned.transfer.methods:
            method.adapt(self.module)
        adapters = {name: value for name, value in target.items() if is_adapter(name)}
        up = {name: torch.zeros_like(value) for name, value in adapters.items() if ".adapter.up." in name}
        self.saved |= adapters | up
        self.module.load_state_dict(self.saved)
        self.adapted = True

    def restore(self) -> None:
        """Be the pre-trained network again."""
        self.load({})
        self._loss = self._first

    def release(self) -> None:
        """Free the memory of a GPU until the network is needed again."""
        self.module.cpu()

    def load(self, state: dict[str, Tensor]) -> None:
        """Take other values for some entries of the state, all others as they were saved."""
        wanted, present = self.saved | state, self._present
        if present is None or any(not torch.equal(value, present[name]) for name, value in wanted.items()):
            self.module.load_state_dict(wanted)
            self._present, self._loss = wanted, None

    def loss(self) -> float:
        """Return the loss on all validation images."""
        if self._loss is None:
            metrics = self._cli.trainer.validate(self.module, self._cli.datamodule, verbose=False)
            self._loss = float(metrics[0]["val/loss"])
        return self._loss

    def reestimate(self) -> None:
        """Re-estimate BatchNorm's statistics for the present weights, on the same training images each time."""
        data = self._cli.datamodule
        count = max(1, round(BN_IMAGES / (getattr(data, "batch_size", None) or BN_IMAGES)))
        if hasattr(data, "steps_per_epoch"):
            data.steps_per_epoch = count  # the loader ends after an epoch
        batches = islice(iter(data.train_dataloader()), count)
        with self._ready():
            changed = reestimate(self.module, functools.partial(_loss, self.module), map(self._on_device, batches))
        if changed:
            self._present = self._loss = None

    def along(self, direction: dict[str, Tensor]) -> Curve:
        """Return the loss at both ends of a line of weights that begins at the present ones.

        Args:
            direction: By name, how far each parameter moves.
        """
        batches, images = [], 0
        for batch in self._cli.datamodule.val_dataloader():
            batches.append(self._on_device(batch))
            images += len(batch[0])
            if images >= LINE_IMAGES:
                break
        with self._ready():
            parameters = select(self.module, "|".join(f"^{re.escape(name)}$" for name in direction), trainable=False)
            weights = [len(images) for images, _ in batches]
            objective = Objective(self.module, _loss_by_batch, batches, parameters, weights=weights)
            return loss_along(objective, direction, [0.0, 1.0])

    @contextmanager
    def _ready(self) -> Iterator[None]:
        """Have the network on its device, in eval mode, muted."""
        self.module.to(self._cli.trainer.strategy.root_device).eval()
        with quiet(self.module):
            yield

    def _on_device(self, batch: Any) -> Any:
        return self._cli.datamodule.transfer_batch_to_device(batch, self._cli.trainer.strategy.root_device, 0)


_LAST: dict[tuple[str, int], Pretrained] = {}


def pretrained_network(folder: Path) -> Pretrained:
    """Return the network of a finished pre-training run, unchanged; not for two at once.

    The last one is kept: the runs of a process often have the same start, and to make one takes longer than what is
    measured on it.

    Args:
        folder: Of the run.

    Raises:
        UserError: The folder is no finished run.
    """
    record = folder / "record.json"
    key = str(folder), record.stat().st_mtime_ns if record.is_file() else 0
    network = _LAST.pop(key, None)
    _LAST.clear()
    if network is None or network.adapted:
        network = Pretrained(folder)
    else:
        network.restore()
    _LAST[key] = network
    return network


def _loss(module: Any, batch: Any) -> Tensor:
    """Return the loss of a batch as validation takes it."""
    if hasattr(module, "outputs_and_loss"):
        loss: Tensor = module.outputs_and_loss(*batch, "val")[1]
        return loss
    return step_loss(module, batch)


def _loss_by_batch(module: Any, batch: Any) -> Tensor:
    """Return that loss with BatchNorm normalising by the batch."""
    with batch_statistics(module):
        return _loss(module, batch)


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}
