"""What a recorder needs of Lightning's Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from lightning_tl.losses.training_step import quiet
from lightning_tl.measure.host import Host


class LightningHost(Host):
    """A run of Lightning's Trainer, of ``lightning`` or ``pytorch_lightning``."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.rank, self.world = trainer.global_rank, trainer.world_size

    def reduce(self, value: Tensor) -> Tensor:
        """Average a tensor over the processes."""
        return self.trainer.strategy.reduce(value.clone(), reduce_op="mean")

    def decide(self, answer: bool) -> bool:
        """Return process 0's answer, on all processes."""
        return bool(self.trainer.strategy.broadcast(answer))

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, on all of them."""
        if self.world == 1:
            return [value]
        gathered: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(gathered, value)
        return gathered

    def move(self, batch: Any, module: nn.Module) -> Any:
        """Return a batch as the module's hooks transfer it to its device."""
        return self.trainer.strategy.batch_to_device(batch, dataloader_idx=0)

    def quiet(self, module: nn.Module) -> AbstractContextManager[None]:
        """Within, module and loggers log nothing."""
        return quiet(module, self.trainer)

    def validation_loader(self) -> Any:
        """Return the loader of validation within fit, the first if there are several; None if there is none."""
        if not self.trainer.enable_validation:
            return None
        self.trainer.fit_loop.epoch_loop.val_loop.setup_data()  # Lightning would do it at the first validation
        loaders: Any = self.trainer.val_dataloaders
        if isinstance(loaders, Mapping):
            loaders = list(loaders.values())
        if isinstance(loaders, list | tuple):
            loaders = loaders[0] if loaders else None
        return loaders

    def info(self, text: str) -> None:
        """Tell the user something, on process 0."""
        rank_zero_info(text)

    def warn(self, text: str) -> None:
        """Warn the user, on process 0."""
        rank_zero_warn(text)
