"""Parameters of the partial-transfer lab."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_tl.errors import UserError
from lightning_tl.labs.lab import Lab
from lightning_tl.labs.partial_transfer_theory import Setting


@dataclass(frozen=True)
class PartialTransferParameters(Lab):
    """Inherit a share of the filters from an upstream task that has a part of the signal in common.

    Attributes:
        shares: Shares of the filters that are inherited.
        upstream: Numbers of upstream samples, each even.
        shared: Shares of the squared signal that upstream and downstream have in common.
        downstream: Downstream samples, even.
        strength: Length of the signal, over the noise's standard deviation in one direction.
        d: Dimension of a patch.
        filters: Filters of each of the two outputs.
        networks: Independent networks, each with data of its own, for each point.
        loss: Training loss at which each training ends.
        start: Standard deviation of the first weights.
        seed: Of all random numbers.
    """

    shares: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    upstream: tuple[int, ...] = (20, 80, 320)
    shared: tuple[float, ...] = (0.0, 0.3, 0.6, 0.9)
    downstream: int = 40
    strength: float = 2.0
    d: int = 2000
    filters: int = 20
    networks: int = 16
    loss: float = 0.05
    start: float = 1e-4

    def check(self) -> None:
        """See :meth:`Lab.check`."""
        self.require("filters", 2, 200)
        self.require("shares", 1 / self.filters, 1)
        self.require("upstream", 4, 1000)
        self.require("downstream", 4, 1000)
        for name in ("upstream", "downstream"):
            value = getattr(self, name)
            for one in value if isinstance(value, tuple | list) else (value,):
                if one % 2:
                    raise UserError(f"{name} is {one}; it must be even, as there are as many samples of each label")
        self.require("shared", 0, 1)
        self.require("strength", 0.1, 20)
        self.require("d", 100, 20_000)
        self.require("networks", 2, 1000)
        self.require("loss", 0.005, 0.5)
        self.require("start", 1e-8, 0.1)

    def setting(self, upstream: int, shared: float) -> Setting:
        """Return what the theory needs to know of a pair of tasks."""
        return Setting(self.d, self.strength, upstream, self.downstream, shared, self.start, self.loss)
