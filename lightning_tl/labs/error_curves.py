"""Curves of test error against pre-training images, of which the truth is known: laws, and what is no law."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lightning_tl.labs.outcome import Array

#: Error at :data:`FIRST` images.
LEVEL = 0.3
FIRST = 1000.0
#: Sharpness of the bend of a broken power law: the decades that it takes.
_WIDTH = 0.3


class Curve(Protocol):
    """The mean error at sizes n, shape (m,)."""

    @property
    def least(self) -> float:
        """The error that no number of images goes below."""

    @property
    def turn(self) -> float:
        """Images beyond which the error no longer falls."""

    def __call__(self, n: Array) -> Array:
        """Return the error at sizes n, shape (m,)."""


@dataclass(frozen=True)
class LawCurve:
    """``level (share + (1 - share) (n / 1000)^-alpha)``: the law D n^-alpha + C, with C = level · share.

    Attributes:
        level: Error at 1000 images.
        alpha: The rate.
        share: Share of C in the error at 1000 images.
        turn: See :class:`Curve`.
    """

    level: float
    alpha: float
    share: float
    turn: float = np.inf

    def __call__(self, n: Array) -> Array:
        """See :class:`Curve`."""
        error: Array = self.level * (self.share + (1 - self.share) * (n / FIRST) ** -self.alpha)
        return error

    @property
    def least(self) -> float:
        """C."""
        return self.level * self.share

    @property
    def params(self) -> dict[str, float]:
        """The law's parameters."""
        return {"D": self.level * (1 - self.share) * FIRST**self.alpha, "alpha": self.alpha, "C": self.least}


@dataclass(frozen=True)
class BrokenCurve:
    """A double power law over a floor: the rate changes smoothly (arXiv 2210.14891).

    Attributes:
        first: Rate before the bend.
        second: Rate after it.
        share: Share of the floor in the error at 1000 images.
        bend: Where it bends, in thousands of images.
        turn: See :class:`Curve`.
    """

    first: float
    second: float
    share: float
    bend: float
    turn: float = np.inf

    def __call__(self, n: Array) -> Array:
        """See :class:`Curve`."""
        x = n / FIRST
        bent = (1 + (x / self.bend) ** (1 / _WIDTH)) / (1 + (1 / self.bend) ** (1 / _WIDTH))
        falls = x**-self.first * bent ** (-(self.second - self.first) * _WIDTH)
        error: Array = LEVEL * (self.share + (1 - self.share) * falls)
        return error

    @property
    def least(self) -> float:
        """The floor."""
        return LEVEL * self.share


@dataclass(frozen=True)
class MovingFloor:
    """A law whose C falls slowly with the images, ``C (n / 1000)^-drift``: in the end there is no floor.

    Attributes:
        law: The law with C as it is at 1000 images.
        drift: How fast C falls.
        least: See :class:`Curve`.
        turn: See :class:`Curve`.
    """

    law: LawCurve
    drift: float
    least: float = 0.0
    turn: float = np.inf

    def __call__(self, n: Array) -> Array:
        """See :class:`Curve`."""
        error: Array = self.law(n) - self.law.least * (1 - (n / FIRST) ** -self.drift)
        return error


@dataclass(frozen=True)
class RisingCurve:
    """A law until ``turn`` images, from where on the error rises.

    Attributes:
        law: The law.
        turn: Images at which it turns.
        rise: Exponent of the rise.
    """

    law: LawCurve
    turn: float
    rise: float

    def __call__(self, n: Array) -> Array:
        """See :class:`Curve`."""
        error: Array = self.law(np.minimum(n, self.turn)) * np.maximum(n / self.turn, 1) ** self.rise
        return error

    @property
    def least(self) -> float:
        """The error at the turn."""
        return float(self(np.array([self.turn]))[0])


def law_curve(rng: np.random.Generator, level: float = LEVEL) -> LawCurve:
    """Draw a law: alpha uniform in 0.1 to 1, the share of C in 0.05 to 0.95."""
    return LawCurve(level, rng.uniform(0.1, 1), rng.uniform(0.05, 0.95))


def power_curve(rng: np.random.Generator) -> LawCurve:
    """Draw a power law: C is 0."""
    return LawCurve(LEVEL, rng.uniform(0.1, 1), 0.0)


def curve_at_boundary(rng: np.random.Generator, largest: float, reduction: float, factor: float = 10.0) -> LawCurve:
    """Draw a law of which ``factor`` times the ``largest`` size takes away exactly this share of the error."""
    alpha = rng.uniform(0.1, 1)
    left = (largest / FIRST) ** -alpha * (1 - reduction - factor**-alpha)
    return LawCurve(LEVEL, alpha, left / (left + reduction))


def broken_curve(rng: np.random.Generator) -> BrokenCurve:
    """Draw a double power law that bends at 4,000 to 32,000 images."""
    first, second = rng.uniform(0.1, 1, 2)
    share, bend = rng.uniform(0.05, 0.95), np.exp(rng.uniform(np.log(4), np.log(32)))
    return BrokenCurve(first, second, share, bend)


def moving_floor(rng: np.random.Generator) -> MovingFloor:
    """Draw a law with a rate of 0.3 to 1 whose C falls as n^-0.02 to n^-0.1."""
    law = LawCurve(LEVEL, rng.uniform(0.3, 1), rng.uniform(0.05, 0.95))
    return MovingFloor(law, rng.uniform(0.02, 0.1))


def rising_curve(rng: np.random.Generator) -> RisingCurve:
    """Draw a law that turns at 4,000 to 32,000 images: from there on the error rises as n^0.1 to n^0.4."""
    law = law_curve(rng)
    return RisingCurve(law, np.exp(rng.uniform(np.log(4000), np.log(32000))), rng.uniform(0.1, 0.4))
