"""The fixed batches on which a run is measured."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from lightning_tl.errors import UserError
from lightning_tl.measure.guard import random_state

_PRIMITIVES = (str, int, float, bool, type(None))


class Probe:
    """Batches collected once, kept for the run and saved with its checkpoints.

    Args:
        given: The user's batch, or a DataLoader (any iterable but a list, tuple or dict) whose first batches are taken;
            ``val``: the first batches of the validation loader; None: the first batches of training.
        count: How many batches.
    """

    def __init__(self, given: Any, count: int) -> None:
        if not isinstance(count, int) or count < 1:
            raise UserError(f"probe_batches={count!r} must be a whole number ≥ 1")
        if isinstance(given, str) and given != "val":
            raise UserError(f"probe={given!r}: a name can only be 'val', the first batches of the validation loader")
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
        if self._as_they_come(trainer):
            return
        restore = random_state()  # making a DataLoader's iterator draws a seed
        try:
            given = validation_loader(trainer) if isinstance(self.given, str) else self.given
            one = isinstance(given, Tensor | Mapping | list | tuple) or not hasattr(given, "__iter__")
            found = [given] if one else list(islice(iter(given), self.count))
            if not found:
                raise UserError("probe=: the data loader gave no batch")
            with torch.inference_mode(False), torch.no_grad():
                self.batches = [trainer.strategy.batch_to_device(clone(batch), dataloader_idx=0) for batch in found]
        finally:
            restore()
        self.count = len(self.batches)

    def offer(self, batch: Any, trainer: Trainer) -> bool:
        """Keep a copy of a batch while some lack; return True when the last one came."""
        if self.ready or not self._as_they_come(trainer):
            return False
        with torch.inference_mode(False):
            self.batches.append(clone(batch))
        if not self.ready:
            return False
        if trainer.world_size > 1:
            # checkpoints are written only by process 0: it must know the batches of all
            everyones: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(everyones, plain(self.batches))
            self._everyones = everyones
        return True

    def _as_they_come(self, trainer: Trainer) -> bool:
        """Say whether the batches are those that the loop itself goes through first."""
        return self.given is None or (isinstance(self.given, str) and trainer.state.fn != TrainerFn.FITTING)

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


def validation_loader(trainer: Trainer) -> Any:
    """Return the loader that validation within fit goes through, the first where there are several.

    Raises:
        UserError: The run validates on nothing.
    """
    loaders = None
    if trainer.enable_validation:
        trainer.fit_loop.epoch_loop.val_loop.setup_data()  # Lightning would do it at the first validation
        loaders = trainer.val_dataloaders
    if isinstance(loaders, Mapping):
        loaders = list(loaders.values())
    if isinstance(loaders, list | tuple):
        loaders = loaders[0] if loaders else None
    if loaders is None:
        raise UserError(
            "probe='val': this run has no validation batches; give it a validation loader (and no "
            "limit_val_batches=0), or pass probe=<a batch or a DataLoader>"
        )
    return loaders


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
