"""A pull towards the pre-trained weights, the stronger the more the pre-training's loss depends on a weight."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from lightning_tl.errors import UserError
from lightning_tl.losses.training_step import quiet
from lightning_tl.transfer.method import BACKBONE
from lightning_tl.transfer.pretraining import UsesPretraining, same_parameters
from lightning_tl.transfer.pull import Pull
from lightning_tl.transfer.selection import backbone_parameters


class EWC(Pull, UsesPretraining):
    """½·strength·Σᵢ Fᵢ·(θᵢ − θ_pre,i)² is added to the training loss, for the backbone's weights.

    Elastic weight consolidation: Kirkpatrick et al. 2017 (arXiv 1612.00796), Eq. 3. F is the diagonal of the empirical
    Fisher information at θ_pre: the mean, over images of the pre-training, of the squared gradient of an image's loss
    under its own label. It is computed before the first step, by one backward pass per image, on the images of the
    pre-training's first steps in their augmentation, with the network in eval mode. Where an image's loss is a mean
    over outputs (labels, pixels), its gradient is that of the mean.

    F and θ_pre are kept in the checkpoint, so that a resumed training needs no other file.

    Logged every ``trainer.log_every_n_steps``: ``train/ewc``, the term that is added.

    Args:
        strength: Strength of the pull.
        images: How many images F is the mean of.
        config: The pre-training's ``config.yaml``. Default: the one of the run whose checkpoint is ``init_from``.

    Raises:
        UserError: A strength that is not above 0, no image, no pre-training.
    """

    name = "ewc"
    needed_to_resume = False
    excludes: ClassVar[Mapping[str, str]] = {"LinearProbe": "the backbone does not move, so there is nothing to pull"}

    def __init__(self, strength: float, images: int = 1024, config: str | Path | None = None) -> None:
        Pull.__init__(self)
        UsesPretraining.__init__(self, config)
        if not strength > 0:
            raise UserError(f"EWC: strength is {strength:g}; it must be above 0")
        if images < 1:
            raise UserError(f"EWC: images is {images}; it must be at least 1")
        self.strength, self.images = strength, images
        self._fisher: dict[str, Tensor] = {}

    def pulled(self, task: Any) -> dict[str, nn.Parameter]:
        """Return the trained parameters of the backbone."""
        return {name: each for name, each in backbone_parameters(task).items() if each.requires_grad}

    def start(self, task: Any) -> None:
        """Forget the weights of another task, and F there."""
        super().start(task)
        self._fisher = {}

    def state_dict(self) -> dict[str, Any]:
        """Return θ_pre and F."""
        return {"start": self._start, "fisher": self._fisher}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take those of the interrupted training."""
        super().load_state_dict(state_dict)
        self._start, self._fisher = dict(state_dict["start"]), dict(state_dict["fisher"])

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute F, if it was not; put all where the parameters are."""
        if not self._fisher:
            if self._network is None:
                self.need_start(pl_module, "pulls towards the pre-trained weights")
            self._fisher = self._compute(trainer, pl_module)
        self._network = self._images = None
        known = dict(pl_module.named_parameters())
        now = [known[name] for name in self._start]
        self.pull(now, list(self._start.values()), [self._fisher[name].to(known[name]) for name in self._start])

    def _compute(self, trainer: Trainer, task: Any) -> dict[str, Tensor]:
        """Return F by name, on the CPU."""
        network, data = self.prepare(trainer, task)
        network.requires_grad_(False).eval()
        known = {f"{BACKBONE}{name}": each for name, each in network.backbone.named_parameters()}
        same_parameters(task.backbone, network.backbone, "EWC")
        chosen = [known[name].requires_grad_() for name in self._start]
        sums = [torch.zeros_like(each) for each in chosen]
        mine, seen = -(-self.images // trainer.world_size), 0
        for batch in data.training_batches():
            images, targets = self._on_device(trainer, batch)
            for image in range(min(len(images), mine - seen)):
                with quiet(network):  # it has no trainer to log with
                    loss = network.outputs_and_loss(images[image : image + 1], targets[image : image + 1], "train")[1]
                gradients = torch.autograd.grad(loss, chosen, allow_unused=True)
                for total, gradient in zip(sums, gradients, strict=True):
                    if gradient is not None:
                        total.addcmul_(gradient, gradient)
            seen += len(images)
            if seen >= mine:
                break
        means = [trainer.strategy.reduce(total / mine, reduce_op="mean") for total in sums]
        return {name: mean.cpu() for name, mean in zip(self._start, means, strict=True)}
