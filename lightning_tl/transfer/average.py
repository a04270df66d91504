"""Averages of the weights over the training."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_tl.errors import UserError
from lightning_tl.transfer.evaluation import reestimate_statistics
from lightning_tl.transfer.final_weights import FinalWeights


class Average(FinalWeights):
    """The network that the training leaves has the average of its weights at several steps.

    BatchNorm's statistics are estimated again for the average, on training images. The last validation, ``last.ckpt``
    and the test are of the average; validations before the last one are of the weights of their step. Works for
    pre-training too.

    Args:
        last_k: The mean over the ends of the last k epochs, an epoch being the batches between two validations
            (``data.steps_per_epoch``); the last step counts as an end. Izmailov et al. 2018 (arXiv 1803.05407). k
            copies of the weights are kept.
        ema: Decay of an exponential moving average over all steps instead: the weights of t steps ago count in
            proportion to ema^t. The weights before the first step do not count.

    Raises:
        UserError: Both or none are given, or one is out of range.
    """

    name = "average"

    def __init__(self, last_k: int | None = None, ema: float | None = None) -> None:
        super().__init__()
        if (last_k is None) == (ema is None):
            raise UserError("Average: give either last_k or ema")
        if last_k is not None and last_k < 2:
            raise UserError(f"Average: last_k is {last_k}; it must be at least 2")
        if ema is not None and not 0 < ema < 1:
            raise UserError(f"Average: ema is {ema:g}; it must be above 0 and below 1")
        self.last_k, self.ema = last_k, ema
        self._kept: list[dict[str, Tensor]] = []  # the last k weights, or the one average
        self._steps = 0  # that the average is over
        self._seen = 0  # the trainer's number of steps at the last look

    def reset(self) -> None:
        """Forget the weights of an earlier training."""
        super().reset()
        self._kept, self._steps = [], 0

    def state_dict(self) -> dict[str, Any]:
        """Return the weights so far."""
        return super().state_dict() | {"kept": self._kept, "steps": self._steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take those of an interrupted training."""
        super().load_state_dict(state_dict)
        self._kept, self._steps = [dict(each) for each in state_dict["kept"]], state_dict["steps"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the weights so far where the parameters are."""
        device = pl_module.device if self.ema is not None else torch.device("cpu")
        self._kept = [{name: value.to(device) for name, value in each.items()} for each in self._kept]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count steps from here on."""
        super().on_train_start(trainer, pl_module)
        self._seen = trainer.global_step

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the weights of this step; average after the last one."""
        if trainer.global_step > self._seen:
            self._seen = trainer.global_step
            self._steps += 1
            if self.ema is not None:
                self._move(dict(_weights(pl_module)))
        if self.last_k is not None and trainer.is_last_batch:
            self._keep(pl_module)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    @torch.no_grad()
    def finish(self, trainer: Trainer, task: Any) -> None:
        """Put the average into the task."""
        if self.last_k is not None:
            if not trainer.is_last_batch:
                self._keep(task)
            if len(self._kept) < self.last_k:
                rank_zero_warn(
                    f"transfer Average: last_k is {self.last_k}, but the training had only {len(self._kept)} epochs: "
                    "shorten them by data.steps_per_epoch"
                )
        average = {name: value.clone() for name, value in self._kept[0].items()}
        for number, weights in enumerate(self._kept[1:], start=2):
            for name, value in average.items():
                value.lerp_(weights[name], 1 / number)
        task.load_state_dict(average, strict=False)
        reestimate_statistics(trainer, task)

    def _keep(self, task: LightningModule) -> None:
        weights = {name: value.to("cpu", copy=True) for name, value in _weights(task).items()}
        self._kept = [*self._kept, weights][-(self.last_k or 1) :]

    def _move(self, weights: dict[str, Tensor]) -> None:
        assert self.ema is not None
        if not self._kept:
            self._kept = [{name: value.clone() for name, value in weights.items()}]
            return
        # the share of the newest weights in a mean weighted by ema^t, over as many steps as there were
        share = (1 - self.ema) / (1 - self.ema**self._steps)
        torch._foreach_lerp_(list(self._kept[0].values()), list(weights.values()), share)


def _weights(task: LightningModule) -> dict[str, Tensor]:
    return {name: each.detach() for name, each in task.named_parameters()}
