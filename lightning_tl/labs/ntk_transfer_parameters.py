"""Parameters of the lab of transfer in the kernel limit and in two-layer networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lightning_tl.errors import UserError
from lightning_tl.labs.lab import Lab
from lightning_tl.labs.ntk_transfer_kernel import KernelTransfer
from lightning_tl.labs.ntk_transfer_network import NetworkTransfer

#: Eigenfunctions of exact surfaces, which cost little, and of the exact curves that powers are read from.
_MANY, _MORE = 20_000, 200_000


@dataclass(frozen=True)
class NtkTransferParameters(Lab):
    """Pre-train on φ₀ with n samples, fine-tune on φ₀ + φ₁ with s under a pull to the start.

    Attributes:
        d: Number of the kernel's eigenfunctions in simulations.
        decay: ξ: eigenvalues are i^-ξ.
        source: r₀, source condition of φ₀: squares of coefficients are i^-(2 r₀ ξ + 1).
        gap: r₁ < r₀, that of φ₁.
        gap_size: Size of φ₁'s squared coefficients relative to φ₀'s first.
        noise: Variance of the labels' noise, in the part with noise.
        n: Source samples of the kernel's simulations.
        s: Target samples of these.
        draws: Independent draws of samples for each point.
        width: Of the networks' hidden layer.
        inputs: Of the networks.
        networks: Trained side by side, each with a teacher of its own.
        rate: Of averaged SGD on the networks.
        pull: Weight of the ℓ2 distance from the start.
        network_gap: Size of φ₁ for networks.
        network_n: Source samples of the networks, doubling.
        network_s: Target samples of the networks.
        seed: Of all random numbers.
    """

    d: int = 1500
    decay: float = 2.0
    source: float = 0.8
    gap: float = 0.4
    gap_size: float = 0.001
    noise: float = 0.1
    n: tuple[int, ...] = (250, 1000)
    s: tuple[int, ...] = (80, 320)
    draws: int = 24
    width: int = 200
    inputs: int = 8
    networks: int = 8
    rate: float = 0.3
    pull: float = 0.001
    network_gap: float = 0.2
    network_n: tuple[int, ...] = (256, 512, 1024, 2048, 4096, 8192)
    network_s: tuple[int, ...] = (32, 64, 128, 256, 512, 1024)

    def check(self) -> None:
        """See :meth:`Lab.check`."""
        self.require("d", 100, 5000)
        self.require("decay", 1.5, 3)
        self.require("source", 0.1, 0.9)
        self.require("gap", 0.05, 0.9)
        self.require("gap_size", 1e-6, 1)
        self.require("noise", 1e-6, 1e3)
        self.require("n", 20, 4000)
        self.require("s", 20, 4000)
        self.require("draws", 2, 1000)
        self.require("width", 2, 2000)
        self.require("inputs", 2, 100)
        self.require("networks", 3, 100)
        self.require("rate", 1e-4, 1)
        self.require("pull", 0, 1)
        self.require("network_gap", 1e-3, 10)
        if self.gap >= self.source:
            raise UserError(f"gap is {self.gap:g}; it must be below source, which is {self.source:g}")
        for name in ("network_n", "network_s"):
            self.require(name, 1, 100_000)
            sizes = getattr(self, name)
            if len(sizes) < 4 or list(sizes) != sorted(set(sizes)):
                raise UserError(f"{name} must be at least 4 rising sizes: the last is held out, and laws need three")

    def kernel(
        self, noisy: bool = False, use: Literal["simulation", "surface", "powers"] = "simulation"
    ) -> KernelTransfer:
        """Return the kernel limit, with as many eigenfunctions as the use of it allows."""
        many = {"simulation": self.d, "surface": _MANY, "powers": _MORE}[use]
        noise = self.noise if noisy else 0.0
        return KernelTransfer(many, self.decay, self.source, self.gap, self.gap_size, noise)

    def network(self) -> NetworkTransfer:
        """Return the networks."""
        return NetworkTransfer(
            self.width,
            self.inputs,
            self.networks,
            self.rate,
            self.pull,
            self.network_gap,
            self.network_n,
            self.network_s,
        )
