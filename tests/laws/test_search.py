"""The fit is the optimum: against an independent solver in natural parameters, from many starts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lightning_tl.laws import TransferLaw, fit
from lightning_tl.laws.bootstrap import bootstrap
from lightning_tl.laws.clusters import Cells, cells
from lightning_tl.laws.fitted_law import FittedLaw
from lightning_tl.laws.form_names import FORMS
from lightning_tl.laws.least_squares import Prior
from lightning_tl.laws.shared_coefficient import fit_together, held_profile

from .multistart import Case, Objective, best
from .tables_random import KINDS, case

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
    """Return how far our sum of squares is above the best found, relative; ours; and the other solver's by itself."""
    law, objective = fitted(given), Objective(given)
    place = natural(law, objective)
    ours, alone = objective.rss(place), best(given, count)
    least = min(alone, best(given, 0, more=(place,)))  # theirs may go on from where ours ends
    return (ours - least) / (least + rounding(given)), ours, alone


def rounding(given: Case) -> float:
    """A sum of squares that is rounding."""
    unit = float(np.mean(given.error)) if given.space == "linear" else 1.0
    weight = float(np.mean(given.weight)) if given.weight is not None else 1.0
    return weight * len(given.n) * (ROUNDING * unit) ** 2


#: Eight sizes at which a held D leaves two minima: a nearly straight curve (alpha to 0) and a bent one.
TWO_BASINS = np.array([1000, 2000, 4000, 8000, 16_000, 20_000, 32_000, 40_000.0])


def of_two_basins(seed: int) -> np.ndarray:
    """Errors at those sizes."""
    return (0.3 * TWO_BASINS**-0.315 + 0.922) * np.exp(0.0008 * np.random.default_rng(seed).standard_normal(8))


def test_a_held_coefficient_is_fitted_in_the_better_of_two_basins() -> None:
    """Each is narrower than a coarse grid, so that a search from its best point only may end in the wrong one."""
    for seed in range(6):
        for value in (0.5, 0.6, 0.8, 1.0):
            held = {"log_d": float(np.log(value))}
            assert excess(Case("transfer", TWO_BASINS, np.ones(8), of_two_basins(seed), held=held), 20)[0] < ABOVE


@pytest.mark.parametrize("kind", range(len(KINDS)), ids=lambda kind: "-".join(map(str, KINDS[kind][:2])))
def test_no_sum_of_squares_is_above_the_best_of_many_starts(kind: int) -> None:
    assert excess(case(kind, 0), 10)[0] < ABOVE


@pytest.mark.slow
@pytest.mark.parametrize("kind", range(len(KINDS)), ids=lambda kind: "-".join(map(str, KINDS[kind][:2])))
def test_thousands_of_tables(kind: int) -> None:
    """A hundred tables of each kind: 2,500 in all."""
    assert max(excess(case(kind, seed), 30)[0] for seed in range(10_000, 10_100)) < ABOVE


def test_an_interval_with_a_held_coefficient_spans_both_basins() -> None:
    """Ends of alpha's interval by brute force: all alphas at which some C brings the RSS under the threshold."""
    spans = []
    for seed, value in ((0, 0.6), (1, 0.5), (4, 0.5), (7, 0.8)):
        error = of_two_basins(seed)
        law = fit(n=TWO_BASINS, error=error, fixed={"D": value})
        alphas = np.geomspace(1e-3, 10, 40_001)
        falls = value * TWO_BASINS ** -alphas[:, None]
        gaps = np.zeros(len(alphas))
        for _ in range(60):  # Newton steps towards the best C for each alpha, all at once
            rest = np.log(error) - np.log(falls + gaps[:, None])
            slope = -1 / (falls + gaps[:, None])
            gaps = np.maximum(gaps - np.sum(rest * slope, axis=1) / np.sum(slope**2, axis=1), 0.0)
        rss = np.sum((np.log(error) - np.log(falls + gaps[:, None])) ** 2, axis=1)
        limit = rss.min() * (1 + stats.t.ppf(0.975, 6) ** 2 / 6)
        inside = alphas[rss <= limit]
        low, high = law.interval("alpha")
        assert low == pytest.approx(inside.min() if inside.min() > 1.001e-3 else 0.0, rel=3e-3)
        assert high == pytest.approx(inside.max(), rel=3e-3)
        shown = gaps[rss <= limit]
        assert law.interval("C") == pytest.approx((shown.min(), shown.max()), rel=2e-3)
        spans.append(np.max(np.diff(np.log(inside))))
    assert max(spans) > 0.1  # in one of them the region is in two pieces


def test_the_profile_over_a_held_coefficient_is_the_best_fit_at_each() -> None:
    for seed in range(3):
        law = fit(n=TWO_BASINS, error=of_two_basins(seed))
        logs = np.linspace(np.log(0.2), np.log(3.0), 8)
        rss, alphas = held_profile(law, logs)
        for log, value, alpha in zip(logs, rss, alphas, strict=True):
            given = Case("transfer", TWO_BASINS, np.ones(8), of_two_basins(seed), held={"log_d": float(log)})
            assert value == pytest.approx(best(given, 15), rel=ABOVE)
            assert fitted(given).params["alpha"] == pytest.approx(alpha, rel=1e-4)


def test_a_shared_coefficient_is_the_best_for_all() -> None:
    """The sum over groups of each group's best, by the other solver over a fine grid of D, has its least there."""
    groups = [cells(TWO_BASINS, np.log(of_two_basins(seed))) for seed in (0, 4)]
    laws = fit_together(TransferLaw(), groups, "shared")
    found = float(np.median([law.params["D"] for law in laws]))

    def total(log: float) -> float:
        each = [Case("transfer", TWO_BASINS, np.ones(8), np.exp(g.log_error), held={"log_d": log}) for g in groups]
        return sum(best(given, 8) for given in each)

    least = min(total(log) for log in np.linspace(np.log(0.1), np.log(10), 25))
    assert total(float(np.log(found))) <= least * (1 + 1e-3)


@pytest.mark.parametrize("value", [0.5, 0.8])
def test_refits_with_a_held_coefficient_are_the_best_ones(value: float) -> None:
    for seed in (0, 4):
        law = fit(n=TWO_BASINS, error=of_two_basins(seed), fixed={"D": value})
        boot, held = bootstrap(law, 12, seed=1), {"log_d": float(np.log(value))}
        centre = np.log(law.predict(TWO_BASINS))
        picked = np.random.default_rng(1).integers(8, size=(12, 8))
        for i in range(12):
            error = np.exp(centre + ((law.search.problem.target - centre) * np.sqrt(8 / 5))[picked[i]])
            given = Case("transfer", TWO_BASINS, np.ones(8), error, held=held)
            ours = Objective(given).rss(np.array([boot.samples["alpha"][i], boot.samples["C"][i]]))
            assert ours <= best(given, 12) * (1 + ABOVE)
