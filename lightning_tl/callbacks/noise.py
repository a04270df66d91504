"""The scales of a callback's noise. Those of the initialisation are determined once and kept in checkpoints."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_tl.errors import UserError, nearest
from lightning_tl.measure.noise import NOISES, NoiseKind, Reference, as_scales, initialisation, noise_scales
from lightning_tl.measure.objective import Objective


class Noise:
    """A kind of noise, and its scales for the module at hand.

    Args:
        noise: ``init``, ``relative`` or ``isotropic``.
        reference: For ``init``, as for :func:`~lightning_tl.measure.noise.initialisation`.

    Attributes:
        doubts: Sentences on layers whose initialisation is not certain; empty until the first measurement.

    Raises:
        UserError: The noise is unknown.
    """

    def __init__(self, noise: NoiseKind, reference: Reference = None) -> None:
        if noise not in NOISES:
            raise UserError(f"noise={noise!r} is unknown{nearest(noise, NOISES)}")
        self.noise, self.reference = noise, reference
        self.doubts: list[str] = []
        self._spreads: dict[str, float] | None = None

    def scales(self, objective: Objective, seed: int) -> dict[str, Tensor]:
        """Return √Σ by parameter; those of ``init`` are the same from the first call on. Warn of doubts once."""
        params = objective.params
        if self.noise != "init":
            return noise_scales(objective.module, params, self.noise)
        if self._spreads is None or self._spreads.keys() != params.keys():
            init = initialisation(objective.module, params, self.reference, seed)
            self._spreads, self.doubts = init.spreads, init.doubts
            for doubt in init.doubts:
                rank_zero_warn(doubt)
        return as_scales(self._spreads, params)

    def state_dict(self) -> dict[str, Any]:
        """Return the state in plain types."""
        return {"scales": self._spreads, "doubts": list(self.doubts)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint's state."""
        self._spreads, self.doubts = state_dict["scales"], list(state_dict.get("doubts", []))
