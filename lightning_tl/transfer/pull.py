"""The base of pulls towards the pre-trained weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_tl.transfer.method import TransferMethod


class Pull(TransferMethod, ABC):
    """½·strength·Σᵢ wᵢ·(θᵢ − θ_pre,i)² is added to the training loss.

    Its gradient is added to that of the loss before it is clipped and the optimiser steps: in an autograd graph it
    would take several times as long. The value is computed only where it is logged, as ``train/<name>``.
    """

    part = "pull"
    strength: float

    def __init__(self) -> None:
        self._start: dict[str, Tensor] = {}  # the pre-trained weights, by name in the task
        self._pulled: list[tuple[Tensor, Tensor, Tensor | None, Tensor]] = []

    @abstractmethod
    def pulled(self, task: Any) -> dict[str, nn.Parameter]:
        """Return the parameters to pull, by name in the task."""

    def start(self, task: Any) -> None:
        """Forget the weights of another task."""
        self._start = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keep the weights that the first training of the task begins from; later ones are pulled to the same."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and not self._start:
            self._start = {name: each.detach().cpu().clone() for name, each in self.pulled(pl_module).items()}

    @abstractmethod
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Call :meth:`pull` with the weights."""

    def pull(self, now: Sequence[Tensor], start: Sequence[Tensor], weights: Sequence[Tensor] | None = None) -> None:
        """Take the parameters that are pulled.

        Args:
            now: The parameters.
            start: The weights that they are pulled towards.
            weights: The wᵢ; default: 1.
        """
        if not now:
            return
        # all differences are computed in the memory of the largest one, which stays in the processor's cache
        memory = now[0].new_empty(max(each.numel() for each in now))
        places = [
            memory.as_strided(each.size(), each.stride()) if _fills_its_memory(each) else torch.empty_like(each)
            for each in now
        ]
        factors = [None] * len(now) if weights is None else weights
        placed = [value.to(each) for each, value in zip(now, start, strict=True)]
        self._pulled = list(zip(now, placed, factors, places, strict=True))

    @torch.no_grad()
    def term(self) -> Tensor:
        """Return the term's present value."""
        total = torch.zeros((), device=self._pulled[0][0].device)
        for now, start, weights, _ in self._pulled:
            away = now - start
            total = total + (away.square() if weights is None else away.square() * weights).sum()
        return 0.5 * self.strength * total

    @torch.no_grad()
    def add_gradients(self) -> None:
        """Add the term's gradient to that of each parameter that has one."""
        for now, start, weights, away in self._pulled:
            if now.grad is not None:
                torch.sub(now, start, out=away)
                if weights is not None:
                    away.mul_(weights)
                now.grad.add_(away, alpha=self.strength)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Pull."""
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (trainer.fit_loop.epoch_loop._batches_that_stepped + 1) % every == 0:
            pl_module.log(f"train/{self.name}", self.term(), on_step=True, on_epoch=False)
        self.add_gradients()


def _fills_its_memory(tensor: Tensor) -> bool:
    return (
        tensor.layout == torch.strided
        and 1 + sum((size - 1) * stride for size, stride in zip(tensor.size(), tensor.stride(), strict=True))
        == tensor.numel()
    )
