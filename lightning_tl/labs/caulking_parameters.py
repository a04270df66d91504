"""Parameters of the caulking lab, and the residuals and networks that follow from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lightning_tl.errors import UserError
from lightning_tl.labs.caulking_lora import Adapted
from lightning_tl.labs.caulking_theory import KernelRidge, Residual
from lightning_tl.labs.lab import Lab

#: Share of ``samples`` that the simpler residual's dimension is at m = 1, and functions known at m = 1.
_WIDTH, _KNOWN = 0.75, 8


@dataclass(frozen=True)
class CaulkingParameters(Lab):
    """A pre-trained part of size m, and the samples that its residual needs.

    Attributes:
        d: Number of the kernel's eigenfunctions.
        decay: ξ: the kernel's eigenvalues are i^-ξ.
        target_decay: τ: squares of the target's coefficients are i^-τ.
        fading: a: the residual's energy falls as m^-a, at the same shape.
        simplifying: k: the residual's dimension falls as m^-k, at the same energy.
        noise: Variance of the labels' noise, where there is any.
        sizes: m of the pre-trained part, each at least 1.
        samples: What the residual needs at m = 1: it sets the error that has to be reached.
        draws: Independent draws of samples for each point.
        rank: Of the residual that LoRA learns, at m = 1; it falls as 1/m.
        lora_draws: Independent trainings for each point.
        seed: Of all random numbers.
    """

    d: int = 3000
    decay: float = 2.0
    target_decay: float = 2.5
    fading: float = 1.2
    simplifying: float = 0.7
    noise: float = 0.003
    sizes: tuple[float, ...] = (1.0, 1.6, 2.5, 4.0)
    samples: int = 300
    draws: int = 16
    rank: int = 8
    lora_draws: int = 16

    def check(self) -> None:
        """See :meth:`Lab.check`."""
        self.require("d", 160, 5000)  # four times the fewest samples
        self.require("decay", 1.05, 3)
        self.require("target_decay", 1.2, 4)
        self.require("fading", 0.05, 4)
        self.require("simplifying", 0.05, 2)
        self.require("noise", 1e-6, 1e3)
        self.require("samples", 40, self.d // 4)
        self.require("draws", 2, 1000)
        self.require("rank", 1, 12)
        self.require("sizes", 1, 8)
        self.require("lora_draws", 2, 1000)
        if len(set(self.sizes)) < 2:
            raise UserError("sizes has a single value; a power needs at least two different ones")

    def kernel(self) -> KernelRidge:
        """Return kernel ridge regression with eigenvalues i^-ξ."""
        return KernelRidge(np.arange(1, self.d + 1) ** -self.decay)

    def residuals(self) -> list[Residual]:
        """Return the ways in which the residual changes with m."""
        order = np.arange(1, self.d + 1)
        target = order**-self.target_decay
        fainter = self.fading / min(self.target_decay - 1, 2 * self.decay)
        return [
            Residual("fainter", lambda m: m**-self.fading * target, 0.0, fainter),
            Residual("fainter, noisy labels", lambda m: m**-self.fading * target, self.noise, fainter),
            Residual(
                "simpler", lambda m: np.clip(self.width(m) + 1 - order, 0, 1) / self.width(m), 0.0, self.simplifying
            ),
            Residual("first functions known", lambda m: np.where(order > _KNOWN * m, target, 0.0), 0.0, None),
        ]

    def width(self, m: float) -> float:
        """Return the dimension of the simpler residual."""
        return float(_WIDTH * self.samples * m**-self.simplifying)

    def rank_at(self, m: float) -> int:
        """Return the rank of the residual that LoRA learns."""
        return max(1, round(self.rank / m))

    @staticmethod
    def layers() -> dict[str, Adapted]:
        """Return the networks that LoRA is tried on."""
        return {"linear layer": Adapted(24, 24, 0, 0.01, 240), "tanh network": Adapted(16, 24, 24, 0.01, 1200)}
