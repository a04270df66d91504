"""What a recorder needs of the program that trains."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

_log = logging.getLogger("lightning_tl")


class Host:
    """A training loop in one process, without a framework; base class of the others.

    Attributes:
        rank: Of this process.
        world: Number of processes.
    """

    rank = 0
    world = 1

    def reduce(self, value: Tensor) -> Tensor:
        """Average a tensor over the processes."""
        return value

    def decide(self, answer: bool) -> bool:
        """Return process 0's answer, on all processes."""
        return answer

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, on all of them."""
        return [value]

    def move(self, batch: Any, module: nn.Module) -> Any:
        """Return a batch on the module's device."""
        device = next((p.device for p in module.parameters()), torch.device("cpu"))
        return _to(batch, device)

    def quiet(self, module: nn.Module) -> AbstractContextManager[None]:
        """Within, the module logs nothing."""
        return nullcontext()

    def validation_loader(self) -> Iterable[Any] | None:
        """Return the loader of the validation, None if there is none."""
        return None

    def info(self, text: str) -> None:
        """Tell the user something, on process 0."""
        _log.info(text)

    def warn(self, text: str) -> None:
        """Warn the user, on process 0."""
        _log.warning(text)

    def progress(self, text: str) -> None:
        """Say how far a long measurement is; called from another thread."""
        if self.rank == 0:
            print(text, file=sys.stderr, flush=True)


def _to(batch: Any, device: torch.device) -> Any:
    if hasattr(batch, "to") and not isinstance(batch, type):
        return batch.to(device)
    if type(batch) is dict:
        return {key: _to(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_to(item, device) for item in batch))
    if type(batch) in (list, tuple):
        return type(batch)(_to(item, device) for item in batch)
    return batch
