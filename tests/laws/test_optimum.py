"""The fit is the optimum: against an independent solver in natural parameters, from many starts."""

from __future__ import annotations

import numpy as np

from lightning_tl.laws.fitted import FittedLaw
from lightning_tl.laws.forms import FORMS
from lightning_tl.laws.pairing import Cells
from lightning_tl.laws.problem import Prior

from .multistart import Case, Objective, best

#: Above the best sum of squares of the other solver, relative to it.
ABOVE = 1e-6
#: Residuals of this size are rounding: sums of squares of a law through every point are compared above it only.
ROUNDING = 1e-8


def fitted(given: Case) -> FittedLaw:
    """Our fit of a case."""
    form = FORMS[given.form]()
    scale = form.parameters[0]
    priors = [Prior(scale if name == "log_d" else name, float(np.exp(value)) if name == "log_d" else value)
              for name, value in (given.held or {}).items()]  # fmt: skip
    priors += [Prior(scale if name == "log_d" else name, float(np.exp(value)) if name == "log_d" else value, weight)
               for name, (value, weight) in (given.priors or {}).items()]  # fmt: skip
    count = len(given.n)
    weight = np.ones(count) if given.weight is None else given.weight
    shared, cluster = 0.0, np.arange(count, dtype=float)
    if given.covariance is not None:
        cluster, shared = np.unique(given.n, return_inverse=True)[1].astype(float), float(given.covariance[0, 0] - 1)
    points = Cells(given.n, given.s, np.log(given.error), np.ones(count), weight, cluster,
                   (), np.zeros(0), 0.0, 0, np.nan, 0)  # fmt: skip
    return FittedLaw(form, points, 0.95, given.space, tuple(priors), shared)


def natural(law: FittedLaw, objective: Objective) -> np.ndarray:
    """The free parameters of our fit as the other solver has them."""
    p = law.params
    first = p[law.form.parameters[0]]
    gap = p["C"] if "C" in p else first * p.get("gamma", 0.0)
    if "gamma" in p and not np.isfinite(gap):
        gap = 0.0
    values = {"log_d": np.log(max(first, 1e-300)), "alpha": p["alpha"], "gap": gap,
              "beta": p.get("beta", 0.0), "floor": p.get("E", 0.0)}  # fmt: skip
    return np.array([values[name] for name in objective.free])


def excess(given: Case, count: int = 40) -> tuple[float, float, float]:
    """Return how far our sum of squares is above the best found, relative; ours; and the best."""
    law, objective = fitted(given), Objective(given)
    place = natural(law, objective)
    ours = objective.rss(place)
    least = best(given, count, more=(place,))
    unit = float(np.mean(given.error)) if given.space == "linear" else 1.0
    return (ours - least) / (least + len(given.n) * (ROUNDING * unit) ** 2), ours, least


def test_a_held_coefficient_is_fitted_in_the_better_of_two_basins() -> None:
    """A nearly straight curve (alpha to 0) and a bent one are both minima here, each narrower than a coarse grid."""
    sizes = np.array([1000, 2000, 4000, 8000, 16_000, 20_000, 32_000, 40_000.0])
    for seed in range(10):
        error = (0.3 * sizes**-0.315 + 0.922) * np.exp(0.0008 * np.random.default_rng(seed).standard_normal(8))
        for value in (0.5, 0.6, 0.8, 1.0):
            given = Case("transfer", sizes, np.ones(8), error, held={"log_d": float(np.log(value))})
            assert excess(given, 20)[0] < ABOVE
