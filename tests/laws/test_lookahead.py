"""What one more run is expected to bring: against Monte Carlo with the posterior computed anew for each outcome."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from lightning_tl.laws.lookahead import current, new_draw, new_run, outlook, scratch_of, scratch_outlook
from lightning_tl.laws.posterior import Points, Prior, combined, level_centre, particles
from lightning_tl.laws.questions import BestGroup, MoreOrDifferent, NegativeTransfer, TargetError

PRIOR = Prior(noise=(0.02, 0.05), noises=2)


def points(label, n, error, **more) -> Points:
    return Points(label, np.array(n, float), np.log(error), np.ones(len(n)), **more)


def known(items, centre=None):
    centre = level_centre(items, PRIOR) if centre is None else centre
    return combined([particles(item, PRIOR, 1000.0, centre, 1500) for item in items], PRIOR), centre


def with_value(item: Points, n: float, value: float) -> Points:
    return replace(
        item, n=np.append(item.n, n), log_error=np.append(item.log_error, value), runs=np.append(item.runs, 1)
    )


def with_draw(item: Points, place: int, value: float) -> Points:
    runs, level = item.runs.copy(), item.log_error.copy()
    level[place] = (level[place] * runs[place] + value) / (runs[place] + 1)
    runs[place] += 1
    return replace(item, runs=runs, log_error=level)


def monte_carlo(items, question, group, mean, spread, changed, count=250):
    """Return mean and standard error of P(wrong) after the run, each outcome with a posterior of its own."""
    before, centre = known(items)
    rng = np.random.default_rng(3)
    weight = question.weight(before)[group]
    flat = rng.choice(weight.size, count, p=weight.ravel())
    wrong = []
    for place in flat:
        noise, part = np.unravel_index(place, weight.shape)
        value = mean[noise, part] + spread[noise] * rng.standard_normal()
        after, _ = known([changed(item, value) if i == group else item for i, item in enumerate(items)], centre)
        probability = current(question.right(after)[group], question.weight(after)[group])
        wrong.append(1 - probability.max())
    return float(np.mean(wrong)), float(np.std(wrong) / np.sqrt(count))


CURVE = points("a", [1000.0, 64000.0], [0.30, 0.22], scratch=np.log([0.23, 0.24]))
RIVALS = [points(name, [1000.0, 16000.0], error) for name, error in zip("bc", ([0.3, 0.23], [0.32, 0.22]), strict=True)]


@pytest.mark.parametrize(
    ("items", "question"),
    [
        ([CURVE], MoreOrDifferent(64000.0)),
        ([CURVE], MoreOrDifferent(64000.0, zone=0.0)),
        ([CURVE], TargetError(128000.0, 0.21)),
        ([CURVE], NegativeTransfer(64000.0)),
        ([CURVE, *RIVALS], BestGroup(64000.0)),
    ],
)
@pytest.mark.parametrize("n", [4000.0, 64000.0])
def test_expected_gain_against_monte_carlo(items, question, n) -> None:
    before, _ = known(items)
    mean, spread = new_run(before.groups[0], before.noise, n)
    ahead = outlook(question.right(before)[0], question.weight(before)[0], mean, spread, 0.9)
    expected, error = monte_carlo(items, question, 0, mean, spread, lambda item, value: with_value(item, n, value))
    assert ahead.wrong == pytest.approx(expected, abs=3 * error + 0.008)


def test_another_draw_against_monte_carlo() -> None:
    item = points("a", [1000.0, 8000.0, 64000.0], [0.30, 0.235, 0.21], run_variance=0.05**2)
    question = MoreOrDifferent(64000.0)
    before, _ = known([item])
    mean, spread = new_draw(before.groups[0], before.noise, 1)
    ahead = outlook(question.right(before)[0], question.weight(before)[0], mean, spread, 0.9)
    expected, error = monte_carlo([item], question, 0, mean, spread, lambda one, value: with_draw(one, 1, value))
    assert ahead.wrong == pytest.approx(expected, abs=3 * error + 0.008)
    now = 1 - current(question.right(before)[0], question.weight(before)[0]).max()
    assert ahead.wrong < now


def test_another_run_without_pre_training_against_monte_carlo() -> None:
    question = NegativeTransfer(64000.0)
    before, _ = known([CURVE])
    item, weight = before.groups[0], question.weight(before)[0]
    scratch = scratch_of(CURVE, before.noise)
    ahead = scratch_outlook(item.log_error(64000.0), weight, scratch, 0.9)
    mean, spread = np.full_like(item.level, scratch.mean), np.sqrt(scratch.variance + scratch.run)
    expected, error = monte_carlo(
        [CURVE], question, 0, mean, spread, lambda one, value: replace(one, scratch=np.append(one.scratch, value))
    )
    assert ahead.wrong == pytest.approx(expected, abs=3 * error + 0.008)
    assert ahead.wrong < 1 - current(question.right(before)[0], weight).max()


def test_a_draw_is_worth_less_than_a_pre_training_where_its_own_scatter_is_small() -> None:
    item = points("a", [1000.0, 8000.0, 64000.0], [0.30, 0.235, 0.21], run_variance=0.001**2)
    question = MoreOrDifferent(64000.0)
    before, _ = known([item])
    right, weight = question.right(before)[0], question.weight(before)[0]
    now = 1 - current(right, weight).max()
    draw = outlook(right, weight, *new_draw(before.groups[0], before.noise, 1), 0.9)
    run = outlook(right, weight, *new_run(before.groups[0], before.noise, 8000.0), 0.9)
    assert now - draw.wrong < 0.003 < now - run.wrong


def test_settles_against_a_closed_form() -> None:
    """Two answers, two values of a parameter, one normal observation: the posterior crosses where the odds do."""
    right = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    right = np.repeat(right, 2000, axis=2)
    mean = np.concatenate([np.zeros(2000), np.ones(2000)])[None]
    weight, spread, limit = np.full((1, 4000), 1 / 4000), np.array([0.4]), 0.9
    ahead = outlook(right, weight, mean, spread, limit)
    cut = 0.5 + spread[0] ** 2 * np.log(limit / (1 - limit))  # the odds exp((y - 1/2) / s^2) reach 9
    settles = stats.norm.sf(cut, 1, spread[0]) + stats.norm.sf(cut, 0, spread[0])
    assert ahead.settles == pytest.approx(settles, abs=0.01)
    assert ahead.wrong == pytest.approx(stats.norm.sf(0.5 / spread[0]), abs=0.003)
