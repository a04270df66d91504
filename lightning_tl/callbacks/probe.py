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
        source: A batch, or a DataLoader (any iterable but a list, tuple or dict) whose first batches are taken;
            ``val``: the first batches of the validation loader; None: the first batches of training.
        count: Number of batches.
    """

    def __init__(self, source: Any, count: int) -> None:
        if not isinstance(count, int) or count < 1:
            raise UserError(f"probe_batches={count!r} must be a whole number ≥ 1")
        if isinstance(source, str) and source != "val":
            raise UserError(f"probe={source!r}: a name can only be 'val', the first batches of the validation loader")
        self.source, self.count = source, count
        self.batches: list[Any] = []
        self._of_all_processes: list[Any] | None = None

    @property
    def ready(self) -> bool:
        """Return whether all batches are known."""
        return len(self.batches) >= self.count

    def prepare(self, trainer: Trainer, module: LightningModule) -> None:
        """Take the batches from the user's source, or move restored ones to the module's device."""
        if self.batches:
            self.batches = [move_data_to_device(batch, module.device) for batch in self.batches]
            return
        if self._from_loop(trainer):
            return
        restore = random_state()  # creating a DataLoader's iterator draws a seed
        try:
            source = validation_loader(trainer) if isinstance(self.source, str) else self.source
            is_batch = isinstance(source, Tensor | Mapping | list | tuple) or not hasattr(source, "__iter__")
            batches = [source] if is_batch else list(islice(iter(source), self.count))
            if not batches:
                raise UserError("probe=: the data loader gave no batch")
            with torch.inference_mode(False), torch.no_grad():
                self.batches = [trainer.strategy.batch_to_device(clone(batch), dataloader_idx=0) for batch in batches]
        finally:
            restore()
        self.count = len(self.batches)

    def offer(self, batch: Any, trainer: Trainer) -> bool:
        """Keep a copy of a batch while some are missing; return True if it was the last one."""
        if self.ready or not self._from_loop(trainer):
            return False
        with torch.inference_mode(False):
            self.batches.append(clone(batch))
        if not self.ready:
            return False
        if trainer.world_size > 1:
            # checkpoints are written only by process 0: it must know the batches of all
            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, plain(self.batches))
            self._of_all_processes = gathered
        return True

    def _from_loop(self, trainer: Trainer) -> bool:
        """Return whether the batches are the first ones of the running loop."""
        return self.source is None or (isinstance(self.source, str) and trainer.state.fn != TrainerFn.FITTING)

    def state_dict(self) -> list[Any] | None:
        """Return the batches of all processes as plain types; None if the user's source gives them again."""
        if self.source is not None or not self.ready:
            return None
        return self._of_all_processes or [plain(self.batches)]

    def load_state_dict(self, state: list[Any] | None, rank: int) -> None:
        """Take this process's batches from a checkpoint."""
        if state is not None and self.source is None:
            self._of_all_processes = state if len(state) > 1 else None
            self.batches = list(state[rank % len(state)])
            self.count = len(self.batches)


def validation_loader(trainer: Trainer) -> Any:
    """Return the loader of validation within fit, the first if there are several.

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
    # moving a batch to its own device makes no copy; deepcopy does, of any object
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
