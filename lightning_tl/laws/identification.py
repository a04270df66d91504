"""Which parameters of a fitted law the data bound, and why not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from lightning_tl.laws.clusters import Cells
from lightning_tl.laws.forms import Array, Form
from lightning_tl.laws.least_squares import Prior

#: A parameter is identified where its interval of this level excludes each limit of its range, a one-sided test at
#: 10 %. For seven points and more it is passed wherever a chi-square likelihood-ratio test at 5 % is.
IDENTIFIED = 0.80


class Law(Protocol):
    """What is asked of a fitted law."""

    @property
    def form(self) -> Form:
        """The form fitted."""

    @property
    def cells(self) -> Cells:
        """The independent points."""

    @property
    def priors(self) -> Sequence[Prior]:
        """Parameters held, or known from elsewhere."""

    @property
    def dof(self) -> int:
        """Degrees of freedom of the scatter."""

    def interval(self, name: str, level: float | None = None) -> tuple[float, float]:
        """Return the interval of a parameter."""


def unidentified(law: Law, name: str) -> str | None:
    """Return why the data do not bound a parameter, or ``None`` where they do.

    A parameter is identified where its interval of level :data:`IDENTIFIED` excludes each limit of its range: C = 0 and
    gamma = 0, alpha = 0 and alpha growing without bound.

    Args:
        law: The fitted law.
        name: Of the parameter.
    """
    form = law.form
    own = name if name in form.exponents.values() else form.exponents.get(name)
    span, exponent = _span(law.cells.n), own or form.rate
    if exponent != form.rate:  # the second term of a sum, which falls with s
        span = _span(law.cells.s)
    if any(prior.fixed and prior.name == name for prior in law.priors):
        return None
    if law.dof < 1:
        need = len(law.form.parameters) + 1
        return f"{len(law.cells.n)} points for {len(law.form.parameters)} parameters; {need} are needed"
    low, high = law.interval(name, level=IDENTIFIED)
    if name != exponent and exponent in form.outer and law.interval(exponent, level=IDENTIFIED)[0] <= 0:
        return f"the curve is flat within its noise ({span})"
    if name in ("C", "gamma"):
        if low > 0:
            return None
        return f"the curve has not bent: a straight power law ({name} = 0) fits as well ({span})"
    if name == "E" and low <= 0:
        return "no floor is seen: E = 0 fits as well"
    if name == exponent and low <= 0:
        return f"the curve is flat within its noise ({span})"
    if name == exponent and not np.isfinite(high):
        return f"the curve falls once and is flat after; any steeper fall fits as well ({span})"
    if not np.isfinite(high) or (low <= 0 and name in form.scales):
        return f"the points do not bound it ({span})"
    return None


def _span(values: Array) -> str:
    sizes = np.unique(values)
    decades = f"{np.log10(sizes[-1] / sizes[0]):.1f}"
    return f"{len(sizes)} sizes over {decades} decade{'' if decades == '1.0' else 's'}"


def at_bound(value: float, ends: tuple[float, float] | None) -> bool:
    """Return whether the best value of a parameter lies at its bound.

    Args:
        value: The best value.
        ends: The range that was searched; None: all values above 0.
    """
    if ends is not None:
        lower, upper = ends
        return value <= lower * 1.001 or value >= upper * 0.999
    return value == 0 or not np.isfinite(value)
