"""SensitivityStop: stop when the perturbed loss has turned upward."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_tl.callbacks.perturbation_sensitivity import PerturbationSensitivity
from lightning_tl.errors import UserError, nearest
from lightning_tl.measure.arguments import flag, number, numbers, whole


class SensitivityStop(Callback):
    """Stop, or keep the best checkpoint, once the perturbed loss has turned upward beyond its noise.

    Springer et al. (2025, §3.3) find that over pre-training runs of growing length, each annealed separately, the
    perturbed loss first falls and then rises: the model becomes fragile. Within one run that need not happen, and under
    a decaying learning rate a rise also reflects the rate, of which a warning is given. All measurements use the same
    draws, so the rise over the lowest point is tested draw by draw: it counts if its mean is larger than ``sigmas``
    standard errors.

    Args:
        gamma: The scale to watch; default: the largest of the PerturbationSensitivity callback.
        patience: Number of measurements in a row that must be above the lowest.
        sigmas: The least rise, in standard errors.
        stop: Stop the training.
        keep: Path of a checkpoint that is written whenever the perturbed loss is at its lowest so far; a relative one
            lies in the trainer's ``default_root_dir``.
        prefix: Prefix of the PerturbationSensitivity callback to watch.

    Raises:
        UserError: There is no such PerturbationSensitivity callback, or it does not measure this γ.
    """

    def __init__(
        self,
        gamma: float | None = None,
        patience: int = 3,
        sigmas: float = 2.0,
        stop: bool = True,
        keep: str | Path | None = None,
        prefix: str = "",
    ) -> None:
        whole("patience", patience)
        number("sigmas", sigmas, 0)
        if gamma is not None:
            (gamma,) = numbers("gamma", [gamma])
        if not flag("stop", stop) and keep is None:
            raise UserError("stop=False without keep= does nothing; set keep= to the path of a checkpoint to keep")
        if keep is not None and not isinstance(keep, str | Path):
            raise UserError(f"keep={keep!r} must be the path of a checkpoint")
        self.gamma, self.patience, self.sigmas, self.stop, self.keep = gamma, patience, sigmas, stop, keep
        self.prefix = prefix
        self.turned_at: int | None = None
        self._seen = 0
        self._warned = False
        self._highest_rate = 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that what is to be watched is measured."""
        self._watched(self._source(trainer))

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
        """Continue from a checkpoint's state."""
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

    def _watched(self, source: PerturbationSensitivity) -> float:
        """Return the scale to watch, as the source has it."""
        if self.gamma is None:
            return max(source.gammas)
        for gamma in source.gammas:
            if math.isclose(gamma, self.gamma, rel_tol=1e-6):
                return gamma
        valid = [f"{gamma:g}" for gamma in source.gammas]
        raise UserError(f"SensitivityStop(gamma={self.gamma:g}) is not measured{nearest(f'{self.gamma:g}', valid)}")

    def _look(self, trainer: Trainer) -> None:
        source = self._source(trainer)
        rate = max((float(g["lr"]) for o in trainer.optimizers for g in o.param_groups), default=0.0)
        self._highest_rate = max(self._highest_rate, rate)
        if len(source.draw_history) == self._seen or trainer.state.fn != "fit":
            return
        self._seen = len(source.draw_history)
        gamma = self._watched(source)
        curve = [torch.tensor(draws[gamma], dtype=torch.float64) for draws in source.draw_history]
        # a loss that is not finite counts as higher than all others
        best = min(range(len(curve)), key=lambda i: (not _finite(curve[i]), float(curve[i].nan_to_num().mean())))
        if not _finite(curve[-1]) and not self._warned:
            self._warned = True
            rank_zero_warn(
                f"SensitivityStop: the loss under noise of gamma {gamma:g} is not finite at step {source.steps}; it "
                "counts as above the lowest one"
            )
        if self.keep is not None and best == len(curve) - 1 and _finite(curve[-1]):
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
            f"the loss under noise of gamma {gamma:g} has been above its lowest value, of step "
            f"{source.measured_steps[best]}, for {self.patience} measurements (now step {source.steps})"
        )
        if rate < 0.99 * self._highest_rate:
            rank_zero_warn(
                "SensitivityStop: the learning rate has decayed. The published inflection point is over runs that were "
                "annealed separately; within one run with a decaying rate the turn also reflects the rate"
            )
        if self.stop:
            trainer.should_stop = True

    def _above(self, later: torch.Tensor, best: torch.Tensor) -> bool:
        if not _finite(later):
            return True
        rise = later - best
        return float(rise.mean()) > self.sigmas * float(rise.std()) / math.sqrt(len(rise))


def _finite(draws: torch.Tensor) -> bool:
    return bool(draws.isfinite().all())
