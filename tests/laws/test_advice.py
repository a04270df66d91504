"""The decision: right verdicts on tables whose truth is known, and honest words where the data cannot tell."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lightning_tl.laws.advice import DIFFERENT, MORE, UNCLEAR, UNFITTED, advise
from lightning_tl.laws.compare import compare, log_ratio
from lightning_tl.laws.curve_figures import equation, has_slope
from lightning_tl.laws.group_fits import GroupFit, UnfittedGroup, analyse, fitted
from lightning_tl.laws.law_figures import figures
from lightning_tl.laws.results_table import groups
from lightning_tl.laws.terms import Terms
from lightning_tl.laws.wording import comparison_sentence

from .tables import SIZES, falling, flat, results


def advice_of(table, target=None):
    fits = analyse(groups(table))
    return fits, advise(fits, target)


def test_a_falling_curve_beats_a_flat_one() -> None:
    curves = {"digits": falling(0.15, 0.0), "shapes": flat(0.121)}
    fits, advice = advice_of(results(curves, 0.1275, seed=3), target=0.05)
    digits, shapes = advice.groups
    assert (digits.verdict, shapes.verdict) == (MORE, DIFFERENT)
    assert advice.best == "digits"
    assert advice.headline[0].startswith("Pre-training is better than none with ")
    assert advice.headline[1].startswith("Keep digits: its error is ")
    assert "digits is already better with 2,048 images than shapes would be with 20,480" in shapes.sentences[0]
    text = " ".join(digits.sentences)
    assert "transfer gap C is not identified" in text
    assert "pre-training helps from n = 64 (the smallest size measured)" in text
    needed = digits.images_needed
    assert needed is not None
    truth = 64 * (0.05 / 0.1) ** (-1 / 0.15)
    assert needed.low < truth < needed.high
    assert shapes.images_needed is not None
    assert shapes.images_needed.never > 0.95
    assert "For an error of 0.05: never" in " ".join(shapes.sentences)
    scratch = fits[0].scratch
    assert scratch is not None
    assert scratch.error == pytest.approx(0.1275, rel=0.1)


def test_the_prototype_curve_as_measured() -> None:
    """Six sizes, one run each, as a real run gave them: more images help, and C is not determined."""
    measured = dict(zip(SIZES, (0.101, 0.096, 0.097, 0.084, 0.078, 0.066), strict=True))
    table = results({"digits": measured}, 0.1275, seed=2, draws=3, pretrain_noise=0, run_noise=0.01)
    fits, advice = advice_of(table)
    assert advice.groups[0].verdict == MORE
    law = fits[0].law
    assert law is not None
    assert law.unidentified("C") is not None
    assert law.interval("C")[0] == 0
    assert law.interval("C")[1] < 0.09


def test_a_curve_that_has_reached_its_gap_needs_another_renderer() -> None:
    table = results({"boxes": falling(1.2, 0.6)}, 0.13, seed=3, pretrain_noise=0.01)
    _, advice = advice_of(table, target=0.04)
    only = advice.groups[0]
    assert only.verdict == DIFFERENT
    assert only.images_needed is not None
    assert only.images_needed.never > 0.95
    assert "never" in " ".join(only.sentences)


def test_noise_is_not_talked_away() -> None:
    table = results({"boxes": falling(0.3, 0.2)}, 0.13, seed=4, pretrain_noise=0.12)
    _, advice = advice_of(table)
    assert advice.groups[0].verdict == UNCLEAR
    assert "The noise leaves both open" in advice.groups[0].sentences[0]


def test_negative_transfer_is_named() -> None:
    table = results({"boxes": flat(0.16)}, 0.12, seed=5)
    fits, advice = advice_of(table)
    assert advice.groups[0].verdict == DIFFERENT
    text = " ".join(advice.groups[0].sentences)
    assert "negative transfer at n = 64, 128, 256, 512, 1,024, 2,048" in text
    assert fits[0].scratch is not None
    assert fits[0].scratch.helps_from is None


def test_helps_from_the_first_size_below_scratch() -> None:
    table = results({"boxes": falling(0.3, 0.0, first=0.2)}, 0.13, seed=6, pretrain_noise=0.01)
    fits, advice = advice_of(table)
    # 0.2 (n/64)^-0.3 passes 0.13 at n = 270
    assert fits[0].scratch is not None
    assert fits[0].scratch.helps_from in (512.0, 1024.0)
    assert 64 in fits[0].scratch.harmful
    assert "pre-training helps from n = " in " ".join(advice.groups[0].sentences)


def test_equal_renders_are_not_told_apart() -> None:
    curves = {"a": falling(0.3, 0.2), "b": falling(0.3, 0.2)}
    apart = 0
    for seed in range(25):
        first, second = analyse(groups(results(curves, 0.13, seed=seed)))
        apart += abs(log_ratio(first, SIZES[-1], second, SIZES[-1]).sign)
    assert stats.binomtest(apart, 25, 0.05, alternative="greater").pvalue > 0.01
    _, advice = advice_of(results(curves, 0.13, seed=8))
    assert advice.headline[0].startswith("Pre-training is better than none with both. ")
    assert "cannot be determined" in advice.headline[1]
    assert advice.comparisons[0].log_ratio.sign == 0
    assert advice.comparisons[0].paired == 3


def test_comparison_is_paired_by_draw() -> None:
    """Draws that strike both renders alike must not widen their difference."""
    curves = {"a": falling(0.3, 0.2), "b": falling(0.3, 0.3)}
    quiet = compare(*analyse(groups(results(curves, 0.13, seed=8, draw_noise=0.0))))
    loud = compare(*analyse(groups(results(curves, 0.13, seed=8, draw_noise=0.5))))
    assert loud.log_ratio.interval == pytest.approx(quiet.log_ratio.interval, abs=1e-6)
    assert loud.gap is not None
    assert quiet.gap is not None
    told = comparison_sentence(loud, Terms())
    less = -100 * np.expm1(loud.log_ratio.estimate)
    assert told.startswith(f"a against b at n = 2,048: error {less:.0f} % lower (")
    assert f"; difference of C {loud.gap.estimate:+.3g} (" in told
    assert told.endswith("; paired over 3 draws.")


def test_three_sizes_have_a_curve_through_them_and_no_law() -> None:
    """Nothing in the text pretends to know more, and nothing is written of bounds that are not there."""
    curves = {
        name: dict(zip((64, 128, 256), errors, strict=True))
        for name, errors in (("a", (0.10, 0.09, 0.085)), ("b", (0.10, 0.10, 0.10)))
    }
    fits, advice = advice_of(results(curves, 0.13, seed=3), target=0.01)
    text = "\n".join([*advice.headline, *(line for item in advice.groups for line in item.sentences)])
    text += "\n".join(comparison_sentence(pair, Terms()) for pair in advice.comparisons)
    assert "Such a law goes through any 3 sizes exactly: 4 are needed; add one, larger or between." in text
    assert "For an error of 0.01: not reached by the curve through the points, which has no interval." in text
    assert " lower, with no interval." in advice.ranking[0]
    assert "the curve through the errors with pre-training is" in text
    assert "bound to" not in text
    assert "no bound" not in text
    assert "not bounded)" not in text
    assert equation(fits[0]) == "3 sizes, no law"
    assert "law_linearised" not in figures(fits)


def test_a_curve_that_does_not_fall_is_drawn_as_flat() -> None:
    exact = {"draws": 1, "draw_noise": 0, "pretrain_noise": 1e-3, "run_noise": 0}
    fits, _ = advice_of(results({"a": flat(0.1), "b": falling(0.3, 0.2)}, 0.13, seed=2, **exact))
    assert [has_slope(item) for item in fits][1]
    rising = {64: 0.100, 128: 0.102, 256: 0.104, 512: 0.106, 1024: 0.108}
    (item,), _ = advice_of(results({"error": rising}, 0.13, seed=2, **exact))
    assert not has_slope(item)
    assert equation(item).startswith("flat, 0.1")
    assert "law_linearised" not in figures([item])


def test_verdicts_are_seldom_wrong() -> None:
    """Over many tables: a firm verdict is right far more often than its confidence of 80 % demands."""
    rng = np.random.default_rng(9)
    right = firm = 0
    for seed in range(28):
        alpha, gap = rng.uniform(0.05, 0.8), rng.uniform(0.0, 0.95)
        curve = falling(alpha, gap)
        law = 0.1 * (gap + (1 - gap) * (np.array([2048, 20480]) / 64) ** -alpha)
        helps = law[1] / law[0] <= 0.9
        _, advice = advice_of(results({"one": curve}, 0.2, seed=100 + seed))
        if advice.groups[0].verdict in (MORE, DIFFERENT):
            firm += 1
            right += (advice.groups[0].verdict == MORE) == helps
    assert firm >= 10
    assert right / firm > 0.85


def test_a_group_that_cannot_be_fitted_is_listed_and_the_others_go_on() -> None:
    table = results({"a": falling(0.3, 0.2), "b": {64: 0.1, 128: 0.09}}, 0.13, seed=10)
    _, advice = advice_of(table)
    assert [item.verdict for item in advice.groups][1] == UNFITTED
    assert advice.groups[1].sentences == [
        "not fitted: 2 independent points for the 3 parameters of error = D * n^-alpha + C."
    ]
    assert advice.groups[0].verdict != UNFITTED


def test_runs_that_have_learnt_nothing_have_no_law() -> None:
    _, advice = advice_of(
        results(
            {"a": dict.fromkeys((32, 64, 128, 256, 512), 0.9153)},
            0.9153,
            seed=10,
            draw_noise=0,
            pretrain_noise=0,
            run_noise=0,
        )
    )
    (group,) = advice.groups
    assert group.verdict == UNFITTED
    assert "runs have the same error, 0.9153: none has learnt what it measures" in group.sentences[0]
    assert "fine-tune longer, or at another learning rate" in group.sentences[0]


def test_hold_out_reports_the_miss() -> None:
    fits, advice = advice_of(results({"a": falling(0.3, 0.2)}, 0.13, seed=11))
    held = fits[0].hold_out
    assert held is not None
    assert held.n == 2048
    assert held.off == pytest.approx(held.observed / held.predicted - 1)
    assert "Check: without n = 2,048" in " ".join(advice.groups[0].sentences)


def test_single_run_baseline_and_no_draws() -> None:
    table = results({"a": falling(0.4, 0.0)}, 0.13, seed=12, draws=1)
    fits, advice = advice_of(table.drop(columns=["draw_seed", "run_id"]))
    assert fits[0].scratch is not None
    assert np.isnan(fits[0].scratch.stderr)
    assert fits[0].scratch.helps_from is not None
    assert advice.groups[0].verdict == MORE


def test_a_group_that_cannot_be_fitted_has_its_reason_and_stops_no_other() -> None:
    table = results({"digits": falling(0.4, 0.3), "two sizes": {64: 0.1, 128: 0.09}}, 0.13, seed=2)
    fit, unfitted = analyse(groups(table))
    assert isinstance(fit, GroupFit)
    assert isinstance(unfitted, UnfittedGroup)
    assert unfitted.label == "two sizes"
    assert unfitted.reason == "2 independent points for the 3 parameters of error = D * n^-alpha + C"
    assert fitted([unfitted, fit]) == [fit]
    by_itself = analyse(groups(table[table["render"] == "digits"]))[0]
    assert isinstance(by_itself, GroupFit)
    assert by_itself.law.params == fit.law.params
    assert [words.verdict for words in advise([fit, unfitted]).groups][1] == UNFITTED
