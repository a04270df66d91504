"""The posterior of a law: against brute-force integration, and in simulations of which the truth is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lightning_tl.errors import UserError
from lightning_tl.laws.candidates import group_without_runs
from lightning_tl.laws.posterior import Points, Prior, points_of_group, posterior
from lightning_tl.laws.questions import MoreOrDifferent, plain_weight
from lightning_tl.laws.results_table import groups

from .tables import falling, results


def points(n, error, label="a", **more) -> Points:
    return Points(label, np.array(n, float), np.log(error), np.ones(len(n)), **more)


def brute_force(n, y, prior: Prior, at: float):
    """Sum the prior times the likelihood on a plain grid of alpha, share, level and noise: nothing in closed form.

    Returns the cells' weights (noise, alpha, share), the mean level of each cell given the runs and its mean square.
    """
    edges, shares = np.linspace(*prior.alpha, 161), (np.arange(160) + 0.5) / 160
    alpha, share = np.meshgrid((edges[1:] + edges[:-1]) / 2, shares, indexing="ij")
    law = [np.log(share + (1 - share) * (size / n[0]) ** -alpha) for size in [*n, at]]
    weight, first, second = (np.zeros((len(prior.noise_values), 160, 160)) for _ in range(3))
    for level in y[0] + np.linspace(-0.35, 0.35, 281):
        rest = sum((y[k] - level - law[k]) ** 2 for k in range(len(n)))
        for i, noise in enumerate(prior.noise_values):
            density = np.exp(-rest / (2 * noise**2)) / noise ** len(n) * stats.norm.pdf(level, y[0], prior.spread)
            density = density * noise**prior.lean
            weight[i] += density
            first[i] += density * (level + law[-1])
            second[i] += density * (level + law[-1]) ** 2
    total = weight.sum()
    return weight / total, first.sum() / total, second.sum() / total, alpha, share


@pytest.mark.parametrize("error", [[0.30, 0.22, 0.15], [0.30, 0.285, 0.28]])
def test_posterior_against_brute_force(error) -> None:
    n, at = [1000.0, 4000.0, 64000.0], 16000.0
    prior = Prior(noise=(0.02, 0.06), noises=2)
    weight, first, second, alpha, share = brute_force(n, np.log(error), prior, at)
    found = posterior([points(n, error)], prior, n[0], count=4000)
    item, mass = found.groups[0], plain_weight(found)[0]
    assert found.weight == pytest.approx(weight.sum(axis=(1, 2)), abs=0.005)
    moments = [(item.log_error(at), first, second)]
    moments += [
        (own, float((weight * x).sum()), float((weight * x**2).sum()))
        for own, x in ((item.alpha, alpha), (item.share, share))
    ]
    for own, mean, square in moments:
        spread = np.sqrt(square - mean**2)
        assert float((mass * own).sum()) == pytest.approx(mean, abs=0.02 * spread)
        assert float(np.sqrt((mass * (own - mean) ** 2).sum())) == pytest.approx(spread, rel=0.02)
    near, far = (share + (1 - share) * (size / n[0]) ** -alpha for size in (64e3, 64e4))
    more = 1 - far / near >= 0.1
    likely = float((weight * more).sum())
    question = MoreOrDifferent(64e3, zone=0.0)
    assert float((mass * question.right(found)[0, 0]).sum()) == pytest.approx(likely, abs=0.006)
    # both answers are equally likely a priori
    odds = likely / (1 - likely) * (1 - more.mean()) / more.mean()
    assert float((question.weight(found)[0] * question.right(found)[0, 0]).sum()) == pytest.approx(
        odds / (1 + odds), abs=0.01
    )
    few = posterior([points(n, error)], prior, n[0])  # as many particles as are used
    assert float((question.weight(few)[0] * question.right(few)[0, 0]).sum()) == pytest.approx(
        odds / (1 + odds), abs=0.02
    )


def test_truth_is_ranked_evenly_among_particles() -> None:
    """Curves drawn from the prior: the truth's rank in the posterior is uniform, so that intervals cover."""
    rng, prior, ranks = np.random.default_rng(5), Prior(noise=(0.01, 0.04), noises=3), {"far": [], "alpha": []}
    for _ in range(300):
        likely = prior.noise_values**prior.lean
        alpha, share = rng.uniform(*prior.alpha), rng.uniform()
        noise = rng.choice(prior.noise_values, p=likely / likely.sum())
        n = np.sort(1000 * 2.0 ** rng.choice(7, rng.integers(2, 6)))
        level = np.log(prior.error) + prior.spread * rng.standard_normal()

        def law(size, level=level, share=share, alpha=alpha):
            return level + np.log(share + (1 - share) * (size / 1000) ** -alpha)

        item = Points("a", n, law(n) + noise * rng.standard_normal(len(n)), np.ones(len(n)))
        others = Points("b", np.array([1000.0]), np.array([np.log(prior.error)]), np.ones(1))
        found = posterior([item, others], prior, 1000.0)
        mass = plain_weight(found)[0]
        ranks["far"].append(float((mass * (found.groups[0].log_error(256e3) < law(256e3))).sum()))
        ranks["alpha"].append(float((mass * (found.groups[0].alpha < alpha)).sum()))
    for values in ranks.values():
        assert stats.kstest(values, "uniform").pvalue > 0.01
        inside = sum(0.1 < value < 0.9 for value in values)
        assert stats.binomtest(inside, len(values), 0.8).pvalue > 0.002


def test_no_run_gives_the_prior() -> None:
    prior = Prior()
    found = posterior([Points("a", np.zeros(0), np.zeros(0), np.zeros(0))], prior, 1000.0)
    item = found.groups[0]
    likely = np.sqrt(prior.noise_values)
    assert found.weight == pytest.approx(likely / likely.sum())
    assert item.alpha.mean() == pytest.approx(np.mean(prior.alpha), abs=0.01)
    assert item.share.mean() == pytest.approx(0.5, abs=0.02)
    assert item.level.mean() == pytest.approx(np.log(prior.error), abs=0.02)
    assert item.level.std() == pytest.approx(prior.spread, rel=0.05)


def test_groups_share_the_noise() -> None:
    rng = np.random.default_rng(2)
    n = np.repeat(1000 * 2.0 ** np.arange(7), 4)
    quiet = points(n, 0.3 * np.exp(0.01 * rng.standard_normal(len(n))))
    few = points([1000.0, 2000.0], [0.3, 0.28], "b")
    together, by_itself = posterior([quiet, few], Prior(), 1000.0), posterior([few], Prior(), 1000.0)
    assert together.weight @ together.noise == pytest.approx(0.01, rel=0.3)
    spread = [
        float(np.sqrt(found.weight @ found.groups[-1].log_error(2000.0).var(axis=1))) for found in (together, by_itself)
    ]
    assert spread[0] < 0.6 * spread[1]


def test_runs_without_pre_training_are_compared_draw_by_draw() -> None:
    """Draws scatter by 10 %; on the draws of the other runs this cancels, on draws of their own it does not."""
    frame = results({"a": falling(0.3, 0.2)}, 0.13, seed=3, draw_noise=0.1, run_noise=0.002, pretrain_noise=0.002)
    own = points_of_group(groups(frame)[0])
    assert own.scratch.std() < 0.01
    assert own.scratch.mean() == pytest.approx(np.log(frame["error"][:3]).mean(), abs=1e-9)
    assert own.scratch_variance == 0
    frame.loc[frame["pretrain_images"] == 0, "draw_seed"] = [7, 8, 9]
    other = points_of_group(groups(frame)[0])
    assert other.scratch_variance == pytest.approx(np.var(np.log(frame["error"][:3]), ddof=1) / 3)
    assert other.scratch_variance > 0.01**2


def test_fine_tunings_of_one_pre_training_are_one_point() -> None:
    table = groups(results({"a": falling(0.3, 0.2)}, 0.13, seed=3))[0]
    item = points_of_group(table)
    assert list(item.n) == [64, 128, 256, 512, 1024, 2048]
    assert list(item.runs) == [3] * 6
    assert item.seeds == ("0",) * 6
    assert np.sqrt(item.run_variance) == pytest.approx(0.015, rel=0.5)
    assert len(item.scratch) == 3
    empty = points_of_group(group_without_runs("new"))
    assert (len(empty.n), len(empty.scratch), empty.label) == (0, 0, "new")


def test_one_fine_tuning_each_tells_nothing_of_its_variance() -> None:
    frame = pd.DataFrame({"pretrain_images": [100, 200, 400], "error": [0.3, 0.2, 0.15], "pretrain_seed": [0, 1, 0]})
    item = points_of_group(groups(frame)[0])
    assert item.run_variance is None
    assert item.seeds == ("0", "1", "0")
    assert list(item.extra) == [0, 0, 0]


def test_one_table_gives_one_posterior_to_the_bit() -> None:
    from lightning_tl.laws import posterior as module

    values = []
    for _ in range(2):
        module._drawn.cache_clear()
        module._column.cache_clear()
        found = posterior([points([1000.0, 2000.0, 64000.0], [0.3, 0.25, 0.2])], Prior(), 1000.0)
        values.append((found.weight.tobytes(), found.groups[0].log_error(5e5).tobytes()))
    assert values[0] == values[1]


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ({"alpha": (0.0, 1.0)}, "prior of alpha is 0 to 1; give two numbers over 0, the smaller first"),
        ({"noise": (0.1, 0.01)}, "prior of noise is 0.1 to 0.01; give two numbers over 0, the smaller first"),
    ],
)
def test_wrong_prior(prior, message) -> None:
    with pytest.raises(UserError) as error:
        Prior(**prior)
    assert str(error.value) == message
