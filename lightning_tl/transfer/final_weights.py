"""The base of methods that act after the last step, before its network is validated and saved."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_tl.errors import UserError
from lightning_tl.transfer.method import TransferMethod


class FinalWeights(TransferMethod, ABC):
    """A method that changes the network once, after the last step.

    The last validation, the checkpoints that are written from then on, and tests are of the changed network. A
    checkpoint also holds the network of the last step, from which a longer training goes on.
    """

    part = "average"

    def __init__(self) -> None:
        self._last: dict[str, Tensor] = {}  # of the task, as the last step left it; empty before that

    @abstractmethod
    def finish(self, trainer: Trainer, task: Any) -> None:
        """Change the network."""

    def reset(self) -> None:
        """Forget an earlier training: a second one begins from the weights that the task has then."""
        self._last = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin anew; refuse callbacks that end a training when its last network has been validated already."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self.reset()
        if stage == "fit" and any(isinstance(each, EarlyStopping) for each in trainer.callbacks):  # type: ignore[attr-defined]
            raise UserError(
                f"transfer {type(self).__name__} changes the network before its last validation, and EarlyStopping "
                "ends the training after one: remove it, and give the length by model.schedule or trainer.max_steps"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the network of the last step."""
        return {"last": self._last}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take that network."""
        super().load_state_dict(state_dict)
        self._last = dict(state_dict["last"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on from the network of the last step, where a training is continued from its last checkpoint."""
        if self._last:
            pl_module.load_state_dict(self._last)
            self._last = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Change the network after the last step."""
        if not self._last and is_last_step(trainer):
            self._finish(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Change the network where the training ended otherwise."""
        if not self._last:
            self._finish(trainer, pl_module)
            rank_zero_warn(
                f"transfer {type(self).__name__}: the training was ended by its last validation, so the checkpoints "
                "that were written there hold the network of the last step"
            )

    def _finish(self, trainer: Trainer, task: LightningModule) -> None:
        self._last = {name: value.detach().cpu().clone() for name, value in task.state_dict().items()}
        self.finish(trainer, task)


def is_last_step(trainer: Trainer) -> bool:
    """Return whether the training ends with the step that has just been done.

    For ``on_train_batch_end`` and ``on_train_epoch_end``.
    """
    loop = trainer.fit_loop
    if 0 < trainer.max_steps <= trainer.global_step or (trainer.should_stop and loop._can_stop_early):
        return True
    epochs = trainer.max_epochs if trainer.max_epochs is not None else -1
    return bool(trainer.is_last_batch) and 0 < epochs <= trainer.current_epoch + 1
