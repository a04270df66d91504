"""The bootstrap by cluster: against refits one by one, and what is resampled together."""

from __future__ import annotations

import time

import numpy as np
import pytest

from lightning_tl.errors import UserError
from lightning_tl.laws import FullLaw, PowerLaw, TransferLaw, fit
from lightning_tl.laws.bootstrap import bootstrap

SIZES = 1000 * 2.0 ** np.arange(7)


def noisy(seed: int, noise: float = 0.01) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (2 * SIZES**-0.5 + 0.05) * np.exp(noise * rng.standard_normal(len(SIZES)))


@pytest.mark.parametrize("space", ["log", "linear"])
def test_batched_refits_equal_single_ones(space: str) -> None:
    law = fit(n=SIZES, error=noisy(1), space=space)
    boot = bootstrap(law, 12, seed=3)
    residual = law.search.problem.target - (law.predict(SIZES) if space == "linear" else np.log(law.predict(SIZES)))
    picked = np.random.default_rng(3).integers(7, size=(12, 7))
    for i in range(12):
        target = law.predict(SIZES) + (residual * np.sqrt(7 / 4))[picked[i]]
        if space == "log":
            target = np.exp(np.log(law.predict(SIZES)) + (residual * np.sqrt(7 / 4))[picked[i]])
        again = fit(n=SIZES, error=target, space=space)
        for name in law.params:
            assert boot.samples[name][i] == pytest.approx(again.params[name], rel=2e-3)


def test_power_law_standard_error() -> None:
    """The bootstrap's spread is the standard error of regression, less the degrees of freedom's share."""
    law = fit(PowerLaw(), n=np.tile(SIZES, 8), error=np.tile(noisy(2), 8) * np.exp(
        0.02 * np.random.default_rng(0).standard_normal(56)))  # fmt: skip
    boot = bootstrap(law, 4000)
    assert boot.samples["alpha"].std() == pytest.approx(law.stderr["alpha"], rel=0.06)
    assert boot.interval("alpha") == pytest.approx(law.interval("alpha"), rel=0.02)


def test_draws_strike_all_sizes_alike() -> None:
    rng = np.random.default_rng(4)
    n, draw = np.repeat(SIZES, 4), np.tile(np.arange(4), 7)
    error = (2 * n**-0.5 + 0.05) * np.exp(0.2 * rng.standard_normal(4)[draw] + 0.001 * rng.standard_normal(28))
    boot = bootstrap(fit(n=n, error=error, draw=draw), 2000)
    assert np.corrcoef(np.log(boot.samples["D"]), np.log(boot.samples["C"]))[0, 1] > 0.95
    assert boot.samples["alpha"].std() < 0.01
    spread = boot.law.cells.draw_variance**0.5
    assert np.log(boot.samples["C"]).std() == pytest.approx(spread, rel=0.1)


def test_runs_of_one_pretraining_are_resampled_together() -> None:
    """Luck shared over fine-tuning sizes: alpha is as uncertain as its pre-training runs are."""
    rng = np.random.default_rng(5)
    n, s = (grid.ravel() for grid in np.meshgrid(SIZES, [100.0, 400.0, 1600.0, 6400.0], indexing="ij"))
    luck = np.repeat(0.03 * rng.standard_normal(7), 4) + 0.002 * rng.standard_normal(28)
    error = 4 * (0.05 + n**-0.5) * s**-0.3 * np.exp(luck)
    law = fit(FullLaw(), n=n, s=s, error=error)
    assert law.shared > 1
    together = bootstrap(law, 1000).samples
    law.shared = 0.0
    apart = bootstrap(law, 1000).samples
    assert np.log(together["delta"]).std() > 1.3 * np.log(apart["delta"]).std()
    assert together["beta"].std() < apart["beta"].std()


def test_answers_and_reproducibility() -> None:
    law = fit(n=SIZES, error=noisy(6))
    boot = bootstrap(law, 300, seed=1)
    assert boot.count == 300
    assert boot.samples["C"] == pytest.approx(bootstrap(law, 300, seed=1).samples["C"])
    assert not np.allclose(boot.samples["C"], bootstrap(law, 300, seed=2).samples["C"])
    low, high = boot.interval("C")
    assert boot.probability_above("C", low) == pytest.approx(0.975, abs=0.01)
    errors = boot.predict(1e6)
    assert errors == pytest.approx(boot.samples["D"] * 1e6 ** -boot.samples["alpha"] + boot.samples["C"])
    assert low < high < errors.max() + 0.05


def test_wrong_requests() -> None:
    with pytest.raises(UserError, match="0 bootstrap resamples; give 1 or more"):
        bootstrap(fit(n=SIZES, error=noisy(7)), 0)
    with pytest.raises(UserError, match="3 points leave no residuals to resample"):
        bootstrap(fit(TransferLaw(), n=SIZES[:3], error=[0.3, 0.2, 0.15]), 10)


def test_sixty_groups_in_twenty_seconds() -> None:
    start = time.process_time()
    for seed in range(6):
        law = fit(n=SIZES, error=noisy(seed))
        boot = bootstrap(law, 1000)
        for name in law.params:
            law.interval(name)
            boot.interval(name)
    assert 10 * (time.process_time() - start) < 40  # CPU seconds of two cores
