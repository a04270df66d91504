"""A pull towards the pre-trained weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.optim import Optimizer

from lightning_tl.errors import UserError
from lightning_tl.transfer.method import check_pattern
from lightning_tl.transfer.pull import Pull


class L2SP(Pull):
    """½·strength·‖θ − θ_pre‖² is added to the training loss, for the backbone's weights.

    Springer et al. 2025, Eq. 3; Mikami et al., App. E; Li et al. 2018 (arXiv 1802.01483). The optimiser's own weight
    decay, a pull towards 0, is another one: set it to 0 to have only this. The pre-trained weights are kept in the
    checkpoint, so that a resumed training needs no other file.

    Logged every ``trainer.log_every_n_steps``: ``train/l2sp``, the term that is added.

    Args:
        strength: Strength of the pull.
        exclude: Pattern (regular expression) of parameters that are not pulled, by their names in the task.
        decoupled: The pull is not a term of the loss: after each step, θ moves back towards θ_pre by the share
            lr·strength of the distance, as with the decoupled weight decay of Loshchilov and Hutter 2017 (arXiv
            1711.05101). Nothing is logged then.

    Raises:
        UserError: A strength that is not above 0, a wrong pattern, no pre-trained weights.
    """

    name = "l2sp"
    excludes: ClassVar[Mapping[str, str]] = {"LinearProbe": "the backbone does not move, so there is nothing to pull"}

    def __init__(self, strength: float, exclude: str = r"^head\.", decoupled: bool = False) -> None:
        super().__init__()
        if not strength > 0:
            raise UserError(f"L2SP: strength is {strength:g}; it must be above 0")
        check_pattern("L2SP", "exclude", exclude)
        self.strength, self.exclude, self.decoupled = strength, exclude, decoupled

    def pulled(self, task: Any) -> dict[str, nn.Parameter]:
        """Return the trained parameters that ``exclude`` does not match."""
        kept = {name: each for name, each in task.named_parameters() if each.requires_grad}
        if self.exclude:
            kept = {name: each for name, each in kept.items() if not re.search(self.exclude, name)}
        if not kept:
            raise UserError(f"L2SP: no trained parameter is left to pull (exclude is '{self.exclude}')")
        return kept

    def state_dict(self) -> dict[str, Any]:
        """Return the pre-trained weights."""
        return {"start": self._start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the pre-trained weights of the interrupted training."""
        super().load_state_dict(state_dict)
        self._start = dict(state_dict["start"])

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the pre-trained weights where the parameters are; refuse a training that does not begin from any."""
        self.need_start(pl_module, "pulls towards the pre-trained weights")
        known = dict(pl_module.named_parameters())
        self.pull([known[name] for name in self._start], list(self._start.values()))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Pull, where the pull is a term of the loss."""
        if not self.decoupled:
            super().on_before_optimizer_step(trainer, pl_module, optimizer)

    def attach(self, task: Any, optimizer: Optimizer) -> Optimizer:
        """Pull after each step, where the pull is decoupled."""
        if self.decoupled:
            optimizer.register_step_post_hook(self._pull)
        return optimizer

    @torch.no_grad()
    def _pull(self, optimizer: Optimizer, *_: Any) -> None:
        rates = {id(each): group["lr"] for group in optimizer.param_groups for each in group["params"]}
        for pulled in self._pulled:
            now, start = pulled[:2]
            if now.grad is not None:
                now.lerp_(start, rates[id(now)] * self.strength)
