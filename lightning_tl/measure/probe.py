"""The fixed batches on which a run is measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from lightning_tl.errors import UserError
from lightning_tl.measure.arguments import whole
from lightning_tl.measure.batch_types import NotPlainError, clone, is_plain, on_meta, plain, rebuilt
from lightning_tl.measure.guard import random_state
from lightning_tl.measure.host import Host


class Probe:
    """Batches collected once, kept for the run and saved with its checkpoints.

    Args:
        source: A batch, or a DataLoader (any iterable but a list, tuple or dict) whose first batches are taken;
            ``val``: the first batches of the validation loader; None: the first batches of training.
        count: Number of batches.

    Raises:
        UserError: The number is no whole number ≥ 1; the source is another word than ``val``.
    """

    def __init__(self, source: Any, count: int) -> None:
        whole("probe_batches", count)
        if isinstance(source, str) and source != "val":
            raise UserError(f"probe={source!r}: a name can only be 'val', the first batches of the validation loader")
        if source is not None and isinstance(source, bool | int | float):
            raise UserError(f"probe={source!r} must be a batch, a DataLoader, or 'val'")
        self.source, self.count = source, count
        self.batches: list[Any] = []
        self._wanted = count
        self._saved: list[Any] | None = None
        self._of_all_processes: list[Any] | None = None
        self._plain = True

    @property
    def ready(self) -> bool:
        """Return whether all batches are known."""
        return len(self.batches) >= self.count

    def reset(self) -> None:
        """Forget the batches."""
        self.batches, self.count = [], self._wanted
        self._saved = self._of_all_processes = None

    def prepare(self, host: Host, module: nn.Module, from_loop: bool) -> None:
        """Take the batches from the user's source, or move restored ones to the module's device.

        Args:
            host: Of the run.
            module: Of the run.
            from_loop: The batches come from the running loop, by :meth:`offer`.

        Raises:
            UserError: The source gives no batch, or tensors without values.
        """
        if self._saved is not None and self._plain:
            self.batches, self._saved = self._saved, None
        if self.batches:
            self.batches = [host.move(batch, module) for batch in self.batches]
            return
        if from_loop:
            return
        restore = random_state()  # creating a DataLoader's iterator draws a seed
        try:
            source: Any = self.source
            if isinstance(source, str):
                source = host.validation_loader()
                if source is None:
                    raise UserError(
                        "probe='val': this run has no validation batches; give it a validation loader (and no "
                        "limit_val_batches=0), or pass probe=<a batch or a DataLoader>"
                    )
            whole_batch = isinstance(source, Tensor | Mapping | list | tuple) or not isinstance(source, Iterable)
            is_batch = whole_batch and not isinstance(self.source, str)
            batches = [source] if is_batch else list(islice(iter(source), self.count))
            if not batches:
                raise UserError("probe=: the data loader gave no batch")
            if any(map(on_meta, batches)):
                raise UserError("probe=: holds tensors of the meta device, which have no values; pass a real batch")
            with torch.inference_mode(False), torch.no_grad():
                self.batches = [host.move(clone(batch), module) for batch in batches]
        finally:
            restore()
        if len(self.batches) < self.count and not is_batch:
            host.warn(f"probe_batches={self.count}, but the loader has {len(self.batches)}: these are measured on")
        self.count = len(self.batches)

    def offer(self, batch: Any, host: Host) -> bool:
        """Keep a copy of a batch while some are missing; return True if it was the last one."""
        if self._saved is not None:
            return self._restore(batch, host)
        if self.ready:
            return False
        with torch.inference_mode(False):
            self.batches.append(clone(batch))
        if self.ready:
            self._complete(host)
        return self.ready

    def close(self, host: Host) -> bool:
        """End the collection with the batches that there are; return True if there are some, and some are missing."""
        if self.ready or not self.batches or self._saved is not None:
            return False
        host.warn(f"probe_batches={self.count}, but there are {len(self.batches)}: these are measured on")
        self.count = len(self.batches)
        self._complete(host)
        return True

    def state(self) -> dict[str, Any] | None:
        """Return the batches of all processes as plain types; None if the source gives them again, or none can."""
        if self.source is not None or self._of_all_processes is None:
            return None
        return {"batches": self._of_all_processes, "plain": self._plain}

    def load(self, state: Mapping[str, Any] | None, rank: int) -> None:
        """Take this process's batches from a checkpoint."""
        if state is not None and self.source is None:
            self._of_all_processes, self._plain = state["batches"], state["plain"]
            self._saved = list(state["batches"][rank % len(state["batches"])])
            self.batches, self.count = [], len(self._saved)

    def _complete(self, host: Host) -> None:
        """Note what a checkpoint will hold; process 0 writes it, so it must know the batches of all."""
        own: list[Any] | str
        self._plain = all(map(is_plain, self.batches))
        try:
            own = [plain(batch) for batch in self.batches]
        except NotPlainError as error:
            own = str(error)
        of_all = host.gather(own)
        self._of_all_processes = None if any(isinstance(each, str) for each in of_all) else of_all
        if isinstance(own, str):
            host.warn(
                f"the probe batch holds a {own}, which a checkpoint cannot keep: it is left out of them, and a resumed "
                "run is measured on other batches; pass probe=<a batch or a DataLoader>, which is then read again"
            )

    def _restore(self, batch: Any, host: Host) -> bool:
        """Give the saved batches the types of a running one."""
        assert self._saved is not None
        try:
            self.batches = [rebuilt(each, batch) for each in self._saved]
        except NotPlainError as error:
            host.warn(
                f"the saved probe does not fit the batches of this run ({error}): it is measured on other batches than "
                "before it was interrupted"
            )
            self.reset()
            return self.offer(batch, host)
        self._saved = None
        return True
