"""The laws themselves: what each predicts, its bounds, and which of its parameters are linear in log error.

A form is written as

    log error = nonlinear_log_error(outer, plateau; n, s) + design_matrix(n, s) @ linear

The columns of ``design_matrix`` carry the parameters in which log error is linear (solved exactly), ``outer`` and
``plateau`` those in which it is not (searched, see :mod:`lightning_tl.laws.search`). ``plateau`` stands for C (or
gamma): it is the share of the error at the smallest size that does not depend on n. The share is bounded and does not
change when errors or sizes change their unit. It is kept as a coordinate that resolves the shares near 0 and those near
1 alike (:func:`split`).

Source of the forms: Mikami et al., *A Scaling Law for Syn2real Transfer*, arXiv 2108.11018, Eqs. 1 and 2.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
#: Where residuals are taken: of log error, or of error.
ResidualSpace = Literal["log", "linear"]
Loss = Literal["squares", "huber"]
#: What is fitted: errors are at most 1, losses are not.
Measured = Literal["error", "loss"]
#: A quantity as a function of the grid: offset (one per grid point) and coefficients of the linear parameters.
Quantity = Callable[[Array, Array], tuple[Array, Array]]

Bounds = Mapping[str, tuple[float, float]]
_ALPHA: Bounds = {"alpha": (1e-3, 10.0)}
_BETA: Bounds = {"beta": (1e-3, 10.0)}
_NONE: Bounds = {}
#: Coordinate of the share 1, at which 1 - share is 1e-150.
WHOLE = float(0.5 - 0.5 * np.log(2e-150))


def split(coordinate: Array) -> tuple[Array, Array]:
    """Return the share that a coordinate stands for and 1 - share, each to full precision.

    Up to 1/2 the coordinate is the share itself; above, it is ``1/2 - log(2 (1 - share)) / 2``. With D held, 1 - share
    may have to be as small as ``D n^-alpha / error``, far below what a number near 1 can resolve.
    """
    upper = coordinate > 0.5
    rest = np.where(upper, 0.5 * np.exp(1 - 2 * coordinate), 1 - coordinate)
    return np.where(upper, 1 - rest, coordinate), rest


def coordinate(rest: Array) -> Array:
    """Return the coordinate at which 1 - share is ``rest``, in [0, 1]; the inverse of :func:`split`."""
    inside = np.clip(rest, 1e-150, 1.0)
    value = np.where(inside < 0.5, 0.5 - 0.5 * np.log(2 * inside), 1 - inside)
    return np.where(rest < 1e-150, WHOLE, value)


@dataclass(frozen=True)
class Sizes:
    """Sizes at which a law is looked at, and the references that its grid is relative to.

    Attributes:
        n: Pre-training sizes in images or tokens, shape (m,).
        s: Fine-tuning sizes in images, or parameters of the model, shape (m,); ones where the form does not use them.
        n_ref: The smallest pre-training size fitted; ``plateau`` is defined there.
        s_ref: The smallest s fitted.
    """

    n: Array
    s: Array
    n_ref: float
    s_ref: float

    @cached_property
    def log_n(self) -> Array:
        """log(n / n_ref), shape (m,); of stacked sizes (p, m)."""
        return np.log(self.n / self.n_ref)

    @cached_property
    def log_s(self) -> Array:
        """log(s / s_ref), shape (m,); of stacked sizes (p, m)."""
        return np.log(self.s / self.s_ref)

    @staticmethod
    def stacked(several: Sequence[Sizes]) -> Sizes:
        """Return sizes of several problems as one, of which :meth:`rows` takes logs; references are the first's."""
        return several[0]._with([sizes.log_n for sizes in several], [sizes.log_s for sizes in several])

    def rows(self, which: NDArray[np.int64]) -> Sizes:
        """Return the logs of these of stacked sizes, shape (b, m)."""
        return self._with(self.log_n[which], self.log_s[which])

    def _with(self, log_n: ArrayLike, log_s: ArrayLike) -> Sizes:
        sizes = copy.copy(self)
        vars(sizes).update(log_n=np.asarray(log_n), log_s=np.asarray(log_s))
        return sizes

    def at(self, n: ArrayLike, s: ArrayLike | None = None) -> Sizes:
        """Return other sizes with the same references; without ``s``, at the smallest fine-tuning size."""
        size = np.atleast_1d(np.asarray(n, float))
        other = np.full_like(size, self.s_ref) if s is None else np.broadcast_to(np.asarray(s, float), size.shape)
        return Sizes(size, np.asarray(other, float), self.n_ref, self.s_ref)


class Form:
    """Base of the laws. A new law overrides what is below; nothing else knows its formula."""

    name: ClassVar[str]
    formula: str
    #: Parameters under the names that tables and ``.params`` use; the first is the scale of the error.
    parameters: tuple[str, ...]
    #: Parameters that are positive scales: their intervals are computed on the log scale.
    scales: tuple[str, ...]
    #: Parameters that shift log error as a whole, and so move with the luck of a draw.
    levels: tuple[str, ...]
    #: Bounds of the nonlinear parameters (searched on a logarithmic grid).
    outer: Bounds = _NONE
    #: Those of them that are shares, kept as coordinates as ``plateau`` is (searched on a grid of shares).
    shares: tuple[str, ...] = ()
    #: Parameters of ``design_matrix`` after the first, which are nonlinear in linear space, with their bounds there.
    log_linear: Bounds = _NONE
    #: Scale → the exponent of its term. Where the exponent has no bound, the scale has none.
    exponents: Mapping[str, str] = MappingProxyType({})
    has_plateau: bool = True
    uses_s: bool = False
    #: Whether it is a law of losses, which may be over 1, whatever is said of the numbers.
    of_losses: ClassVar[bool] = False
    #: What s is.
    second_size: ClassVar[Literal["fine-tuning size", "model size"]] = "fine-tuning size"

    @property
    def rate(self) -> str:
        """Name of the exponent with which the error falls with n."""
        return self.exponents[self.parameters[0]]

    def design_matrix(self, sizes: Sizes) -> Array:
        """Return the columns of the parameters in which log error is linear, shape (m, q); the first is all ones."""
        raise NotImplementedError

    def nonlinear_log_error(self, outer: Array, plateau: Array, sizes: Sizes) -> Array:
        """Return log error less its linear part: outer (..., k) and plateau (...) give (..., m)."""
        raise NotImplementedError

    def quantity(self, name: str, sizes: Sizes) -> Quantity:
        """Return parameter ``name`` (its log where it is in ``scales``) as a function of the grid."""
        raise NotImplementedError

    def predict(self, params: dict[str, float], n: Array, s: Array) -> Array:
        """Return the error that the law predicts at sizes n and s, shape (m,)."""
        raise NotImplementedError

    def jacobian(self, params: dict[str, float], n: Array, s: Array) -> Array:
        """Return d log error / d parameter, shape (m, parameters), for standard errors from the Jacobian."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Return name, formula and bounds as plain types, for a fit's manifest."""
        bounds = {name: [0.0, 1.0] if name in self.shares else list(limits) for name, limits in self.outer.items()}
        return {"name": self.name, "formula": self.formula, "parameters": list(self.parameters), "bounds": bounds}


def _decay(outer: Array, plateau: Array, sizes: Sizes) -> Array:
    """Return p + (1 - p) (n / n_ref)^-alpha, p being the plateau's share, shape (..., m)."""
    decay = np.exp(-outer[..., :1] * sizes.log_n)
    share, rest = split(plateau)
    return share[..., None] + rest[..., None] * decay


def _log(value: Array) -> Array:
    """Return the log; 0, a parameter at its bound, gives minus infinity."""
    with np.errstate(divide="ignore"):
        return np.log(value)


def _level(plateau: Array) -> Array:
    """Return the log of the share that does not fall with n."""
    return _log(split(plateau)[0])


def _falling(plateau: Array, least: float = 0.0) -> Array:
    """Return the log of the share that falls with n; at the end of the range nothing does."""
    return _log(np.maximum(np.where(plateau < WHOLE, split(plateau)[1], 0.0), least))


class PowerLaw(Form):
    """``error = D n^-alpha``: the baseline with no transfer gap (C = 0)."""

    name = "power"
    formula = "error = D * n^-alpha"
    parameters = ("D", "alpha")
    scales = ("D",)
    levels = ("D",)
    exponents = MappingProxyType({"D": "alpha"})
    log_linear = _ALPHA
    has_plateau = False

    def design_matrix(self, sizes: Sizes) -> Array:
        """Return ones and -log(n / n_ref)."""
        return np.stack([np.ones_like(sizes.log_n), -sizes.log_n], axis=-1)

    def nonlinear_log_error(self, outer: Array, plateau: Array, sizes: Sizes) -> Array:
        """Return zeros: everything is linear."""
        return np.zeros((*plateau.shape, sizes.log_n.shape[-1]))

    def quantity(self, name: str, sizes: Sizes) -> Quantity:
        """See :meth:`Form.quantity`."""
        coefficients = np.array({"alpha": [0.0, 1.0], "D": [1.0, np.log(sizes.n_ref)]}[name])
        return lambda outer, plateau: (np.zeros(plateau.shape), coefficients)

    def predict(self, params: dict[str, float], n: Array, s: Array) -> Array:
        """See :meth:`Form.predict`."""
        return params["D"] * n ** -params["alpha"]

    def jacobian(self, params: dict[str, float], n: Array, s: Array) -> Array:
        """See :meth:`Form.jacobian`."""
        return np.stack([np.full_like(n, 1 / params["D"]), -np.log(n)], axis=1)


class TransferLaw(Form):
    """``error = D n^-alpha + C`` (Mikami et al., Eq. 1): C, the transfer gap, is what no number of images removes."""

    name = "transfer"
    formula = "error = D * n^-alpha + C"
    parameters = ("D", "alpha", "C")
    scales = ("D", "C")
    levels = ("D", "C")
    exponents = MappingProxyType({"D": "alpha"})
    outer = _ALPHA

    def design_matrix(self, sizes: Sizes) -> Array:
        """Return ones: in log space only log D is linear."""
        return np.ones((*sizes.log_n.shape, 1))

    def nonlinear_log_error(self, outer: Array, plateau: Array, sizes: Sizes) -> Array:
        """Return log(p + (1 - p) (n / n_ref)^-alpha), p being the plateau's share."""
        return np.log(_decay(outer, plateau, sizes))

    def quantity(self, name: str, sizes: Sizes) -> Quantity:
        """See :meth:`Form.quantity`."""
        if name == "alpha":
            return lambda outer, plateau: (outer[..., 0], np.zeros(1))
        if name == "C":
            return lambda outer, plateau: (_level(plateau), np.ones(1))
        return lambda outer, plateau: (_falling(plateau) + outer[..., 0] * np.log(sizes.n_ref), np.ones(1))

    def predict(self, params: dict[str, float], n: Array, s: Array) -> Array:
        """See :meth:`Form.predict`."""
        return params["D"] * n ** -params["alpha"] + params["C"]

    def jacobian(self, params: dict[str, float], n: Array, s: Array) -> Array:
        """See :meth:`Form.jacobian`."""
        decay = n ** -params["alpha"]
        error = params["D"] * decay + params["C"]
        columns = [decay / error, -params["D"] * decay * np.log(n) / error, 1 / error]
        return np.stack(columns, axis=1)


class FullLaw(Form):
    """``error = delta (gamma + n^-alpha) s^-beta`` (Mikami et al., Eq. 2): pre-training size n, fine-tuning size s.

    Args:
        floor: Add ``+ E``, an error that neither size removes. Without it, log delta and beta are linear.
    """

    name = "full"
    exponents = MappingProxyType({"delta": "alpha"})
    uses_s = True

    def __init__(self, floor: bool = False) -> None:
        self.floor = floor
        self.formula = "error = delta * (gamma + n^-alpha) * s^-beta" + (" + E" if floor else "")
        self.parameters = ("delta", "gamma", "alpha", "beta", *(("E",) if floor else ()))
        self.scales = ("delta", "gamma", *(("E",) if floor else ()))
        self.levels = ("delta", *(("E",) if floor else ()))
        # E as its share of the error at the smallest sizes
        self.outer = {**_ALPHA, **_BETA, "E": (0.0, WHOLE)} if floor else _ALPHA
        self.shares = ("E",) if floor else ()
        self.log_linear = _NONE if floor else _BETA

    def design_matrix(self, sizes: Sizes) -> Array:
        """Return ones and, without a floor, -log(s / s_ref)."""
        ones = np.ones_like(sizes.log_s)
        return ones[..., None] if self.floor else np.stack([ones, -sizes.log_s], axis=-1)

    def nonlinear_log_error(self, outer: Array, plateau: Array, sizes: Sizes) -> Array:
        """Return log(p + (1 - p) (n / n_ref)^-alpha), with a floor the log of the whole sum."""
        decay = _decay(outer, plateau, sizes)
        if not self.floor:
            return np.log(decay)
        floor, rest = split(outer[..., 2])
        error = rest[..., None] * decay * np.exp(-outer[..., 1:2] * sizes.log_s) + floor[..., None]
        return np.log(np.maximum(error, 1e-300))

    def quantity(self, name: str, sizes: Sizes) -> Quantity:
        """See :meth:`Form.quantity`."""
        n_ref, s_ref = np.log(sizes.n_ref), np.log(sizes.s_ref)
        ones = np.array([1.0] if self.floor else [1.0, 0.0])

        def falling(plateau: Array) -> Array:  # not quite 0 of all, as delta times gamma must stay a number
            return _falling(plateau, 1e-150)

        if name == "alpha":
            return lambda outer, plateau: (outer[..., 0], 0 * ones)
        if name == "gamma":  # C / D of the transfer law, at any s
            return lambda outer, plateau: (_level(plateau) - falling(plateau) - outer[..., 0] * n_ref, 0 * ones)
        if not self.floor:
            if name == "beta":
                return lambda outer, plateau: (np.zeros(plateau.shape), np.array([0.0, 1.0]))
            return lambda outer, plateau: (falling(plateau) + outer[..., 0] * n_ref, np.array([1.0, s_ref]))
        if name == "beta":
            return lambda outer, plateau: (outer[..., 1], 0 * ones)
        if name == "E":
            return lambda outer, plateau: (_level(outer[..., 2]), ones)

        def delta(outer: Array, plateau: Array) -> tuple[Array, Array]:
            rest = _falling(outer[..., 2]) + falling(plateau)
            return rest + outer[..., 0] * n_ref + outer[..., 1] * s_ref, ones

        return delta

    def predict(self, params: dict[str, float], n: Array, s: Array) -> Array:
        """See :meth:`Form.predict`."""
        error = params["delta"] * (params["gamma"] + n ** -params["alpha"]) * s ** -params["beta"]
        return error + params.get("E", 0.0)

    def jacobian(self, params: dict[str, float], n: Array, s: Array) -> Array:
        """See :meth:`Form.jacobian`."""
        decay = n ** -params["alpha"]
        inner = params["gamma"] + decay
        error = self.predict(params, n, s)
        share = (error - params.get("E", 0.0)) / error
        columns = [share / params["delta"], share / inner, -share * decay * np.log(n) / inner, -share * np.log(s)]
        return np.stack(columns + ([1 / error] if self.floor else []), axis=1)


class Unfolded(Form):
    """A form as linear space sees it: only the scale stays linear, its other linear parameters join the grid."""

    name = "unfolded"

    def __init__(self, form: Form) -> None:
        self.form = form
        self.formula, self.parameters, self.scales = form.formula, form.parameters, form.scales
        self.levels, self.has_plateau, self.uses_s = form.levels, form.has_plateau, form.uses_s
        self.outer, self.shares = {**form.outer, **form.log_linear}, form.shares
        self.exponents = form.exponents

    def design_matrix(self, sizes: Sizes) -> Array:
        """Return ones: the scale."""
        return self.form.design_matrix(sizes)[..., :1]

    def nonlinear_log_error(self, outer: Array, plateau: Array, sizes: Sizes) -> Array:
        """Return the form's nonlinear part with the terms of its other linear parameters."""
        known = len(self.form.outer)
        rest: Array = np.einsum("...q,...mq->...m", outer[..., known:], self.form.design_matrix(sizes)[..., 1:])
        return self.form.nonlinear_log_error(outer[..., :known], plateau, sizes) + rest

    def quantity(self, name: str, sizes: Sizes) -> Quantity:
        """See :meth:`Form.quantity`."""
        inner, known = self.form.quantity(name, sizes), len(self.form.outer)

        def unfolded(outer: Array, plateau: Array) -> tuple[Array, Array]:
            offset, coefficients = inner(outer[..., :known], plateau)
            return offset + outer[..., known:] @ coefficients[1:], coefficients[:1]

        return unfolded
