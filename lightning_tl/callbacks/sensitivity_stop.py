"""SensitivityStop: stop when the perturbed loss has turned upward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_tl.callbacks.sensitivity import PerturbationSensitivity
from lightning_tl.errors import UserError, nearest


class SensitivityStop(Callback):
    """Stop, or keep the best checkpoint, once the perturbed loss has turned upward beyond its noise.

    Springer et al. (2025, §3.3) find that over pre-training runs of growing length, each annealed on its own, the
    perturbed loss first falls and then rises: the model becomes fragile. Within one run that need not happen, and under
    a decaying learning rate a rise also reflects the rate; a warning says so. Measurements share their draws, so the
    rise over the lowest point is tested draw by draw: it counts when its mean is above ``sigmas`` of its standard
    errors.

    Args:
        gamma: The scale to watch; default: the largest of the PerturbationSensitivity callback.
        patience: How many measurements in a row must lie above the lowest.
        sigmas: How many standard errors a rise must have.
        stop: Stop the training.
        keep: Path of a checkpoint that is written whenever the perturbed loss is at its lowest so far; a relative one
            lies in the trainer's ``default_root_dir``.
        prefix: That of the PerturbationSensitivity callback to watch.

    Raises:
        UserError: There is no such PerturbationSensitivity callback, or it does not measure this γ.
    """

    def __init__(
        self,
        gamma: float | None = None,
        patience: int = 3,
        sigmas: float = 2.0,
        stop: bool = True,
        keep: str | None = None,
        prefix: str = "",
    ) -> None:
        if patience < 1 or sigmas < 0:
            raise UserError(f"patience={patience} must be ≥ 1 and sigmas={sigmas} ≥ 0")
        if not stop and keep is None:
            raise UserError("stop=False without keep= does nothing; give the path of the checkpoint to keep")
        self.gamma, self.patience, self.sigmas, self.stop, self.keep = gamma, patience, sigmas, stop, keep
        self.prefix = prefix
        self.turned_at: int | None = None
        self._seen = 0
        self._highest_rate = 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find what to watch."""
        source = self._source(trainer)
        valid = [f"{g:g}" for g in source.gammas]
        if self.gamma is not None and f"{self.gamma:g}" not in valid:
            raise UserError(f"SensitivityStop(gamma={self.gamma:g}) is not measured{nearest(f'{self.gamma:g}', valid)}")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Look at a new measurement."""
        self._look(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at a new measurement."""
        self._look(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at a new measurement."""
        if trainer.training or trainer.validating:
            self._look(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return the state in plain types."""
        return {"turned_at": self.turned_at, "seen": self._seen, "highest_rate": self._highest_rate}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint was written."""
        self.turned_at, self._seen = state_dict["turned_at"], state_dict["seen"]
        self._highest_rate = state_dict["highest_rate"]

    def _source(self, trainer: Trainer) -> PerturbationSensitivity:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, PerturbationSensitivity) and callback.prefix == self.prefix:
                return callback
        raise UserError(
            f"SensitivityStop watches a PerturbationSensitivity callback (prefix={self.prefix!r}); "
            "add one to the trainer"
        )

    def _look(self, trainer: Trainer) -> None:
        source = self._source(trainer)
        rate = max((float(g["lr"]) for o in trainer.optimizers for g in o.param_groups), default=0.0)
        self._highest_rate = max(self._highest_rate, rate)
        if len(source.draw_history) == self._seen or trainer.state.fn != "fit":
            return
        self._seen = len(source.draw_history)
        key = f"{self.gamma if self.gamma is not None else max(source.gammas):g}"
        curve = [torch.tensor(row[key], dtype=torch.float64) for row in source.draw_history]
        best = min(range(len(curve)), key=lambda i: float(curve[i].mean()))
        if self.keep is not None and best == len(curve) - 1:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / self.keep)
        recent = range(len(curve) - self.patience, len(curve))
        if (
            self.turned_at is not None
            or recent[0] <= best
            or not all(self._above(curve[i], curve[best]) for i in recent)
        ):
            return
        self.turned_at = source.steps
        rank_zero_info(
            f"the loss under noise of gamma {key} has risen above its lowest, at step "
            f"{int(source.history[best]['step'])}, for {self.patience} measurements (now step {source.steps})"
        )
        if rate < 0.99 * self._highest_rate:
            rank_zero_warn(
                "SensitivityStop: the learning rate has decayed. The published inflection point is over runs that were "
                "annealed separately; within one decaying run the turn also reflects the rate"
            )
        if self.stop:
            trainer.should_stop = True

    def _above(self, later: torch.Tensor, best: torch.Tensor) -> bool:
        rise = later - best
        return float(rise.mean()) > self.sigmas * float(rise.std()) / len(rise) ** 0.5
