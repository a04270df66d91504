"""Laws of two sizes whose terms are added, among them the law of Hoffmann et al. for language models.

Source: Hoffmann et al., *Training Compute-Optimal Large Language Models*, arXiv 2203.15556, Eq. 2 and Approach 3.
"""

from __future__ import annotations

import numpy as np

from lightning_tl.laws.forms import WHOLE, Array, Form, Quantity, Sizes, split

_EXPONENT = (1e-3, 10.0)
_LEAST_SHARE = 1e-150  # a term that is not there has a level all the same


class AdditiveLaw(Form):
    """``error = A n^-a + B s^-b``: what the first size leaves, and what the second does.

    ``plateau`` is the share of the error at the smallest sizes that does not fall with n; E is kept as its share of
    that part, so that the shares of all three terms lie between 0 and 1 whatever the units.

    Args:
        floor: Add ``+ E``, an error that neither size removes.
    """

    name = "additive"
    uses_s = True

    def __init__(self, floor: bool = False) -> None:
        self.formula = "error = A * n^-a + B * s^-b" + (" + E" if floor else "")
        self._name(("A", "a"), ("B", "b"), floor)

    def _name(self, first: tuple[str, str], second: tuple[str, str], floor: bool) -> None:
        """Name the scale and the exponent of the term that falls with n, and of the one that falls with s."""
        self._first, self._second, self.floor = first, second, floor
        self.scales = (first[0], second[0], *(("E",) if floor else ()))
        self.parameters = (*first, *second, *(("E",) if floor else ()))
        self.levels = self.scales
        self.exponents = dict((first, second))
        self.outer = {first[1]: _EXPONENT, second[1]: _EXPONENT, **({"E": (0.0, WHOLE)} if floor else {})}
        self.shares = ("E",) if floor else ()

    def design_matrix(self, sizes: Sizes) -> Array:
        """Return ones: in log space only the scale of all terms together is linear."""
        return np.ones((*sizes.log_n.shape, 1))

    def nonlinear_log_error(self, outer: Array, plateau: Array, sizes: Sizes) -> Array:
        """Return log((1 - p) (n / n_ref)^-a + p ((1 - e) (s / s_ref)^-b + e)), e being E's share of the plateau."""
        share, rest = split(plateau)
        second = np.exp(-outer[..., 1:2] * sizes.log_s)
        if self.floor:
            floor, other = split(outer[..., 2])
            second = other[..., None] * second + floor[..., None]
        error = rest[..., None] * np.exp(-outer[..., :1] * sizes.log_n) + share[..., None] * second
        value: Array = np.log(np.maximum(error, 1e-300))
        return value

    def quantity(self, name: str, sizes: Sizes) -> Quantity:
        """See :meth:`Form.quantity`."""
        (scale_n, exponent_n), (scale_s, exponent_s) = self._first, self._second
        if name in (exponent_n, exponent_s):
            axis = int(name == exponent_s)
            return lambda outer, plateau: (outer[..., axis], np.zeros(1))

        def level(outer: Array, plateau: Array) -> tuple[Array, Array]:
            constant, falling = split(plateau)
            if name == scale_n:
                return _level(falling) + outer[..., 0] * np.log(sizes.n_ref), np.ones(1)
            floor, other = split(outer[..., 2]) if self.floor else (np.zeros_like(constant), np.ones_like(constant))
            if name == scale_s:
                return _level(constant * other) + outer[..., 1] * np.log(sizes.s_ref), np.ones(1)
            with np.errstate(divide="ignore"):  # no floor: minus infinity
                return np.log(constant * floor), np.ones(1)

        return level

    def predict(self, params: dict[str, float], n: Array, s: Array) -> Array:
        """See :meth:`Form.predict`."""
        first, second = (params[scale] * x ** -params[exponent] for (scale, exponent), x in self._terms(n, s))
        total: Array = first + second + params.get("E", 0.0)
        return total

    def jacobian(self, params: dict[str, float], n: Array, s: Array) -> Array:
        """See :meth:`Form.jacobian`."""
        columns = []
        for (scale, exponent), x in self._terms(n, s):
            falling = x ** -params[exponent]
            columns += [falling, -params[scale] * falling * np.log(x)]
        columns += [np.ones_like(n)] if self.floor else []
        return np.stack(columns, axis=1) / self.predict(params, n, s)[:, None]

    def _terms(self, n: Array, s: Array) -> tuple[tuple[tuple[str, str], Array], tuple[tuple[str, str], Array]]:
        return (self._first, n), (self._second, s)


class ChinchillaLaw(AdditiveLaw):
    """``loss = E + A N^-a + B D^-b``: a language model of N parameters after D tokens (Hoffmann et al., Eq. 2).

    D, the tokens, is the pre-training size n of :func:`lightning_tl.laws.fit`, and N, the parameters, is its s. The
    names A, a, B, b are the paper's, with a and b for its alpha and beta.
    """

    name = "chinchilla"
    of_losses = True
    second_size = "model size"

    def __init__(self) -> None:
        self.formula = "loss = E + A * N^-a + B * D^-b"
        self._name(("B", "b"), ("A", "a"), floor=True)


def _level(share: Array) -> Array:
    level: Array = np.log(np.maximum(share, _LEAST_SHARE))
    return level
