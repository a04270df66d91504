"""The size, of pre-training or fine-tuning, at which a law reaches a target error."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike

from lightning_tl.errors import UserError
from lightning_tl.laws.clusters import Cells
from lightning_tl.laws.forms import Array, Form, Measured

#: Sizes beyond this are reported as out of reach; of tokens, sizes beyond so many times the largest.
MOST_IMAGES, FAR = 1e12, 1e4


@dataclass(frozen=True)
class ImagesNeeded:
    """Size at which the law reaches a target error: of pre-training, or of fine-tuning.

    Attributes:
        target: The target error.
        estimate: Images at which the fitted law reaches it; infinite where it never does.
        low: Lower end of the interval in images.
        high: Upper end; infinite where the data do not bound it.
        never: Confidence that the law stays above the target up to :data:`MOST_IMAGES`: C is above it, or the
            curve so flat that it makes no difference.
        largest: Largest such size measured, to see how far this extrapolates.
    """

    target: float
    estimate: float
    low: float
    high: float
    never: float
    largest: float


def crossing(sizes: Array, error_at: Callable[[int], float], target: float, falls: bool) -> float:
    """Return the first size at which a curve reaches the target, between grid points by log interpolation.

    Args:
        sizes: The grid, ascending.
        error_at: The curve at a point of the grid, by its number.
        target: The error to reach.
        falls: The curve never rises, so that few of its points have to be computed.
    """
    points = range(len(sizes))
    if falls:
        first = bisect_left(points, True, key=lambda i: error_at(i) <= target)
    else:
        first = next((i for i in points if error_at(i) <= target), len(sizes))
    if first == len(sizes):
        return np.inf
    if first == 0:
        return float(sizes[0])
    before, after = np.log(error_at(first - 1) / target), np.log(error_at(first) / target)
    part = before / (before - after) if before != after else 1.0
    return float(np.exp(np.log(sizes[first - 1]) + part * np.log(sizes[first] / sizes[first - 1])))


def check_target(target: float, measured: Measured) -> None:
    """Refuse a target that no error, or no loss, can be.

    Raises:
        UserError: The target is out of range.
    """
    if measured == "loss" and not 0 < target < np.inf:
        raise UserError(f"target loss {target:g} is not a number over 0")
    if measured == "error" and not 0 < target < 1:
        raise UserError(f"target error {target:g} is not between 0 and 1; an error of 10 % is 0.1")


class Law(Protocol):
    """What is asked of a fitted law."""

    @property
    def form(self) -> Form:
        """The form fitted."""

    @property
    def cells(self) -> Cells:
        """The independent points."""

    def predict(self, n: ArrayLike, s: ArrayLike | None = None) -> Array:
        """Return the law's error at sizes."""

    def band(self, n: ArrayLike, s: ArrayLike | None = None, level: float | None = None) -> tuple[Array, Array]:
        """Return the interval of the law at sizes."""

    def probability_error_above(self, n: float, error: float, s: float | None = None) -> float:
        """Return the confidence that the law at ``n`` images is above ``error``."""


def size_needed(
    law: Law, target: float, s: float | None, level: float | None, *, over: Literal["n", "s"], n: float | None
) -> ImagesNeeded:
    """Return at which size a law reaches a target error; the arguments are those of ``FittedLaw.images_needed``.

    Raises:
        UserError: The target is out of range, the law knows no fine-tuning size, or a size has no meaning here.
    """
    check_target(target, law.cells.measured)
    if over not in ("n", "s"):
        raise UserError(f"over is '{over}'; it is n (the pre-training size) or s (the {law.form.second_size})")
    if over == "s" and not law.form.uses_s:
        raise UserError(f"{law.form.formula} has no fine-tuning size to solve for; fit FullLaw with s=…")
    if (s if over == "s" else n) is not None:
        raise UserError(f"images_needed solves for {over}, so {over} cannot be given")
    known = law.cells.s if over == "s" else law.cells.n
    most = max(MOST_IMAGES, FAR * float(known.max()))
    grid = np.geomspace(1, most, 1 + round(20 * np.log10(most)))
    if over == "s":
        size = float(law.cells.n.max()) if n is None else n
        if not size > 0:
            raise UserError(f"n is {size:g}; it must be above 0")
        never = law.probability_error_above(size, target, most)
    else:
        never = law.probability_error_above(most, target, s)

    def at(i: int) -> tuple[float, float | None]:
        return (size, grid[i]) if over == "s" else (grid[i], s)

    @cache
    def ends(i: int) -> tuple[float, float]:
        low, high = law.band(*at(i), level)
        return float(low[0]), float(high[0])

    # Exponents that are searched are above 0; those in which log error is linear may be below.
    falls = law.form.has_plateau and (over == "n" or not law.form.log_linear)
    return ImagesNeeded(
        target=target,
        estimate=crossing(grid, lambda i: float(law.predict(*at(i))[0]), target, falls),
        low=crossing(grid, lambda i: ends(i)[0], target, falls),
        high=crossing(grid, lambda i: ends(i)[1], target, falls),
        never=never,
        largest=float(known.max()),
    )
