"""ParameterDistance: how far training has moved the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_tl.callbacks.measurement import Measurement
from lightning_tl.measure.checkpoint import load_checkpoint
from lightning_tl.measure.distance import distance
from lightning_tl.measure.lora import merged_distance
from lightning_tl.measure.params import listed, select, snapshot
from lightning_tl.measured import Measured


class ParameterDistance(Measurement):
    """Log the L2 distance between the weights and a reference (Springer et al. 2025, Fig. 8).

    Args:
        reference: ``start``: the weights at the start of the run (after a checkpoint to initialise from was loaded),
            kept in the checkpoints; or the path of a checkpoint; or a state dict.
        every_n_steps: As for :class:`~lightning_tl.callbacks.measurement.Measurement`, also the other arguments.
        kwargs: As there. ``exclude="^head"`` leaves out a new head.

    Logs:
        ``param_distance/total``, ``param_distance/<group>``, ``param_distance/relative`` (to the reference's norm),
        ``param_distance/cosine``, ``param_distance/seconds``. Parameters that the reference lacks are left out, and a
        warning names them once. With LoRA adapters also ``param_distance/merged/<layer>``, how far they have moved the
        layer's merged weight, and ``param_distance/merged``, over all layers
        (:func:`~lightning_tl.measure.lora.merged_distance`).

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
        self._warned = False

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

    def measure(self, trainer: Trainer, module: LightningModule) -> list[Measured]:
        """Return the distances."""
        assert self._weights is not None
        params = select(module, self.include, self.exclude, self.trainable)
        moved = distance(params, self._weights, self.groups)
        if moved.missing and not self._warned:
            rank_zero_warn(f"param_distance leaves out parameters that its reference lacks: {listed(moved.missing)}")
        self._warned = True
        values = {"total": moved.total, "relative": moved.relative, "cosine": moved.cosine, **moved.groups}
        if layers := merged_distance(module, self._weights, params):
            values |= {"merged": math.hypot(*layers.values()), **{f"merged/{k}": v for k, v in layers.items()}}
        return [self.record("param_distance", value, group) for group, value in values.items()]

    def state_dict(self) -> dict[str, Any]:
        """Return the state in plain types; the weights of the start are part of it."""
        start = self._weights if isinstance(self.reference, str) and self.reference == "start" else None
        return {**super().state_dict(), "reference": start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint's state, with the same reference."""
        super().load_state_dict(state_dict)
        if isinstance(self.reference, str) and self.reference == "start":
            self._weights = state_dict["reference"]

    def _take_reference(self, module: LightningModule) -> None:
        params = select(module, self.include, self.exclude, self.trainable)
        if self._weights is None:
            if isinstance(self.reference, Mapping):
                self._weights = {name: t.detach() for name, t in self.reference.items() if isinstance(t, Tensor)}
            elif self.reference == "start":
                self._weights = snapshot(params)
            else:
                self._weights = load_checkpoint(self.reference).weights
        # on the parameters' devices, so that a measurement copies nothing across devices
        self._weights = {
            name: tensor.to(params[name].device) if name in params else tensor for name, tensor in self._weights.items()
        }
