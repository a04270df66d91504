"""The rival of the full law: two terms that are added, one for each size; and which law predicts held-out points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightning_tl.laws import FittedLaw, Form, FullLaw, fit
from lightning_tl.laws.forms import Array, Quantity, Sizes, split

#: (n, s, error)
Point = tuple[float, float, float]


class AdditiveLaw(Form):
    """``error = A n^-a + B s^-b``: what fixed features cost, and what the head costs."""

    name = "additive"
    formula = "error = A * n^-a + B * s^-b"
    parameters = ("A", "a", "B", "b")
    scales = ("A", "B")
    levels = ("A", "B")
    outer = {"a": (1e-3, 10.0), "b": (1e-3, 10.0)}  # noqa: RUF012 - as in the library's forms
    uses_s = True

    def design_matrix(self, sizes: Sizes) -> Array:
        """Return ones: in log space only the scale of both terms is linear."""
        return np.ones((*sizes.log_n.shape, 1))

    def nonlinear_log_error(self, outer: Array, plateau: Array, sizes: Sizes) -> Array:
        """Return log((1 - p) (n / n_ref)^-a + p (s / s_ref)^-b), p being the share of the second term."""
        share, rest = split(plateau)
        first = rest[..., None] * np.exp(-outer[..., :1] * sizes.log_n)
        second = share[..., None] * np.exp(-outer[..., 1:2] * sizes.log_s)
        value: Array = np.log(np.maximum(first + second, 1e-300))
        return value

    def quantity(self, name: str, sizes: Sizes) -> Quantity:
        """See :meth:`Form.quantity`."""
        at, reference = {"a": (0, 0.0), "A": (0, np.log(sizes.n_ref)), "b": (1, 0.0), "B": (1, np.log(sizes.s_ref))}[
            name
        ]
        if name in self.outer:
            return lambda outer, plateau: (outer[..., at], np.zeros(1))

        def level(outer: Array, plateau: Array) -> tuple[Array, Array]:
            part = np.maximum(split(plateau)[1 - at], 1e-150)  # a term that is not there has a level all the same
            return np.log(part) + outer[..., at] * reference, np.ones(1)

        return level

    def predict(self, params: dict[str, float], n: Array, s: Array) -> Array:
        """See :meth:`Form.predict`."""
        return params["A"] * n ** -params["a"] + params["B"] * s ** -params["b"]

    def jacobian(self, params: dict[str, float], n: Array, s: Array) -> Array:
        """See :meth:`Form.jacobian`."""
        first, second = n ** -params["a"], s ** -params["b"]
        columns = [first, -params["A"] * first * np.log(n), second, -params["B"] * second * np.log(s)]
        return np.stack(columns, axis=1) / self.predict(params, n, s)[:, None]


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
