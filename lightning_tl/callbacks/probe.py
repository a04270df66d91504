"""The fixed batches on which a run is measured."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_tl.errors import UserError
from lightning_tl.measure.guard import random_state

_PRIMITIVES = (str, int, float, bool, type(None))


class Probe:
    """Batches collected once, kept for the run and saved with its checkpoints.

    Args:
        given: The user's batch, or a DataLoader (any iterable but a list, tuple or dict) whose first batches are taken;
            None: the first batches of training.
        count: How many batches.
    """

    def __init__(self, given: Any, count: int) -> None:
        if not isinstance(count, int) or count < 1:
            raise UserError(f"probe_batches={count!r} must be a whole number ≥ 1")
        self.given, self.count = given, count
        self.batches: list[Any] = []
        self._everyones: list[Any] | None = None

    @property
    def ready(self) -> bool:
        """Say whether all batches are there."""
        return len(self.batches) >= self.count

    def prepare(self, trainer: Trainer, module: LightningModule) -> None:
        """Take the batches that the user gave, or put restored ones where the module is."""
        if self.batches:
            self.batches = [move_data_to_device(batch, module.device) for batch in self.batches]
            return
        if self.given is None:
            return
        restore = random_state()  # making a DataLoader's iterator draws a seed
        try:
            one = isinstance(self.given, Tensor | Mapping | list | tuple) or not hasattr(self.given, "__iter__")
            found = [self.given] if one else list(islice(iter(self.given), self.count))
            if not found:
                raise UserError("probe=: the data loader gave no batch")
            with torch.inference_mode(False), torch.no_grad():
                self.batches = [trainer.strategy.batch_to_device(clone(batch), dataloader_idx=0) for batch in found]
        finally:
            restore()
        self.count = len(self.batches)

    def offer(self, batch: Any, trainer: Trainer) -> bool:
        """Keep a copy of a training batch while some lack; return True when the last one came."""
        if self.ready or self.given is not None:
            return False
        with torch.inference_mode(False):
            self.batches.append(clone(batch))
        if not self.ready:
            return False
        if trainer.world_size > 1:
            # checkpoints are written by process 0 alone: it must know the batches of all
            everyones: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(everyones, plain(self.batches))
            self._everyones = everyones
        return True

    def state_dict(self) -> list[Any] | None:
        """Return the batches of all processes as plain types; None where the user's ``probe`` gives them again."""
        if self.given is not None or not self.ready:
            return None
        return self._everyones or [plain(self.batches)]

    def load_state_dict(self, state: list[Any] | None, rank: int) -> None:
        """Take this process's batches from a checkpoint."""
        if state is not None and self.given is None:
            self._everyones = state if len(state) > 1 else None
            self.batches = list(state[rank % len(state)])
            self.count = len(self.batches)


def clone(batch: Any) -> Any:
    """Copy the tensors of a batch, whatever holds them, so that nothing that follows changes them."""
    if isinstance(batch, Tensor):
        return batch.detach().clone()
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(clone(item) for item in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(clone(item) for item in batch)
    if type(batch) is dict:
        return {key: clone(value) for key, value in batch.items()}
    # a transfer to where it is makes no copy; deepcopy does, of any object
    import copy

    return copy.deepcopy(batch)


def plain(batch: Any) -> Any:
    """Return a batch as tensors, primitives, lists, tuples and dicts, on the CPU: what a checkpoint may hold.

    Raises:
        UserError: It holds something else.
    """
    if isinstance(batch, Tensor):
        return batch.detach().cpu().as_subclass(Tensor)
    if isinstance(batch, _PRIMITIVES):
        return batch
    if isinstance(batch, Mapping):
        return {key: plain(value) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        items = [plain(item) for item in batch]
        return tuple(items) if isinstance(batch, tuple) else items
    raise UserError(
        f"the probe batch holds a {type(batch).__module__}.{type(batch).__qualname__}, which a checkpoint cannot keep; "
        "pass probe=<a batch or a DataLoader>, which is then read again on resuming"
    )
