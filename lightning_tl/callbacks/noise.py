"""The scales of the noise of a callback: found once where they are those of the initialisation, kept in checkpoints."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_tl.errors import UserError, nearest
from lightning_tl.measure.noise import NOISES, Reference, as_scales, initialisation, noise_scales
from lightning_tl.measure.objective import Objective


class Noise:
    """A kind of noise, and its scales for the module at hand.

    Args:
        noise: ``init``, ``relative`` or ``isotropic``.
        reference: For ``init``, as for :func:`~lightning_tl.measure.noise.initialisation`.

    Attributes:
        doubts: What is not certain about the initialisation, as sentences; known after the first measurement.

    Raises:
        UserError: The noise is unknown.
    """

    def __init__(self, noise: str, reference: Reference = None) -> None:
        if noise not in NOISES:
            raise UserError(f"noise={noise!r} is unknown{nearest(noise, NOISES)}")
        self.noise, self.reference = noise, reference
        self.doubts: list[str] = []
        self._spreads: dict[str, float] | None = None

    def scales(self, objective: Objective, seed: int) -> dict[str, Tensor]:
        """Return √Σ by parameter, those of ``init`` from the first call on the same; warn of doubts once."""
        params = objective.params
        if self.noise != "init":
            return noise_scales(objective.module, params, self.noise)
        if self._spreads is None or self._spreads.keys() != params.keys():
            found = initialisation(objective.module, params, self.reference, seed)
            self._spreads, self.doubts = found.spreads, found.doubts
            for doubt in found.doubts:
                rank_zero_warn(doubt)
        return as_scales(self._spreads, params)

    def state_dict(self) -> dict[str, Any]:
        """Return the state in plain types."""
        return {"scales": self._spreads, "doubts": list(self.doubts)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint was written."""
        self._spreads, self.doubts = state_dict["scales"], list(state_dict.get("doubts", []))
