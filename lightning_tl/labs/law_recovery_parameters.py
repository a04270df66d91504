"""Parameters of the lab of recovered laws."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_tl.labs.lab import Lab


@dataclass(frozen=True)
class LawRecoveryParameters(Lab):
    """What `lightning-tl law` says of tables whose truth is known.

    Attributes:
        worlds: Simulated studies of each kind; half as many of the law over two sizes.
        tables: Simulated tables for each point that theory gives, at the boundaries half as many.
        sizes: Pre-training sizes of a study: 1000, 2000, 4000 …
        noise: Standard deviation of a run's log error.
        draws: Draws of fine-tuning data, where draws are shared by all sizes.
        draw_noise: Standard deviation of the luck of such a draw, in log error.
        seed: Of all random numbers.
    """

    worlds: int = 100
    tables: int = 400
    sizes: int = 7
    noise: float = 0.01
    draws: int = 3
    draw_noise: float = 0.04

    def check(self) -> None:
        """See :meth:`Lab.check`."""
        self.require("worlds", 4, 100_000)
        self.require("tables", 4, 100_000)
        self.require("sizes", 5, 12)
        self.require("noise", 1e-4, 0.1)
        self.require("draws", 2, 20)
        self.require("draw_noise", 0, 0.3)
