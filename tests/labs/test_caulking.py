from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_tl.cli.main import main
from lightning_tl.errors import UserError
from lightning_tl.labs import caulking_lora
from lightning_tl.labs.caulking import Caulking
from lightning_tl.labs.caulking_lora import Adapted
from lightning_tl.labs.caulking_theory import KernelRidge, low_rank_error, samples_needed
from lightning_tl.labs.crossings import crossing, power
from lightning_tl.labs.interpolation import nearest_interpolator
from lightning_tl.labs.ridge_equivalent import equivalent

SMALL = Caulking(d=1000, samples=160, draws=8, sizes=(1.0, 3.0))


@pytest.mark.parametrize("shape", [(20, 50), (50, 20)])
def test_ridge_minimises_its_objective(shape):
    rng = np.random.default_rng(0)
    features, start = rng.standard_normal(shape), rng.standard_normal(shape[1])
    labels = rng.standard_normal(shape[0])
    found = nearest_interpolator(features, labels, start, 0.3)
    gradient = features.T @ (features @ found - labels) / shape[0] + 0.3 * (found - start)
    np.testing.assert_allclose(gradient, 0, atol=1e-10)


def test_the_best_ridge_is_that_of_a_brute_force_search():
    kernel = KernelRidge(np.arange(1, 501) ** -1.5)
    squares = np.arange(1, 501) ** -2.2
    ridges = np.geomspace(1e-4, 1, 1000)
    errors = [equivalent(kernel.eigenvalues, 60, rho).risk(squares / kernel.eigenvalues, 0.01) for rho in ridges]
    assert kernel.error(squares, 60, 0.01) == pytest.approx(min(errors), rel=1e-6)
    assert kernel.ridge(squares, 60, 0.01) == pytest.approx(ridges[np.argmin(errors)], rel=0.01)
    assert kernel.ridge(squares, 60, 0.0) == 0


@pytest.mark.parametrize("decay,target_decay", [(2.0, 2.5), (1.6, 1.8), (1.3, 3.9)])
def test_predicted_powers_are_those_of_the_learning_curves(decay, target_decay):
    # asymptotic powers: few of many eigenfunctions are learnt; the last case is limited by the kernel's decay
    lab = Caulking(d=100_000, decay=decay, target_decay=target_decay, noise=1e-4, samples=800)
    targets = lab.targets()
    for residual in lab.residuals()[:3:2]:
        needed = [lab.needed(residual, m, targets[residual.name]) for m in lab.sizes]
        assert power(lab.sizes, needed)[0] == pytest.approx(residual.exponent, abs=0.03)


def test_noise_leaves_the_power_as_it_is():
    lab = Caulking(d=100_000, noise=0.1, samples=20_000)
    residual = lab.residuals()[1]
    target = lab.targets()[residual.name]
    needed = [lab.needed(residual, m, target) for m in (1.0, 4.0)]
    assert power((1.0, 4.0), needed)[0] == pytest.approx(residual.exponent, abs=0.03)


@pytest.fixture(scope="module")
def simulated():
    return SMALL._kernel()


def test_theory_and_simulation_agree(simulated):
    for item in simulated:
        assert item.agreement != "disagrees", item
        assert item.simulation == pytest.approx(item.theory, rel=0.04)


def test_a_smaller_residual_may_need_as_many_samples(simulated):
    known = [item for item in simulated if item.part == "samples" and item.case == "first functions known"]
    squares = SMALL.residuals()[3].squares
    assert squares(3.0).sum() < 0.3 * squares(1.0).sum()
    assert known[1].simulation > 0.95 * known[0].simulation


@pytest.mark.parametrize(
    "wrong",
    [
        lambda solved, squares, noise: solved.shrinkage * np.sum(squares),
        lambda solved, squares, noise: (
            right_risk(solved, squares, noise) * (1 - solved.second_degrees / solved.samples)
        ),
        lambda solved, squares, noise: right_risk(solved, squares, 0.5 * noise),
    ],
)
def test_a_wrong_learning_curve_disagrees(simulated, wrong):
    verdicts = set()
    for item in (one for one in simulated if one.part == "error"):
        residual = next(one for one in SMALL.residuals() if one.name == item.case)
        kernel, squares = SMALL.kernel(), residual.squares(item.at)
        s = round(SMALL.needed(residual, item.at, SMALL.targets()[residual.name]))
        theory = wrong(kernel.solved(squares, s, residual.noise), squares / kernel.eigenvalues, residual.noise)
        verdicts.add(type(item)(**{**vars(item), "theory": theory, "allowed": 0.02 * theory}).agreement)
    assert "disagrees" in verdicts


def right_risk(solved, squares, noise):
    return solved.risk(squares, noise)


def test_a_wrong_power_disagrees(simulated):
    for item in (one for one in simulated if one.part == "exponent" and "noisy" not in one.case):
        assert type(item)(**{**vars(item), "theory": item.theory + 0.1}).agreement == "disagrees"


def reduced_rank(features, labels, rank):
    """Return the least squares matrix of a rank in closed form (Izenman 1975): project on the fit's leading outputs."""
    full = np.linalg.lstsq(features, labels, rcond=None)[0]
    leading = np.linalg.svd(features @ full, full_matrices=False)[2][:rank]
    return full @ leading.T @ leading


@pytest.mark.parametrize(
    # in the last case outputs outside the residual have most of the error
    "rank,samples,inputs,outputs",
    [(1, 40, 20, 12), (3, 60, 20, 12), (6, 200, 20, 12), (4, 20, 6, 40)],
)
def test_the_error_of_low_rank_updates_is_that_of_reduced_rank_regression(rank, samples, inputs, outputs):
    rng, errors, noise = np.random.default_rng(1), [], 0.004 if outputs > inputs else 0.02
    for _ in range(600):
        left, right = (np.linalg.qr(rng.standard_normal((size, rank)))[0] for size in (outputs, inputs))
        truth, features = right @ left.T, rng.standard_normal((samples, inputs))
        labels = features @ truth + noise * rng.standard_normal((samples, outputs))
        errors.append(np.sum((reduced_rank(features, labels, rank) - truth) ** 2))
    stderr = np.std(errors) / 600**0.5
    theory = low_rank_error(rank, inputs, outputs, samples, noise**2)
    assert stderr < 0.02 * theory
    assert np.mean(errors) == pytest.approx(theory, abs=0.01 * theory + 3 * stderr)


def test_many_samples_leave_one_error_per_free_parameter():
    assert low_rank_error(5, 30, 20, 1e9, 0.1) == pytest.approx(0.1 * 5 * (30 + 20 - 5) / 1e9, rel=1e-6)
    assert low_rank_error(20, 30, 20, 500, 0.1) == pytest.approx(0.1 * 20 * 30 / (500 - 31))  # full rank: least squares


def test_trained_lora_is_the_least_squares_matrix_of_its_rank():
    rng = np.random.default_rng(2)
    before, features = rng.standard_normal((7, 9)), rng.standard_normal((50, 9))
    truth = rng.standard_normal((9, 2)) @ rng.standard_normal((2, 7))
    labels = features @ (before.T + truth) + 0.1 * rng.standard_normal((50, 7))
    tensors = [torch.from_numpy(array) for array in (before, features, labels)]
    state = torch.get_rng_state()
    layer = caulking_lora._trained(*tensors, lambda hidden: hidden, 2, seed=3)
    assert torch.equal(state, torch.get_rng_state())
    with torch.no_grad():
        update = layer(torch.eye(9, dtype=torch.float64)).numpy() - before.T
    np.testing.assert_allclose(update, reduced_rank(features, labels - features @ before.T, 2), atol=1e-5)


@pytest.mark.parametrize("heads,samples", [(0, 150), (20, 1500)])
def test_lora_has_the_predicted_error(heads, samples):
    network = Adapted(20, 20, heads, 0.01, samples)
    errors = network.errors(np.random.default_rng(4), 6, [samples], 8)[:, 0]
    stderr = errors.std(ddof=1) / 8**0.5
    theory = network.theory(6, samples)
    assert stderr < 0.06 * theory
    assert errors.mean() == pytest.approx(theory, abs=0.03 * theory + 2.5 * stderr)
    assert (
        abs(errors.mean() / (theory * 40 / 34) - 1) > 2.5 * stderr / theory
    )  # r (d_in + d_out) parameters are too many


def test_all_weights_take_no_notice_of_the_rank():
    network = Adapted(12, 12, 0, 0.01, 100)
    for rank in (1, 6):
        errors = network.errors(np.random.default_rng(5), rank, [100], 30, low_rank=False)[:, 0]
        assert errors.mean() == pytest.approx(network.full_theory(100), rel=0.08)


def test_crossings_and_powers_of_exact_curves():
    sizes = np.array([80.0, 100, 125])
    curve = 7 * sizes**-1.3
    value, stderr = crossing(sizes, np.stack([curve, curve, curve]), 7 * 110**-1.3)
    assert value == pytest.approx(110)
    assert stderr == pytest.approx(0, abs=1e-9)
    rng = np.random.default_rng(6)
    found = [crossing(sizes, curve * np.exp(0.1 * rng.standard_normal((20, 3))), 7 * 100**-1.3) for _ in range(300)]
    assert np.std([value for value, _ in found]) == pytest.approx(np.mean([stderr for _, stderr in found]), rel=0.15)
    assert power([1, 2, 4], [3, 3 * 2**-0.8, 3 * 4**-0.8])[0] == pytest.approx(0.8)
    drawn = [power([1, 2, 4], np.exp(0.1 * rng.standard_normal(3)))[0] for _ in range(2000)]
    assert np.std(drawn) == pytest.approx(power([1, 2, 4], [1, 1, 1], [0.1, 0.1, 0.1])[1], rel=0.1)


def test_an_error_out_of_reach_is_refused():
    with pytest.raises(UserError, match=r"the error 0.001 is not reached between 2 and 50 samples; choose sizes"):
        samples_needed(lambda s: 1 / s, 0.001, 2, 50)


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--sizes", "[2.0,2.0]"], "sizes has a single value; a power needs at least two different ones"),
        (["--sizes", "[1,20]"], "sizes is 20; it must be from 1 to 8"),
        (["--samples", "1000"], "samples is 1000; it must be from 40 to 750"),
        (["--d", "100"], "d is 100; it must be from 160 to 5000"),
        (["--rank", "0"], "rank is 0; it must be from 1 to 12"),
        (["--decay", "1"], "decay is 1; it must be from 1.05 to 3"),
    ],
)
def test_one_sentence_for_each_wrong_parameter(capsys, tmp_path, arguments, message):
    assert main(["lab", "caulking", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_the_lab_gives_figures_and_paragraphs(monkeypatch):
    small = {"linear layer": Adapted(6, 6, 0, 0.01, 60), "tanh network": Adapted(5, 6, 6, 0.01, 150)}
    monkeypatch.setattr(Caulking, "layers", staticmethod(lambda: small))
    outcome = Caulking(d=300, samples=60, draws=2, sizes=(1.0, 2.0), rank=2, lora_draws=2).run()
    assert set(outcome.draw()) == set(outcome.captions) == {"kernel", "lora"}
    assert {item.part for item in outcome.comparisons} >= {"error", "samples", "exponent", "circle"}
    assert "Powers of m" in outcome.paragraphs[2]
