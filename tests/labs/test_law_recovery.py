from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest, nct, t

from lightning_tl.cli.main import main
from lightning_tl.labs import law_calibration
from lightning_tl.labs.error_curves import (
    LawCurve,
    broken_curve,
    curve_at_boundary,
    law_curve,
    moving_floor,
    power_curve,
    rising_curve,
)
from lightning_tl.labs.law_answers import AT_BEYOND, FAR, MISSED, NO_GAP, answers
from lightning_tl.labs.law_calibration import alarms, boundaries, shared_draws
from lightning_tl.labs.law_recovery_theory import alarm_rate, coverage, coverage_without_names
from lightning_tl.labs.law_tables import draw_world, kinds, pretraining_sizes, table, truth
from lightning_tl.labs.shares import binomial_interval, compared_share
from lightning_tl.laws import FullLaw, TransferLaw, fit

SIZES = pretraining_sizes(7)
LOGS, AT = np.log(SIZES), float(np.log(4 * SIZES[-1]))
KINDS = {kind.name: kind for kind in kinds(3)}


def least_squares(log_error: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coefficients, sums of squares and (XᵀX)⁻¹ of lines through many sets of points, shape (sets, points)."""
    design = np.stack([np.ones_like(x), x], axis=1)
    line = log_error @ np.linalg.pinv(design).T
    return line, np.sum((log_error - line @ design.T) ** 2, axis=1), np.linalg.inv(design.T @ design)


@pytest.mark.parametrize("ratio", [0.0, 1.0, 3.0])
def test_coverage_without_names_is_that_of_least_squares(ratio):
    rng, count, draws = np.random.default_rng(0), 20_000, 3
    noise = rng.standard_normal((count, 7, draws)) + ratio * rng.standard_normal((count, 1, draws))
    line, squares, inverse = least_squares(noise.reshape(count, -1), np.repeat(LOGS, draws))
    dof = 7 * draws - 2
    spread = t.ppf(0.975, dof) * np.sqrt(squares / dof)
    at = np.array([1, AT])
    slope = np.mean(np.abs(line[:, 1]) <= spread * np.sqrt(inverse[1, 1]))
    error = np.mean(np.abs(line @ at) <= spread * np.sqrt(at @ inverse @ at))
    assert coverage_without_names(LOGS, draws, ratio, AT, 0.95) == pytest.approx((slope, error), abs=0.008)


def test_the_second_derivation_of_unnamed_draws():
    # y has the covariance V = I + ratio² ZZᵀ, Z being the draws' indicators: the residual sum of squares is a sum of
    # chi squares weighted by the eigenvalues of MVM, independent of the fitted line where XᵀVM = 0
    draws, ratio = 3, 1.7
    z = np.tile(np.eye(draws), (7, 1))
    design = np.stack([np.ones(7 * draws), np.repeat(LOGS, draws)], axis=1)
    inverse = np.linalg.inv(design.T @ design)
    rest = np.eye(7 * draws) - design @ inverse @ design.T
    covariance = np.eye(7 * draws) + ratio**2 * z @ z.T
    np.testing.assert_allclose(design.T @ covariance @ rest, 0, atol=1e-9)
    values = np.linalg.eigvalsh(rest @ covariance @ rest)
    line = inverse @ design.T @ covariance @ design @ inverse
    rng = np.random.default_rng(1)
    squares = rng.chisquare(1, (100_000, len(values))) @ np.maximum(values, 0)
    at, dof = np.array([1, AT]), 7 * draws - 2
    shares = []
    for h in (np.array([0.0, 1.0]), at):
        half = t.ppf(0.975, dof) * np.sqrt(squares / dof * (h @ inverse @ h))
        shares.append(np.mean(np.abs(rng.standard_normal(100_000)) * np.sqrt(h @ line @ h) <= half))
    assert coverage_without_names(LOGS, draws, ratio, AT, 0.95) == pytest.approx(shares, abs=0.005)


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.5])
def test_coverage_with_names_is_that_of_an_analysis_of_variance(ratio):
    rng, count, draws = np.random.default_rng(14), 20_000, 3
    noise = rng.standard_normal((count, 7, draws)) + ratio * rng.standard_normal((count, 1, draws))
    line, squares, inverse = least_squares(noise.mean(axis=2), LOGS)
    at = np.array([1, AT])
    of_runs = t.ppf(0.975, 5) ** 2 * squares / 5 * (at @ inverse @ at)
    of_draws = t.ppf(0.975, 2) ** 2 * noise.mean(axis=1).var(axis=1, ddof=1) / draws
    inside = np.mean((line @ at) ** 2 <= of_runs + of_draws)
    assert coverage(LOGS, draws, ratio, AT, 0.95) == pytest.approx((0.95, inside), abs=0.006)


def test_coverage_with_names_tends_to_the_nominal_one():
    # with large luck of draws only their t interval is left
    assert coverage(LOGS, 3, 1e3, AT, 0.95) == pytest.approx((0.95, 0.95), abs=0.002)


def test_the_alarm_is_the_t_test_of_a_column_for_the_largest_size():
    # second derivation: that the largest size lies outside the prediction interval is the t test of its own column
    straight = np.log(LawCurve(0.3, 0.4, 0.0)(SIZES))
    for moved in (0.0, 0.05, -0.2):
        truth_ = straight.copy()
        truth_[-1] += moved
        design = np.stack([np.ones(7), LOGS, np.eye(7)[-1]], axis=1)
        shift = moved / (0.02 * np.sqrt(np.linalg.inv(design.T @ design)[2, 2]))
        limit = t.ppf(0.975, 4)
        expected = nct.sf(limit, 4, shift) + nct.cdf(-limit, 4, shift) if moved else 0.05
        assert alarm_rate(LOGS, truth_, 0.02, 0.95) == pytest.approx(expected, abs=2e-3)


def test_the_alarm_of_a_bent_curve_is_that_of_least_squares():
    rng, truth_ = np.random.default_rng(2), np.log(LawCurve(0.3, 0.4, 0.3)(SIZES))
    log_error = truth_ + 0.01 * rng.standard_normal((40_000, 7))
    line, squares, inverse = least_squares(log_error[:, :-1], LOGS[:-1])
    at = np.array([1, LOGS[-1]])
    half = t.ppf(0.975, 4) * np.sqrt(squares / 4 * (1 + at @ inverse @ at))
    outside = np.mean(np.abs(log_error[:, -1] - line @ at) > half)
    assert alarm_rate(LOGS, truth_, 0.01, 0.95) == pytest.approx(outside, abs=0.006)


@pytest.mark.parametrize(("count", "of"), [(0, 10), (10, 10), (3, 17), (95, 100)])
def test_binomial_interval(count, of):
    expected = binomtest(count, of).proportion_ci(0.9)
    assert binomial_interval(count, of, 0.9) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(
    ("theory", "count", "of", "allowed", "stderr", "verdict"),
    [
        (0.2, 100, 100, 0.0, 0.04, "disagrees"),
        (0.25, 100, 100, 0.05, (0.3 * 0.7 / 100) ** 0.5, "disagrees"),
        (0.25, 22, 100, 0.05, (0.25 * 0.75 / 100) ** 0.5, "agrees"),
        (0.95, 6, 6, 0.05, (0.95 * 0.05 / 6) ** 0.5, "undecided"),
        (0.95, 100, 100, 0.05, (0.95 * 0.05 / 100) ** 0.5, "agrees"),
        (1.0, 3, 3, 0.1, (0.1 * 0.9 / 3) ** 0.5, "undecided"),  # three of three do not show 90 %
        (1.0, 100, 100, 0.1, 0.03, "agrees"),
        (1.0, 85, 100, 0.1, 0.03, "undecided"),
        (1.0, 80, 100, 0.1, 0.03, "disagrees"),
        (0.2, 100, 100, None, 0.04, "shown"),
    ],
)
def test_a_share_has_the_standard_error_of_what_is_allowed(theory, count, of, allowed, stderr, verdict):
    item = compared_share("part", "case", 0.0, theory, count, of, allowed)
    assert (item.simulation, item.stderr, item.agreement) == (count / of, pytest.approx(stderr), verdict)


def test_curves_are_what_they_say():
    rng, n = np.random.default_rng(3), np.geomspace(1000, 1e9, 50)
    law = law_curve(rng)
    np.testing.assert_allclose(law(n), TransferLaw().predict(law.params, n, n))
    edge = curve_at_boundary(rng, 64_000, 0.1)
    near, far = edge(np.array([64_000, 640_000]))
    assert far == pytest.approx(0.9 * near)
    for curve in (law, edge, broken_curve(rng), moving_floor(rng), rising_curve(rng), power_curve(rng)):
        error = curve(n)
        assert curve(np.array([1000.0]))[0] == pytest.approx(0.3)
        assert error.min() >= curve.least
        before = error[n <= curve.turn]
        assert np.all(np.diff(before) < 0)
        assert np.all(np.diff(error[n >= curve.turn]) > 0)


@pytest.mark.parametrize("name", KINDS)
def test_a_world_reaches_its_target_where_it_says(name):
    rng = np.random.default_rng(4)
    for _ in range(20):
        world = draw_world(KINDS[name], rng, SIZES[-1])
        if np.isinf(world.needed):
            assert world.target < world.curve.least
        else:
            error = world.curve(world.needed * np.array([0.99, 1.0, 1.01]))
            assert error[0] > world.target
            assert error[1] == pytest.approx(world.target)


@pytest.mark.parametrize("name", ["law (1)", "law (2)", "shared draws"])
def test_the_truth_of_a_table_is_its_law(name):
    rng, kind = np.random.default_rng(5), KINDS[name]
    world = draw_world(kind, rng, SIZES[-1])
    rows = table(kind, [world], rng, SIZES, 1e-6, 0.0)
    form = FullLaw() if kind.full else TransferLaw()
    law = fit(form, n=rows.pretrain_images, s=rows.finetune_images if kind.full else None, error=rows.error)
    for parameter, value in truth(kind, world).items():
        assert law.params[parameter] == pytest.approx(value, rel=1e-2)


def test_without_noise_every_answer_is_right():
    found = answers(KINDS["law (1)"], 8, np.random.default_rng(6), SIZES, 1e-4, 0.0)
    calls = [(one.verdict, one.reached) for one in found]
    assert all("wrong" not in pair for pair in calls)
    assert [pair.count("right") for pair in calls].count(2) >= 6
    assert not any(MISSED in one.warnings for one in found[:3])


def test_warnings_and_calls_where_the_truth_demands_them():
    found = answers(KINDS["law (1) with C = 0"], 8, np.random.default_rng(7), SIZES, 0.01, 0.0)
    assert sum(NO_GAP in one.warnings for one in found) >= 5
    assert any(FAR in one.warnings for one in found)
    rising = answers(KINDS["rising error"], 8, np.random.default_rng(8), SIZES, 0.01, 0.0)
    assert sum(one.inside[AT_BEYOND] for one in rising) <= 2
    assert "alpha" not in rising[0].inside


def test_shares_follow_theory():
    rng = np.random.default_rng(9)
    found = [*shared_draws(rng, SIZES, 0.01, 3, 100), *alarms(rng, SIZES, 0.01, 100)]
    assert {item.agreement for item in found} <= {"agrees", "undecided"}
    assert all(abs(item.simulation - item.theory) < 0.1 for item in found)


def test_claims_at_the_boundary_are_as_rare_as_promised():
    for item in boundaries(np.random.default_rng(10), SIZES, 0.01, 40):
        assert item.agreement != "disagrees", item


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("coverage", lambda *given: (0.95, 0.80)),
        ("coverage_without_names", lambda *given: (0.95, 0.95)),
        ("coverage_without_names", lambda logs, draws, ratio, *rest: coverage(logs, draws, ratio, *rest)),
    ],
)
def test_a_wrong_theory_of_draws_disagrees(monkeypatch, name, wrong):
    monkeypatch.setattr(law_calibration, name, wrong)
    found = shared_draws(np.random.default_rng(11), SIZES, 0.01, 3, 100)
    assert "disagrees" in {item.agreement for item in found}


def test_a_wrong_theory_of_alarms_disagrees(monkeypatch):
    monkeypatch.setattr(law_calibration, "alarm_rate", lambda *given: 0.05)
    assert "disagrees" in {item.agreement for item in alarms(np.random.default_rng(12), SIZES, 0.01, 100)}


def test_a_law_whose_intervals_are_too_narrow_is_found_out(monkeypatch):
    fitted = law_calibration._fitted

    def narrow(*given, **named):
        return [replace(law, level=0.8) for law in fitted(*given, **named)]

    monkeypatch.setattr(law_calibration, "_fitted", narrow)
    found = shared_draws(np.random.default_rng(13), SIZES, 0.01, 3, 60)
    assert "disagrees" in {item.agreement for item in found if item.case == "alpha, draws named"}


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("worlds", "1", "worlds is 1; it must be from 4 to 100000"),
        ("tables", "1", "tables is 1; it must be from 4 to 100000"),
        ("sizes", "4", "sizes is 4; it must be from 5 to 12"),
        ("noise", "0", "noise is 0; it must be from 0.0001 to 0.1"),
        ("draws", "1", "draws is 1; it must be from 2 to 20"),
        ("draw_noise", "-1", "draw_noise is -1; it must be from 0 to 0.3"),
    ],
)
def test_wrong_parameters(capsys, tmp_path, option, value, message):
    assert main(["lab", "law-recovery", f"--{option}", value, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_lab_writes_its_answers(capsys, tmp_path):
    main(["lab", "law-recovery", "--worlds", "4", "--tables", "8", "--out", str(tmp_path)])
    facts = json.loads((tmp_path / "law-recovery.json").read_text())["facts"]["kinds"]
    assert list(facts) == list(KINDS)
    for found in facts.values():
        for key in ("verdict", "reached"):
            assert sum(found[key].get(call, 0) for call in ("right", "wrong", "open")) == found[key]["of"]
    for name in ("intervals", "answers", "theory"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    assert "held-out" in (tmp_path / "answers.svg").read_text()
