"""The coefficient D over groups: against joint fits by scipy, and by what it predicts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import optimize

from lightning_tl.errors import UserError
from lightning_tl.laws import FullLaw, PowerLaw, TransferLaw
from lightning_tl.laws.clusters import Cells, cells
from lightning_tl.laws.fitting import fit_cells
from lightning_tl.laws.shared_coefficient import (
    SPREADS,
    Settings,
    _coefficient_by_alpha,
    alternate,
    fit_together,
    held_out,
    profile_coefficient,
)

SIZES = 1000 * 2.0 ** np.arange(7)


def curves(seed: int, count: int, noise: float, spread: float = 0.0) -> list[Cells]:
    """Transfer laws with D = 0.48, alike up to ``spread`` in log D."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        d, alpha, gap = 0.48 * np.exp(spread * rng.standard_normal()), rng.uniform(0.3, 0.55), rng.uniform(0.15, 0.35)
        found.append(cells(SIZES, np.log(d * SIZES**-alpha + gap) + noise * rng.standard_normal(len(SIZES))))
    return found


def test_shared_is_the_joint_least_squares_fit() -> None:
    groups = curves(3, 5, 0.005)
    laws = fit_together(TransferLaw(), groups, "shared")

    def residual(p: np.ndarray) -> np.ndarray:
        rows = [
            np.log(np.exp(p[0]) * SIZES ** -np.exp(p[1 + 2 * i]) + np.exp(p[2 + 2 * i])) - points.log_error
            for i, points in enumerate(groups)
        ]
        return np.concatenate(rows)

    start = [np.log(0.5), *np.log([[law.params["alpha"], law.params["C"]] for law in laws]).ravel()]
    joint = optimize.least_squares(residual, start, xtol=1e-14, ftol=1e-14)
    variance = 2 * joint.cost / (35 - 11)
    for i, law in enumerate(laws):
        assert law.params["D"] == pytest.approx(np.exp(joint.x[0]), rel=1e-3)
        assert law.params["alpha"] == pytest.approx(np.exp(joint.x[1 + 2 * i]), rel=1e-3)
        assert law.params["C"] == pytest.approx(np.exp(joint.x[2 + 2 * i]), rel=1e-4)
        assert law.dof == 24
        assert law.noise**2 == pytest.approx(variance, rel=0.02)
    # the uncertainty of the common D stays in the intervals: about that of the joint Jacobian
    error = np.sqrt(np.linalg.inv(joint.jac.T @ joint.jac)[0, 0] * variance)
    low, high = np.log(laws[0].interval("D"))
    assert (high - low) / (2 * 2.064 * error) == pytest.approx(1, abs=0.15)


def test_a_given_value_is_held() -> None:
    points = curves(4, 1, 0.005)[0]
    law = fit_together(TransferLaw(), [points], 0.48)[0]
    (alpha, gap), _ = optimize.curve_fit(
        lambda n, a, c: np.log(0.48 * n**-a + c), SIZES, points.log_error, p0=[0.4, 0.2], xtol=1e-14
    )
    assert law.params == pytest.approx({"D": 0.48, "alpha": alpha, "C": gap}, rel=1e-6)
    assert law.interval("D") == (pytest.approx(0.48), pytest.approx(0.48))
    assert law.dof == 5
    assert law.unidentified("D") is None


def test_the_papers_alternation_finds_the_common_value() -> None:
    assert alternate(TransferLaw(), curves(5, 9, 0.0))[0] == pytest.approx(0.48, rel=1e-5)
    groups = curves(5, 9, 0.002)
    laws = fit_together(TransferLaw(), groups, "auto")
    value, alpha = alternate(TransferLaw(), groups)
    assert [law.params["D"] for law in laws] == pytest.approx([value] * 9)

    def first(law: Callable[..., np.ndarray], points: Cells, start: float) -> float:
        """The first parameter of a fit by scipy."""
        return float(optimize.curve_fit(law, SIZES, points.log_error, p0=[start, 0.2], xtol=1e-14)[0][0])

    # One round by scipy from there leads back: the median alpha with D held, the median D with that alpha held for all.
    at_d = [first(lambda n, a, c: np.log(value * n**-a + c), points, 0.4) for points in groups]
    assert np.median(at_d) == pytest.approx(alpha, rel=1e-5)
    at_alpha = [first(lambda n, d, c: np.log(d * n**-alpha + c), points, 0.5) for points in groups]
    assert np.median(at_alpha) == pytest.approx(value, rel=1e-5)


def test_the_alternation_is_that_of_rounds() -> None:
    """Rounds one after the other, each with its fits, move towards the limit, about one part in a hundred a round."""
    groups = curves(7, 5, 0.001)
    limit = alternate(TransferLaw(), groups)[0]
    free = [fit_cells(TransferLaw(), points) for points in groups]
    value, gone = 0.5, [0.5]
    for _ in range(10):
        held = fit_together(TransferLaw(), groups, value)
        alpha = float(np.median([law.params["alpha"] for law in held]))
        value = float(np.median([np.exp(_coefficient_by_alpha(law, np.array([alpha]))[0]) for law in free]))
        gone.append(value)
    away = np.abs(np.log(np.array(gone) / limit))
    assert np.all(np.diff(away) < 0)
    assert away[-1] < 0.95 * away[0]


def test_the_median_of_the_groups_own_coefficients() -> None:
    groups = curves(11, 5, 0.002)
    own = [law.params["D"] for law in fit_together(TransferLaw(), groups)]
    laws = fit_together(TransferLaw(), groups, "median")
    assert [law.params["D"] for law in laws] == pytest.approx([np.median(own)] * 5)
    # There a round of the alternation with each group's own alpha ends: half of the groups' D move up, half down.
    held = [law.params["alpha"] for law in laws]
    free = [fit_cells(TransferLaw(), g) for g in groups]
    moved = [np.exp(_coefficient_by_alpha(law, np.array([at]))[0]) for law, at in zip(free, held, strict=True)]
    assert np.median(moved) == pytest.approx(np.median(own), rel=1e-3)


@pytest.mark.slow
def test_pooling_follows_what_predicts_held_out_points() -> None:
    alike = [held_out(TransferLaw(), curves(seed, 5, 0.006), (0.0, np.inf), Settings()) for seed in range(6)]
    assert sum(errors[0.0] for errors in alike) < sum(errors[np.inf] for errors in alike)
    apart = curves(6, 4, 0.0005, spread=1.5)
    errors = held_out(TransferLaw(), apart, SPREADS, Settings())
    assert errors[0.0] > errors[np.inf]
    laws = fit_together(TransferLaw(), apart, "pooled")
    free = fit_together(TransferLaw(), apart, "free")
    assert np.log([law.params["D"] for law in laws]) == pytest.approx(
        np.log([law.params["D"] for law in free]), abs=0.3
    )


@pytest.mark.slow
def test_sharing_sharpens_and_still_covers() -> None:
    hits, widths = [], []
    for seed in range(10):
        groups, rng = curves(seed, 3, 0.002), np.random.default_rng(seed)
        truths = []
        for _ in range(3):  # the same draws of parameters as in curves()
            rng.standard_normal()
            truths.append((rng.uniform(0.3, 0.55), rng.uniform(0.15, 0.35)))
            rng.standard_normal(len(SIZES))
        for law, free, (alpha, _) in zip(
            fit_together(TransferLaw(), groups, "shared"), fit_together(TransferLaw(), groups), truths, strict=True
        ):
            low, high = law.interval("alpha")
            hits.append(low <= alpha <= high)
            widths.append((high - low) / np.ptp(free.interval("alpha")))
    # Three intervals hang on one common D: ten independent tables, three binomial standard errors around 95 %.
    assert np.mean(hits) > 0.95 - 3 * np.sqrt(0.95 * 0.05 / 10)
    assert np.median(widths) < 0.8


def test_the_profile_over_alpha_and_d_agrees_with_scipy() -> None:
    """C at its best for each: also where D is so small that the fall is lost in C."""
    points = curves(9, 1, 0.01)[0]
    law = fit_together(TransferLaw(), [points])[0]
    alphas, logs = np.array([0.1, 0.4, 3.0]), np.array([-8.0, -1.0, 2.0])
    found = profile_coefficient(law, alphas, logs)
    for i, log in enumerate(logs):
        for j, alpha in enumerate(alphas):
            falls = np.exp(log) * SIZES**-alpha

            def rss(gap: float, fall: np.ndarray = falls) -> float:
                return float(np.sum((points.log_error - np.log(fall + np.exp(gap))) ** 2))

            best = optimize.minimize_scalar(rss, bounds=(-20, 0), method="bounded", options={"xatol": 1e-9}).fun
            assert found[i, j] == pytest.approx(best, rel=2e-3)


def test_full_laws_share_delta_and_beta() -> None:
    rng = np.random.default_rng(7)
    n, s = (grid.ravel() for grid in np.meshgrid(SIZES, [100.0, 400.0, 1600.0]))
    groups = []
    for gamma in (0.02, 0.05, 0.1):
        log = np.log(4 * (n**-0.45 + gamma) * s**-0.3) + 0.01 * rng.standard_normal(len(n))
        groups.append(cells(n, log, s=s))
    free, laws = fit_together(FullLaw(), groups), fit_together(FullLaw(), groups, "shared")
    for name, truth in (("delta", 4.0), ("beta", 0.3)):
        values = [law.params[name] for law in laws]
        assert np.ptp(values) < 0.5 * np.ptp([law.params[name] for law in free])
        assert np.mean(values) == pytest.approx(truth, rel=0.25)
    assert [law.params["gamma"] for law in laws] == pytest.approx([0.02, 0.05, 0.1], rel=0.4)


@pytest.mark.parametrize(
    ("form", "coefficient", "space", "message"),
    [
        (
            TransferLaw(),
            "some",
            "log",
            "'some' is no way to treat D; give a number or one of free, auto, median, shared, pooled",
        ),
        (TransferLaw(), -1.0, "log", "D is fixed at -1; it must be over 0"),
        (TransferLaw(), "shared", "linear", "D shared needs --space log"),
        (PowerLaw(), "auto", "log", "has no alpha to alternate with"),
        (PowerLaw(), "shared", "log", "shares no coefficient"),
    ],
)
def test_wrong_treatments(form, coefficient, space, message) -> None:
    with pytest.raises(UserError, match=message):
        fit_together(form, curves(8, 2, 0.01), coefficient, Settings(space=space))
