"""The probability that each answer is right: against counting among draws; each message."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lightning_tl.errors import UserError
from lightning_tl.laws import fit
from lightning_tl.laws.lookahead import current
from lightning_tl.laws.posterior import Points, Prior, posterior
from lightning_tl.laws.questions import BestGroup, MoreOrDifferent, NegativeTransfer, TargetError, plain_weight

SIZES = 1000 * 2.0 ** np.arange(7)


def points(label, n, error, **more) -> Points:
    return Points(label, np.array(n, float), np.log(error), np.ones(len(n)), **more)


@pytest.mark.parametrize("within", [0.0, 0.02, 0.1])
def test_best_group_against_counting(within) -> None:
    items = [points(name, [1000.0, 32000.0], [0.3, far]) for name, far in zip("abc", (0.2, 0.205, 0.215), strict=True)]
    found = posterior(items, Prior(noise=(0.02, 0.04), noises=2), 1000.0, count=2000)
    rng, question = np.random.default_rng(0), BestGroup(64000.0, within)
    count = 200_000
    noise = rng.choice(len(found.noise), count, p=found.weight)
    errors = np.stack([item.log_error(64000.0)[noise, rng.integers(2000, size=count)] for item in found.groups])
    best = (errors <= errors.min(axis=0) + np.log1p(within)).mean(axis=1)
    assert question.answers(found) == ("a", "b", "c")
    for group in range(3):  # seen from each group, the same
        assert current(question.right(found)[group], question.weight(found)[group]) == pytest.approx(best, abs=0.005)


def test_target_against_counting() -> None:
    item = points("a", [1000.0, 4000.0, 32000.0], [0.3, 0.25, 0.2], draw_variance=0.03**2)
    found = posterior([item], Prior(), 1000.0, count=2000)
    question = TargetError(64000.0, 0.19)
    rng, mass = np.random.default_rng(0), plain_weight(found)[0].ravel()
    level = found.groups[0].log_error(64000.0).ravel()[rng.choice(mass.size, 100_000, p=mass)]
    below = np.mean(level + 0.03 * rng.standard_normal(len(level)) <= np.log(0.19))
    assert current(question.right(found)[0], question.weight(found)[0]) == pytest.approx([below, 1 - below], abs=0.005)


def test_negative_transfer_against_a_closed_form() -> None:
    """With many runs at one size its level is known; what is left is a comparison of two normal means."""
    scratch = np.log([0.31, 0.30, 0.29])
    item = points("a", [64000.0] * 40, [0.305] * 40, scratch=scratch)
    found = posterior([item], Prior(noise=(0.02, 0.02)), 1000.0, count=2000)
    better = stats.norm.cdf((scratch.mean() - np.log(0.305)) / (0.02 * np.sqrt(1 / 3 + 1 / 40)))
    question = NegativeTransfer(64000.0)
    own = current(question.right(found)[0], question.weight(found)[0])
    assert own == pytest.approx([better, 1 - better], abs=0.005)


@pytest.mark.parametrize(("alpha", "share"), [(0.4, 0.2), (0.5, 0.9), (0.15, 0.1)])
def test_more_or_different_is_the_verdict_of_law(alpha, share) -> None:
    """Where many runs leave no doubt, both give the same answer, and it is the truth's."""
    rng = np.random.default_rng(1)
    n = np.repeat(SIZES, 3)
    error = 0.3 * (share + (1 - share) * (n / 1000) ** -alpha) * np.exp(0.005 * rng.standard_normal(len(n)))
    law = fit(n=n, error=error, pretrain=np.arange(len(n)))
    question = MoreOrDifferent(64000.0)
    found = posterior([points("a", n, error)], Prior(), 1000.0)
    more = current(question.right(found)[0], question.weight(found)[0])[0]
    assert (more > 0.5) == (law.probability_of_reduction(64000, 640000, 0.1) > 0.5)
    near, far = (share + (1 - share) * (size / 1000) ** -alpha for size in (64000, 640000))
    assert (more > 0.5) == (1 - far / near >= 0.1)
    assert max(more, 1 - more) > 0.95


def test_in_the_zone_either_answer_counts_as_right() -> None:
    """Flat noise-free curves at which ten times the images take away 9 %: with a zone of 20 % both are right."""
    share = 1 / (1 + 0.09 / (1 - 10**-0.5 - 0.09) / 64**-0.5)  # solves the reduction for a share of C
    near, far = (share + (1 - share) * (size / 1000) ** -0.5 for size in (64000, 640000))
    assert 1 - far / near == pytest.approx(0.09)
    n = np.repeat(SIZES, 60)
    error = 0.3 * (share + (1 - share) * (n / 1000) ** -0.5)
    found = posterior([points("a", n, error)], Prior(noise=(0.005, 0.005)), 1000.0)
    question = MoreOrDifferent(64000.0, zone=0.2)
    assert current(question.right(found)[0], question.weight(found)[0]).min() > 0.98
    strict = MoreOrDifferent(64000.0, zone=0.0)
    assert current(strict.right(found)[0], strict.weight(found)[0])[1] > 0.9


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MoreOrDifferent(0.0), "the question is asked for n = 0; give a number of images over 0"),
        (lambda: BestGroup(float("nan")), "the question is asked for n = nan; give a number of images over 0"),
        (lambda: MoreOrDifferent(9.0, zone=1.0), "zone is 1; give a share of the reduction from 0 to below 1, such as"),
        (lambda: BestGroup(9.0, within=-1.0), "within is -1; give a share of the error from 0 to below 1, such as"),
        (lambda: TargetError(9.0, 5.0), "target error 5 is not between 0 and 1; an error of 10 % is 0.1"),
    ],
)
def test_messages(build, message) -> None:
    with pytest.raises(UserError) as error:
        build()
    assert str(error.value).startswith(message)


def test_negative_transfer_needs_runs_without_pre_training() -> None:
    found = posterior([points("digits", [1000.0], [0.3])], Prior(), 1000.0)
    with pytest.raises(UserError, match=r"digits has no run without pre-training \(size 0\), so negative transfer can"):
        NegativeTransfer(1000.0).right(found)


def test_best_of_too_many() -> None:
    found = posterior([points(str(i), [1000.0], [0.3]) for i in range(61)], Prior(), 1000.0, count=4)
    with pytest.raises(UserError, match="question best compares up to 60 groups, and the table has 61; select fewer"):
        BestGroup(1000.0).right(found)
