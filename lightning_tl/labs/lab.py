"""What all labs share: parameters, which are checked, and random numbers from a seed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from lightning_tl.errors import UserError
from lightning_tl.labs.outcome import Outcome


@dataclass(frozen=True)
class Lab(ABC):
    """A lab's parameters.

    Attributes:
        seed: Of all random numbers.
    """

    seed: int = 0

    @abstractmethod
    def check(self) -> None:
        """Refuse values that no simulation could be made of.

        Raises:
            UserError: A parameter is out of range.
        """

    @abstractmethod
    def run(self) -> Outcome:
        """Simulate, and compare with the theory.

        Raises:
            UserError: A parameter is out of range.
        """

    def random(self, stream: int) -> np.random.Generator:
        """Return the random numbers of one part of the lab, whatever the other parts draw."""
        return np.random.default_rng([self.seed, stream])

    def require(self, name: str, low: float, high: float) -> None:
        """Refuse a parameter, or a value in a list, outside ``[low, high]``.

        Raises:
            UserError: It is outside, or the list is empty.
        """
        value = getattr(self, name)
        values = value if isinstance(value, tuple | list) else (value,)
        if not values:
            raise UserError(f"{name} is empty; give at least one value")
        for one in values:
            if not low <= one <= high:  # NaN too
                raise UserError(f"{name} is {one:g}; it must be from {low:g} to {high:g}")
