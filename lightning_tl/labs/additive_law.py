"""The rival of the full law: two terms that are added, one for each size; and which law predicts held-out points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightning_tl.laws import AdditiveLaw, FittedLaw, FullLaw, fit

#: (n, s, error)
Point = tuple[float, float, float]


@dataclass(frozen=True)
class Contest:
    """Both laws, fitted to the smaller sizes, and how far each is off at the largest.

    Attributes:
        multiplicative: ``delta (gamma + n^-alpha) s^-beta``.
        additive: ``A n^-a + B s^-b``.
        off: Root mean square of log(predicted / true) at the points held out, for each.
    """

    multiplicative: FittedLaw
    additive: FittedLaw
    off: tuple[float, float]

    @property
    def winner(self) -> str:
        """The law that is less far off."""
        return "multiplicative" if self.off[0] < self.off[1] else "additive"


def contest(points: Sequence[Point]) -> Contest:
    """Fit both laws to all points but those with the largest n or the largest s, which they then predict.

    Args:
        points: Sizes and errors, on a grid.
    """
    largest = max(point[0] for point in points), max(point[1] for point in points)
    held = [point for point in points if point[0] == largest[0] or point[1] == largest[1]]
    n, s, error = (list(column) for column in zip(*(point for point in points if point not in held), strict=True))
    laws = [fit(form, n=n, s=s, error=error) for form in (FullLaw(), AdditiveLaw())]
    at_n, at_s, true = (np.array(column) for column in zip(*held, strict=True))
    off = [float(np.sqrt(np.mean(np.log(law.predict(at_n, at_s) / true) ** 2))) for law in laws]
    return Contest(laws[0], laws[1], (off[0], off[1]))
