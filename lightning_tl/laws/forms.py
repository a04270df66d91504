"""The laws themselves: what each predicts, its bounds, and which of its parameters are linear in log error.

A form is written as ``log error = shape(outer, plateau; n, s) + columns(n, s) @ linear``: the ``columns`` carry the
parameters in which log error is linear (solved exactly), ``outer`` and ``plateau`` those in which it is not (searched
on a grid, see :mod:`lightning_tl.laws.region`). ``plateau`` is the part of the error at the smallest size that does not
depend on n, in [0, 1]: a bounded stand-in for C (or gamma) that does not change when errors or sizes change their unit.

Source of the forms: Mikami et al., *A Scaling Law for Syn2real Transfer*, arXiv 2108.11018, Eqs. 1 and 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
#: A quantity that is ``offset + coefficients @ linear``: one offset for each point of the grid.
Functional = tuple[Array, Array]


@dataclass(frozen=True)
class Sizes:
    """Sizes at which a law is looked at: pre-training sizes ``n``, fine-tuning sizes ``s`` and their references.

    Attributes:
        n: Pre-training sizes in images, shape (m,).
        s: Fine-tuning sizes in images, shape (m,); ones where the form does not use them.
        n_ref: The smallest pre-training size fitted; ``plateau`` is defined there.
        s_ref: The smallest fine-tuning size fitted.
    """

    n: Array
    s: Array
    n_ref: float
    s_ref: float

    def at(self, n: ArrayLike, s: ArrayLike | None = None) -> Sizes:
        """Return other sizes with the same references."""
        size = np.atleast_1d(np.asarray(n, float))
        other = np.full_like(size, self.s_ref) if s is None else np.broadcast_to(np.asarray(s, float), size.shape)
        return Sizes(size, np.asarray(other, float), self.n_ref, self.s_ref)


class Form:
    """Base of the laws. A new law overrides what is below; nothing else knows its formula."""

    name: ClassVar[str]
    formula: ClassVar[str]
    #: Parameters under the names that tables and ``.params`` use.
    parameters: ClassVar[tuple[str, ...]]
    #: Parameters that are positive scales of the error: their intervals are found on the log scale.
    scales: ClassVar[tuple[str, ...]]
    #: Bounds of the nonlinear parameters (searched on a logarithmic grid).
    outer: ClassVar[dict[str, tuple[float, float]]] = {}
    has_plateau: ClassVar[bool] = False
    uses_s: ClassVar[bool] = False

    def columns(self, sizes: Sizes) -> Array:
        """Return the columns of the parameters in which log error is linear, shape (m, q); the first is all ones."""
        raise NotImplementedError

    def shape(self, outer: Array, plateau: Array, sizes: Sizes) -> Array:
        """Return log error less its linear part: outer (..., k) and plateau (...) give (..., m)."""
        raise NotImplementedError

    def functional(self, name: str, outer: Array, plateau: Array, sizes: Sizes) -> Functional:
        """Return parameter ``name`` (its log where it is in ``scales``) as offset and coefficients."""
        raise NotImplementedError

    def predict(self, params: dict[str, float], n: Array, s: Array) -> Array:
        """Return the error that the law predicts at sizes n and s, shape (m,)."""
        raise NotImplementedError

    def slope(self, params: dict[str, float], n: Array, s: Array) -> Array:
        """Return d log error / d parameter, shape (m, parameters), for standard errors from the Jacobian."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Return name, formula and bounds as plain types, for a fit's manifest."""
        bounds = {name: list(limits) for name, limits in self.outer.items()}
        return {"name": self.name, "formula": self.formula, "parameters": list(self.parameters), "bounds": bounds}


class PowerLaw(Form):
    """``error = D n^-alpha``: the baseline with no transfer gap (C = 0)."""

    name = "power"
    formula = "error = D * n^-alpha"
    parameters = ("D", "alpha")
    scales = ("D",)

    def columns(self, sizes: Sizes) -> Array:
        """Return ones and -log(n / n_ref)."""
        return np.stack([np.ones_like(sizes.n), -np.log(sizes.n / sizes.n_ref)], axis=1)

    def shape(self, outer: Array, plateau: Array, sizes: Sizes) -> Array:
        """Return zeros: everything is linear."""
        return np.zeros((*plateau.shape, len(sizes.n)))

    def functional(self, name: str, outer: Array, plateau: Array, sizes: Sizes) -> Functional:
        """See :meth:`Form.functional`."""
        zero = np.zeros(plateau.shape)
        return zero, np.array({"alpha": [0.0, 1.0], "D": [1.0, np.log(sizes.n_ref)]}[name])

    def predict(self, params: dict[str, float], n: Array, s: Array) -> Array:
        """See :meth:`Form.predict`."""
        return params["D"] * n ** -params["alpha"]

    def slope(self, params: dict[str, float], n: Array, s: Array) -> Array:
        """See :meth:`Form.slope`."""
        return np.stack([np.full_like(n, 1 / params["D"]), -np.log(n)], axis=1)


class TransferLaw(Form):
    """``error = D n^-alpha + C`` (Mikami et al., Eq. 1): C, the transfer gap, is what no number of images removes."""

    name = "transfer"
    formula = "error = D * n^-alpha + C"
    parameters = ("D", "alpha", "C")
    scales = ("D", "C")
    outer: ClassVar[dict[str, tuple[float, float]]] = {"alpha": (1e-3, 10.0)}
    has_plateau = True

    def columns(self, sizes: Sizes) -> Array:
        """Return ones: in log space log D alone is linear."""
        return np.ones((len(sizes.n), 1))

    def shape(self, outer: Array, plateau: Array, sizes: Sizes) -> Array:
        """Return log(plateau + (1 - plateau) (n / n_ref)^-alpha)."""
        decay = np.exp(-outer[..., :1] * np.log(sizes.n / sizes.n_ref))
        return np.log(plateau[..., None] + (1 - plateau[..., None]) * decay)

    def functional(self, name: str, outer: Array, plateau: Array, sizes: Sizes) -> Functional:
        """See :meth:`Form.functional`."""
        alpha = outer[..., 0]
        with np.errstate(divide="ignore"):
            if name == "alpha":
                return alpha, np.zeros(1)
            if name == "C":
                return np.log(plateau), np.ones(1)
            return np.log1p(-plateau) + alpha * np.log(sizes.n_ref), np.ones(1)

    def predict(self, params: dict[str, float], n: Array, s: Array) -> Array:
        """See :meth:`Form.predict`."""
        return params["D"] * n ** -params["alpha"] + params["C"]

    def slope(self, params: dict[str, float], n: Array, s: Array) -> Array:
        """See :meth:`Form.slope`."""
        decay = n ** -params["alpha"]
        error = params["D"] * decay + params["C"]
        columns = [decay / error, -params["D"] * decay * np.log(n) / error, 1 / error]
        return np.stack(columns, axis=1)


class FullLaw(Form):
    """``error = delta (gamma + n^-alpha) s^-beta`` (Mikami et al., Eq. 2): pre-training size n, fine-tuning size s."""

    name = "full"
    formula = "error = delta * (gamma + n^-alpha) * s^-beta"
    parameters = ("delta", "gamma", "alpha", "beta")
    scales = ("delta", "gamma")
    outer: ClassVar[dict[str, tuple[float, float]]] = {"alpha": (1e-3, 10.0)}
    has_plateau = True
    uses_s = True

    def columns(self, sizes: Sizes) -> Array:
        """Return ones and -log(s / s_ref): log delta and beta are linear."""
        return np.stack([np.ones_like(sizes.s), -np.log(sizes.s / sizes.s_ref)], axis=1)

    def shape(self, outer: Array, plateau: Array, sizes: Sizes) -> Array:
        """Return log(plateau + (1 - plateau) (n / n_ref)^-alpha)."""
        decay = np.exp(-outer[..., :1] * np.log(sizes.n / sizes.n_ref))
        return np.log(plateau[..., None] + (1 - plateau[..., None]) * decay)

    def functional(self, name: str, outer: Array, plateau: Array, sizes: Sizes) -> Functional:
        """See :meth:`Form.functional`."""
        alpha, zero = outer[..., 0], np.zeros(plateau.shape)
        with np.errstate(divide="ignore"):
            if name == "alpha":
                return alpha, np.zeros(2)
            if name == "beta":
                return zero, np.array([0.0, 1.0])
            if name == "gamma":  # C / D of the transfer law at any s
                return np.log(plateau) - np.log1p(-plateau) - alpha * np.log(sizes.n_ref), np.zeros(2)
            return np.log1p(-plateau) + alpha * np.log(sizes.n_ref), np.array([1.0, np.log(sizes.s_ref)])

    def predict(self, params: dict[str, float], n: Array, s: Array) -> Array:
        """See :meth:`Form.predict`."""
        return params["delta"] * (params["gamma"] + n ** -params["alpha"]) * s ** -params["beta"]

    def slope(self, params: dict[str, float], n: Array, s: Array) -> Array:
        """See :meth:`Form.slope`."""
        decay = n ** -params["alpha"]
        inner = params["gamma"] + decay
        columns = [np.full_like(n, 1 / params["delta"]), 1 / inner, -decay * np.log(n) / inner, -np.log(s)]
        return np.stack(columns, axis=1)


FORMS: dict[str, type[Form]] = {form.name: form for form in (TransferLaw, PowerLaw, FullLaw)}
