"""What the choice of the test images adds to intervals, against worlds whose errors on all images are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtri

from lightning_tl.errors import UserError
from lightning_tl.laws.advice import advise
from lightning_tl.laws.compare import compare, log_ratio
from lightning_tl.laws.error_sources import error_sources
from lightning_tl.laws.fitting import fit_cells, points_of
from lightning_tl.laws.forms import TransferLaw
from lightning_tl.laws.group_fits import analyse
from lightning_tl.laws.image_sampling import of_runs, read_replicates, variance_of_difference
from lightning_tl.laws.image_weights import other_variance, weighted_by_images
from lightning_tl.laws.results_table import groups
from lightning_tl.laws.terms import Terms
from lightning_tl.laws.wording import comparison_sentence

from .tested_worlds import SIZES, World, law

TRUE = {"a": (0.2, 0.5, 0.1), "b": (0.22, 0.5, 0.1)}


def world(images=800, seed=0, names=("a", "b"), scratch=False, noise=0.02, **more):
    simulated = World(np.random.default_rng(seed), images, seed_noise=noise, **more)
    for name in names:
        for n in SIZES:
            simulated.run(name, n, law(n, *TRUE[name]))
    if scratch:
        simulated.run("", 0, 0.3)
    return simulated


def fits_of(simulated, replicates=True):
    return analyse(groups(simulated.table(), replicates=simulated.replicates if replicates else None))


def without_images(simulated):
    return analyse(groups(simulated.table().drop(columns=["error_stderr", "test_set"])))


def runs_of(simulated, group):
    table = pd.DataFrame(simulated.rows)
    return table[table["render"] == group]


def test_the_shared_variance_is_that_of_errors_on_many_test_sets():
    """Against 400 test sets: the same networks, so to speak, as difficulties and luck are drawn anew at equal p."""
    images, alike = 400, 0.6
    p = law(np.array(SIZES), *TRUE["a"])
    rng = np.random.default_rng(1)
    means = []
    for _ in range(2000):
        hard, luck = rng.standard_normal(images), rng.standard_normal((len(p), images))
        wrong = alike**0.5 * hard + (1 - alike) ** 0.5 * luck > -ndtri(p)[:, None]
        means.append(np.log(wrong.mean(1)))
    covariance = np.cov(np.array(means).T)
    shared = covariance[~np.eye(len(p), dtype=bool)].mean()
    known = [
        of_runs(runs_of(simulated, "a"), simulated.replicates).variance
        for simulated in (world(images, seed, ("a",), noise=0, alike=alike) for seed in range(40))
    ]
    assert np.mean(known) == pytest.approx(shared, rel=0.1)


def test_the_level_becomes_less_certain_and_the_rate_does_not():
    simulated = world()
    with_images = fits_of(simulated)[0].law
    without = fit_cells(TransferLaw(), replace(with_images.cells, image_variance=0.0))
    variance = of_runs(runs_of(simulated, "a"), simulated.replicates).variance
    assert with_images.interval("alpha") == without.interval("alpha")
    low, high = (float(np.log(end[0])) for end in with_images.band(SIZES[-1]))
    centre = float(np.log(with_images.predict(SIZES[-1])[0]))
    plain = [float(np.log(end[0])) for end in without.band(SIZES[-1])]
    wider = 1.959964 * variance**0.5
    assert centre - low == pytest.approx(np.hypot(centre - plain[0], wider), rel=1e-6)
    assert high - centre == pytest.approx(np.hypot(plain[1] - centre, wider), rel=1e-6)
    assert with_images.interval("C")[1] > without.interval("C")[1]
    assert with_images.stderr["C"] > without.stderr["C"]
    for one, other in zip(with_images.log_ratio(1000, 64_000), without.log_ratio(1000, 64_000), strict=True):
        assert one == pytest.approx(other, rel=1e-6)


def test_confidence_takes_the_test_images_into_account():
    """Where the target is below the law, it is less certain that the law stays above it."""
    with_images = fits_of(world(images=300))[0].law
    without = fit_cells(TransferLaw(), replace(with_images.cells, image_variance=0.0))
    target = float(with_images.predict(64_000)[0]) * 0.8
    assert 0.5 < with_images.probability_error_above(64_000, target) < without.probability_error_above(64_000, target)


@pytest.mark.slow
@pytest.mark.parametrize("images", [500, 2000])
def test_coverage(images):
    """Of 150 worlds; without the test images' share, intervals of the smaller test sets are far too narrow."""
    inside, narrow, differences = [], [], []
    for seed in range(150):
        simulated = world(images, seed, noise=0.01)
        first, second = fits_of(simulated)
        plain = without_images(simulated)[0]
        truth = law(SIZES[-1], *TRUE["a"])
        for found, item in ((inside, first), (narrow, plain)):
            low, high = (float(end[0]) for end in item.law.band(SIZES[-1]))
            found.append(low <= truth <= high)
        low, high = log_ratio(first, SIZES[-1], second, SIZES[-1]).interval
        differences.append(low <= np.log(truth / law(SIZES[-1], *TRUE["b"])) <= high)
    # three standard errors of a share of 150 about 93 to 97 %
    assert 0.93 - 0.06 <= np.mean(inside) <= 1
    assert np.mean(narrow) < np.mean(inside) - 0.05
    assert 0.93 - 0.06 <= np.mean(differences) <= 1


def test_the_same_images_narrow_a_difference():
    simulated = world(alike=0.9)
    first, second = fits_of(simulated)
    pair = compare(first, second)
    assert pair.same_images
    assert pair.wider_unpaired > 1.2
    apart = first.group.images.variance + second.group.images.variance
    assert variance_of_difference(first.group.images, second.group.images) < apart / 2
    low, high = pair.log_ratio.interval
    unpaired = log_ratio(first, pair.n, second, pair.n, apart).interval
    assert pair.wider_unpaired == pytest.approx((unpaired[1] - unpaired[0]) / (high - low))
    wider = f"{100 * (pair.wider_unpaired - 1):.0f} % wider"
    assert f"; paired by test image (unpaired, the interval would be {wider})." in comparison_sentence(pair, Terms())


def test_without_replicates_the_worst_case_is_taken():
    simulated = world()
    known, worst = (of_runs(runs_of(simulated, "a"), replicates) for replicates in (simulated.replicates, {}))
    table = runs_of(simulated, "a")
    assert worst.variance == pytest.approx(float((table["error_stderr"] / table["error"]).mean()) ** 2)
    assert worst.variance > known.variance
    assert variance_of_difference(worst, worst) == pytest.approx(2 * worst.variance)


def test_other_test_images_are_not_paired():
    simulated = world()
    first, second = (of_runs(runs_of(simulated, name), simulated.replicates) for name in "ab")
    table = runs_of(simulated, "b").assign(test_set="others")
    others = of_runs(table, simulated.replicates)
    assert variance_of_difference(first, others) == pytest.approx(first.variance + others.variance)
    assert variance_of_difference(first, second) < variance_of_difference(first, others)


def test_sources_of_uncertainty():
    few, many = (error_sources(fits_of(world(i, noise=x))[0]) for i, x in ((200, 0.01), (20_000, 0.05)))
    for sources in (few, many):
        assert sum(sources.shares.values()) == pytest.approx(1)
    assert few.shares["test images"] > 0.4 > 0.3 > many.shares["test images"]
    sentences = " ".join(advise(fits_of(world(200, noise=0.01))).groups[0].sentences)
    share = 100 * few.shares["test images"]
    assert f"and {share:.0f} % from test images; more test images narrow it most." in sentences


def test_a_table_without_standard_errors_has_no_test_images():
    simulated = world(names=("a",))
    table = simulated.table().drop(columns="error_stderr")
    assert groups(table)[0].images is None
    assert error_sources(analyse(groups(table))[0]) is None


def test_what_the_images_do_to_each_run_by_itself():
    """Against runs whose luck on each image is independent: then nothing is in common."""
    rng, p, images = np.random.default_rng(2), np.array([0.3, 0.2, 0.1, 0.05]), 4000
    wrong = (rng.random((4, images)) < p[:, None]).astype(float)
    weights = rng.multinomial(images, np.full(images, 1 / images), size=400)
    runs = pd.DataFrame({"run_id": list("abcd"), "error": p, "test_set": "all"})
    drawn = wrong @ weights.T / images
    known = of_runs(runs, dict(zip("abcd", drawn, strict=True)))
    seen = wrong.mean(1)
    assert known.each == pytest.approx((1 - seen) / seen / images, rel=0.25)
    assert known.variance < known.each.mean() / 4


def test_other_test_images_for_each_run_leave_nothing_in_common():
    table = runs_of(world(), "a")
    table = table.assign(test_set=[str(i) for i in range(len(table))])
    images = of_runs(table, {})
    assert images.variance == 0
    assert images.each == pytest.approx(((table["error_stderr"] / table["error"]) ** 2).to_numpy())


def test_variance_besides_a_known_one():
    """Against its definition, and a sample of a million residuals."""
    rng = np.random.default_rng(0)
    known = rng.uniform(0.5, 4.0, 1_000_000)
    residuals = np.sqrt(2.0 + known) * rng.standard_normal(len(known))
    assert other_variance(residuals, known, len(known)) == pytest.approx(2.0, rel=0.02)
    few = residuals[:6]
    found = other_variance(few, known[:6], 2)
    assert np.sum(few**2 / (found + known[:6])) == pytest.approx(2)
    assert other_variance(few, known[:6] * 1000, 3) == 0


def test_weights_bring_predictions_nearer():
    """Sizes of which the two largest were tested on few images; the same tables with and without weights."""
    images = np.array([20_000] * 5 + [500] * 2)
    off = {True: [], False: []}
    for seed in range(40):
        rng = np.random.default_rng(seed)
        real = law(SIZES, *TRUE["a"]) * np.exp(0.02 * rng.standard_normal(len(SIZES)))
        error = rng.binomial(images, real) / images
        points = points_of(TransferLaw(), SIZES, error, own_image_variance=(1 - error) / error / images)
        for weighted in off:
            cells = weighted_by_images(TransferLaw(), [points])[0] if weighted else points
            off[weighted].append(np.log(fit_cells(TransferLaw(), cells).predict(64_000)[0] / law(64_000, *TRUE["a"])))
    assert np.std(off[True]) < 0.8 * np.std(off[False])
    same = points_of(TransferLaw(), SIZES, error, own_image_variance=np.full(7, 1e-3))
    assert weighted_by_images(TransferLaw(), [same])[0] is same


def test_a_new_run_is_free_of_the_test_images_luck():
    """Few images and pre-trainings that scatter little: what is seen about the curve is mostly the images."""
    law_with = fits_of(world(300, noise=0.005, alike=0.2))[0].law
    plain = fit_cells(TransferLaw(), replace(law_with.cells, own_image_variance=None))
    inner, outer = (np.log(np.divide(*item.predict_interval([64_000])[::-1]))[0] for item in (law_with, plain))
    assert inner < 0.9 * outer
    assert inner >= np.log(np.divide(*law_with.band([64_000])[::-1]))[0] - 1e-9


def test_the_file_beside_the_table(tmp_path):
    assert read_replicates(tmp_path / "results.csv") == {}
    path = tmp_path / "error_replicates.csv"
    path.write_text("run_id,1,2\na,0.1,0.2\nb,0.3,\nc,0,0.1\n")
    assert {name: values.tolist() for name, values in read_replicates(tmp_path / "results.csv").items()} == {
        "a": [0.1, 0.2]
    }
    for text in ("run_id,1\na,x\n", "name,1\na,0.1\n", ""):
        path.write_text(text)
        with pytest.raises(UserError, match=r"error_replicates.csv is no table of replicates .*delete it"):
            read_replicates(tmp_path / "results.csv")
