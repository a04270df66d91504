"""ParameterDistance: how far training has moved the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_tl.callbacks.measurement import Measurement
from lightning_tl.measure.distance import distance
from lightning_tl.measure.noise import load_state
from lightning_tl.measure.params import _listed, select, snapshot


class ParameterDistance(Measurement):
    """Log the L2 distance between the weights and a reference (Springer et al. 2025, Fig. 8).

    Args:
        reference: ``start``: the weights at the start of the run (after a checkpoint to initialise from was loaded),
            kept in the checkpoints; or the path of a checkpoint; or a state dict.
        every_n_steps: As for :class:`~lightning_tl.callbacks.measurement.Measurement`, also the other arguments.
        kwargs: As there. ``exclude="^head"`` leaves a new head out.

    Logs:
        ``param_distance/total``, ``param_distance/<group>``, ``param_distance/relative`` (to the reference's norm),
        ``param_distance/cosine``, ``param_distance/seconds``. Parameters that the reference lacks are left out, and
        named once.

    Raises:
        UserError: The reference cannot be read, or shares no parameter with the module.

    Example:
        >>> trainer = Trainer(callbacks=[ParameterDistance(exclude="^head")])  # doctest: +SKIP
    """

    quantity = "param_distance"

    def __init__(
        self, reference: str | Mapping[str, Tensor] = "start", every_n_steps: int | None = 50, **kwargs: Any
    ) -> None:
        super().__init__(every_n_steps=every_n_steps, **kwargs)
        self.reference = reference
        self._weights: dict[str, Tensor] | None = None
        self._told = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the reference, after any checkpoint was restored."""
        super().on_fit_start(trainer, pl_module)
        self._take_reference(pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the reference under ``trainer.validate``."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._take_reference(pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the reference under ``trainer.test``."""
        self._take_reference(pl_module)

    def measure(self, trainer: Trainer, module: LightningModule) -> dict[str, float]:
        """Return the distances by key."""
        assert self._weights is not None
        found = distance(select(module, self.include, self.exclude), self._weights, self.groups)
        if found.missing and not self._told:
            rank_zero_warn(f"param_distance leaves out what its reference lacks: {_listed(found.missing)}")
        self._told = True
        totals = {"total": found.total, "relative": found.relative, "cosine": found.cosine}
        return {f"param_distance/{key}": value for key, value in (totals | found.groups).items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the state in plain types; the weights of the start are part of it."""
        kept = self._weights if isinstance(self.reference, str) and self.reference == "start" else None
        return {**super().state_dict(), "reference": kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint was written, from the same reference."""
        super().load_state_dict(state_dict)
        if isinstance(self.reference, str) and self.reference == "start":
            self._weights = state_dict["reference"]

    def _take_reference(self, module: LightningModule) -> None:
        params = select(module, self.include, self.exclude)
        if self._weights is None:
            if isinstance(self.reference, Mapping):
                self._weights = {name: t.detach() for name, t in self.reference.items() if isinstance(t, Tensor)}
            elif self.reference == "start":
                self._weights = snapshot(params)
            else:
                self._weights = load_state(self.reference)
        # where the parameters are: a measurement then copies nothing across devices
        self._weights = {
            name: tensor.to(params[name].device) if name in params else tensor for name, tensor in self._weights.items()
        }
