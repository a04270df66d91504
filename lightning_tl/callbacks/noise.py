"""The scales of a callback's noise. Those of the initialisation are determined once and kept in checkpoints."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from lightning_tl.errors import UserError, nearest
from lightning_tl.measure.noise import NOISES, NoiseKind, Reference, as_scales, initialisation, noise_scales
from lightning_tl.measure.objective import Objective
from lightning_tl.measure.params import clean_name
from lightning_tl.measure.start_weights import StartSpread, start_spreads


class Noise:
    """A kind of noise, and its scales for the module at hand.

    Args:
        noise: ``init``, ``relative`` or ``isotropic``.
        reference: For ``init``, as for :func:`~lightning_tl.measure.noise.initialisation`.

    Attributes:
        doubts: Sentences on layers whose initialisation is not certain; empty until the first measurement.
        sources: With ``init``, by parameter name where its scale is from, in words.

    Raises:
        UserError: The noise is unknown.
    """

    def __init__(self, noise: NoiseKind, reference: Reference = None) -> None:
        if noise not in NOISES:
            raise UserError(f"noise={noise!r} is unknown{nearest(noise, NOISES)}")
        self.noise, self.reference = noise, reference
        self.doubts: list[str] = []
        self.sources: dict[str, str] = {}
        self._spreads: dict[str, float] | None = None
        self._start: dict[str, StartSpread] = {}

    def see_start(self, module: nn.Module) -> None:
        """Note the spread of the weights before the first step, for what the module does not tell itself."""
        if self.noise == "init" and self.reference is None and self._spreads is None and not self._start:
            every = {clean_name(name): parameter for name, parameter in module.named_parameters()}
            self._start = start_spreads(every)

    def scales(self, objective: Objective, seed: int) -> dict[str, Tensor]:
        """Return √Σ by parameter; those of ``init`` are the same from the first call on. Warn of doubts once."""
        params = objective.params
        if self.noise != "init":
            return noise_scales(objective.module, params, self.noise)
        if self._spreads is None or self._spreads.keys() != params.keys():
            init = initialisation(objective.module, params, self.reference, seed, self._start)
            self._spreads, self.doubts, self.sources = init.spreads, init.doubts, init.sources
            rank_zero_info(init.summary())
            for doubt in init.doubts:
                rank_zero_warn(doubt)
        return as_scales(self._spreads, params)

    def state_dict(self) -> dict[str, Any]:
        """Return the state in plain types."""
        start = {name: found.plain() for name, found in self._start.items()}
        return {"scales": self._spreads, "doubts": list(self.doubts), "sources": dict(self.sources), "start": start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint's state."""
        self._spreads, self.doubts = state_dict["scales"], list(state_dict.get("doubts", []))
        self.sources = dict(state_dict.get("sources", {}))
        self._start = {name: StartSpread(*found) for name, found in state_dict.get("start", {}).items()}
