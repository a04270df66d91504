from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import minimize

from lightning_tl.errors import UserError
from lightning_tl.labs import incremental_features, incremental_features_callbacks
from lightning_tl.labs.incremental_features import IncrementalFeatures
from lightning_tl.labs.incremental_features_analysis import (
    analyse_study,
    analysed,
    features,
    found,
    inside,
    noise_curve,
    steps,
    tuned_curve,
)
from lightning_tl.labs.incremental_features_callbacks import with_theory
from lightning_tl.labs.incremental_features_flow import flow, loss, world
from lightning_tl.labs.incremental_features_studies import simulate
from lightning_tl.labs.incremental_features_theory import (
    PULL_FACTOR,
    effective_starts,
    equilibrium,
    learning_times,
    noise_rise,
    noisy_losses,
    strength,
    trace,
    tuned_losses,
    tuned_strength,
    turn,
    vertex,
)
from lightning_tl.labs.outcome_files import write_outcome
from lightning_tl.measure import Objective, hessian_trace, perturbation_sensitivity

SMALL = IncrementalFeatures(
    spectrum=(1.2, 0.6, 0.2, 0.08),
    steady_spectrum=(1.6, 1.0, 0.6),
    gamma=0.21,
    shift=0.35,
    pulls=(0.0, 1.0),
    pretrainings=3,
    finetunings=2,
    noise_draws=16,
    studies=3,
)
DEFAULT = IncrementalFeatures()


def random_network(d=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((d, d)), rng.standard_normal((d, d)), rng.standard_normal((d, d))


def scaled_loss(target, scales):
    """The loss as a function of weights in units of the noise's scales."""

    def value(flat):
        d = len(target)
        first, second = flat[: d**2].reshape(d, d) * scales[0], flat[d**2 :].reshape(d, d) * scales[1]
        return (first @ second - torch.from_numpy(target)).square().sum()

    return value


@pytest.mark.parametrize("scales", [(1.0, 1.0), (0.5, 1.7)])
def test_trace_and_rise_under_noise_are_those_of_derivatives(scales):
    first, second, target = random_network()
    value = scaled_loss(target, scales)
    flat = torch.from_numpy(np.concatenate([first.ravel() / scales[0], second.ravel() / scales[1]]))

    def laplacian(at):
        return torch.autograd.functional.hessian(value, at, create_graph=True).trace()

    second_order = float(laplacian(flat).detach())
    fourth_order = float(torch.autograd.functional.hessian(laplacian, flat).trace())
    assert trace(first, second, scales) == pytest.approx(second_order, rel=1e-10)
    # the mean over Gaussian noise of a polynomial of degree four
    rise = 0.3**2 * second_order / 2 + 0.3**4 * fourth_order / 8
    assert noise_rise(first, second, 0.3, scales) == pytest.approx(rise, rel=1e-10)


def test_the_library_measures_trace_and_rise_with_unequal_scales():
    first, second, target = random_network(d=3, seed=1)
    module = torch.nn.ParameterList([torch.from_numpy(first), torch.from_numpy(second)])
    scales = dict(zip(("0", "1"), map(torch.tensor, (0.5, 1.7)), strict=True))
    goal = torch.from_numpy(target)
    objective = Objective(module, lambda net, _: (net[0] @ net[1] - goal).square().sum(), [None])
    assert set(objective.params) == set(scales)
    both = {name: scale.double() for name, scale in scales.items()}
    estimate = hessian_trace(objective, 18, scales=both, method="matvec")
    assert estimate.value == pytest.approx(trace(first, second), rel=1e-9)
    assert estimate.weighted is not None
    assert estimate.weighted.value == pytest.approx(trace(first, second, (0.5, 1.7)), rel=1e-6)
    (level,) = perturbation_sensitivity(objective, both, [0.3], draws=100)
    expected = float(noise_rise(first, second, 0.3, (0.5, 1.7)))
    assert abs(level.sensitivity - expected) < 3 * level.stderr
    assert level.stderr < 0.12 * expected


def test_loss_under_noise_after_each_feature():
    place = world((1.2, 0.6, 0.2), 1e-13, np.random.default_rng(2))
    hidden = np.linalg.qr(np.random.default_rng(3).standard_normal((3, 3)))[0]
    for n, expected in enumerate(noisy_losses(place.spectrum, 0.2), 1):
        roots = np.where(np.arange(3) < n, place.spectrum, 0) ** 0.5
        first, second = (place.left * roots) @ hidden, hidden.T @ (roots[:, None] * place.right.T)
        total = loss((first, second), place.matrix(place.spectrum)) + noise_rise(first, second, 0.2)
        assert total == pytest.approx(expected, rel=1e-12)


def test_the_turn_is_after_the_last_feature_above_the_limit():
    rng = np.random.default_rng(4)
    for _ in range(200):
        spectrum = np.sort(rng.uniform(0.05, 1, 6))[::-1]
        limit = rng.uniform(0.02, 0.9)
        above = int(np.sum(spectrum > limit))
        expected = None if above == 6 else max(above, 1)
        assert turn(noisy_losses(spectrum, (limit / 12) ** 0.5)) == expected


def test_strength_solves_its_equation():
    solved = solve_ivp(lambda _, s: 4 * s * (0.7 - s), (0, 9), [1e-5], rtol=1e-10, atol=1e-14, dense_output=True)
    times = np.linspace(0, 9, 20)
    np.testing.assert_allclose(strength(0.7, 1e-5, times), solved.sol(times)[0], rtol=1e-6)
    half = learning_times(np.array([0.7]), np.array([1e-5]))[0]
    assert solved.sol(half)[0] == pytest.approx(0.35, rel=1e-6)


def test_starts_are_those_of_unsaturated_growth():
    # without saturation the features' sizes are the singular values of diag(exp(2σt)) G
    rng = np.random.default_rng(5)
    place = world((1.2, 0.7, 0.4), 1e-13, rng)
    first, second = (one[0] for one in place.random_weights(rng, 1))
    growing = (place.left.T @ first + (second @ place.right).T) / 2
    time = 12.0
    sizes = np.linalg.svd(np.exp(2 * place.spectrum * time)[:, None] * growing, compute_uv=False)
    expected = (sizes * np.exp(-2 * place.spectrum * time)) ** 2
    np.testing.assert_allclose(effective_starts(first, second, place.left, place.right), expected, rtol=1e-3)


def test_expected_times_are_the_mean_over_random_starts():
    rng = np.random.default_rng(8)
    place = world((1.2, 0.7, 0.4), 1e-10, rng)
    times = learning_times(place.spectrum, effective_starts(*place.random_weights(rng, 4000), place.left, place.right))
    stderr = times.std(axis=0) / 4000**0.5
    assert np.all(np.abs(times.mean(axis=0) - place.expected_times()) < 3.5 * stderr)
    assert np.all(stderr < 0.005 * times.mean(axis=0))


def test_fine_tuning_ends_at_the_minimum_with_the_pull():
    # a brute-force minimum over both matrices, from the balanced start
    source, goal = np.array([0.8, 0.3]), np.array([1.1, 0.9])
    start = np.concatenate([np.diag(source**0.5).ravel()] * 2)
    for pull in (0.2, 1.0, 3.0):

        def objective(flat, pull=pull):
            first, second = flat.reshape(2, 2, 2)
            return np.sum((first @ second - np.diag(goal)) ** 2) + pull * np.sum((flat - start) ** 2)

        first, second = minimize(objective, start, method="BFGS", options={"gtol": 1e-9}).x.reshape(2, 2, 2)
        ends = [equilibrium(s, f, pull) for s, f in zip(source, goal, strict=True)]
        np.testing.assert_allclose(np.diag(first @ second), ends, rtol=1e-5)
        late = [tuned_strength(s, f, pull, 60.0) for s, f in zip(source, goal, strict=True)]
        np.testing.assert_allclose(late, ends, rtol=1e-7)


def test_a_feature_harms_exactly_beyond_its_limit():
    rng = np.random.default_rng(6)
    for _ in range(300):
        sigma, goal, pull = rng.uniform(0.1, 1), rng.uniform(0.1, 3), rng.uniform(0, 3)
        harmful = goal > 2 * sigma + (1 - 2**-0.5) * pull
        end = equilibrium(sigma, goal, pull)
        assert ((end - sigma) ** 2 > sigma**2) == harmful
    assert equilibrium(0.4, 0.4, 2.0) == 0.4


def test_without_a_pull_fine_tuning_follows_the_same_law():
    assert tuned_strength(0.3, 0.8, 1e-9, 1.3) == pytest.approx(tuned_strength(0.3, 0.8, 0.0, 1.3), rel=1e-6)


def test_vertex_of_a_parabola():
    budgets = np.array([10.0, 30.0, 70.0, 200.0])
    losses = np.exp(0.3 * (np.log(budgets) - np.log(41.0)) ** 2)
    assert vertex(budgets, losses) == pytest.approx(41.0)
    assert vertex(budgets, losses[::-1] + budgets) == 10.0


def test_the_integration_follows_the_gradient_flow():
    first, second, target = random_network(d=3, seed=7)
    moved = flow((first, second), target, 0.4, 0.02, 0.3)

    def slope(_, flat):
        one, two = flat.reshape(2, 3, 3)
        rest = target - one @ two
        return 2 * np.concatenate(
            [(rest @ two.T - 0.3 * (one - first)).ravel(), (one.T @ rest - 0.3 * (two - second)).ravel()]
        )

    start = np.concatenate([first.ravel(), second.ravel()])
    exact = solve_ivp(slope, (0, 0.4), start, rtol=1e-10, atol=1e-12).y[:, -1].reshape(2, 3, 3)
    np.testing.assert_allclose(moved, exact, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def learnt():
    return DEFAULT._learning()[0]


@pytest.fixture(scope="module")
def studies():
    return simulate(DEFAULT, DEFAULT.spectrum, 10, DEFAULT.random(3), DEFAULT.pulls)


def test_learning_times_within_a_tenth_of_a_percent(learnt):
    assert len(learnt) == len(DEFAULT.spectrum)
    for item in learnt:
        assert item.agreement == "agrees", item
        assert item.simulation == pytest.approx(item.theory, rel=1e-3)


def test_losses_and_pulls_within_two_percent(studies):
    for item in [*DEFAULT._noise(studies), *DEFAULT._fine_tuning(studies), *DEFAULT._harmless_pulls(studies)]:
        assert item.agreement == "agrees", item


def test_the_analysis_finds_the_turns_of_the_theory(studies):
    lab, count = DEFAULT, 10
    answers = [analyse_study(lab, studies, i, studies.noisy[i], 3 if i < 3 else 1) for i in range(count)]
    curves, budgets = [noise_curve(answer) for answer in answers], steps(studies)
    noise = noisy_losses(np.array(lab.spectrum), lab.gamma)
    assert turn(noise) == 3
    assert found(curves, budgets, 3) >= 9
    assert inside(curves, budgets, noise) >= 9
    # the interval says something: it is narrower than the distance between two budgets
    assert max(curve.vertex_interval[1] / curve.vertex_interval[0] for curve in curves) < budgets[3] / budgets[2]
    for pull, expected in zip(lab.pulls, (3, 3, 4), strict=True):
        losses = tuned_losses(np.array(lab.spectrum), lab.target(lab.spectrum), pull, lab.tuning_time)[0]
        assert turn(losses) == expected
        some = answers[: 3 if pull else count]
        assert found([tuned_curve(answer, pull) for answer in some], budgets, expected) >= len(some) - 1
    # a weak pull leaves the turn where it is, a strong one delays it
    late = [item for item in answers[0].delays if item.quantity == "forgotten"]
    assert [item.inflection for item in late] == [(budgets[2], budgets[2]), (budgets[2], budgets[3])]


def test_no_turn_is_claimed_where_there_is_none():
    spectrum, count = DEFAULT.steady_spectrum, 10
    steady = simulate(DEFAULT, spectrum, count, DEFAULT.random(4), DEFAULT.pulls[:1])
    losses = noisy_losses(np.array(spectrum), DEFAULT.gamma)
    assert turn(losses) is None
    answers = [analyse_study(DEFAULT, steady, i, steady.noisy[i], 1) for i in range(count)]
    for curves in ([noise_curve(answer) for answer in answers], [tuned_curve(answer, 0.0) for answer in answers]):
        assert found(curves, steps(steady), None) >= 9
        assert all(curve.verdict == "falls" for curve in curves)
    assert inside([noise_curve(answer) for answer in answers], steps(steady), losses) == count


def test_the_count_of_turns_would_see_a_wrong_theory(studies):
    curves = [noise_curve(analyse_study(DEFAULT, studies, i, studies.noisy[i], 1)) for i in range(3)]
    budgets = steps(studies)
    assert [features(curve, budgets) for curve in curves] == [3, 3, 3]
    # a limit of dγ² or 4dγ² in place of 2dγ²
    for wrong in (DEFAULT.gamma / 2**0.5, DEFAULT.gamma * 2**0.5):
        losses = noisy_losses(np.array(DEFAULT.spectrum), wrong)
        assert found(curves, budgets, turn(losses)) == 0
        assert inside(curves, budgets, losses) == 0
    assert found(curves, budgets, None) == 0


@pytest.fixture(scope="module")
def run():
    """The lab's outcome, and the training that was measured for it."""
    trainings, train = [], incremental_features_callbacks.train

    def keep(lab):
        trainings.append(train(lab))
        return trainings[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(incremental_features_callbacks, "train", keep)
        outcome = SMALL.run()
    return outcome, trainings[0]


@pytest.fixture(scope="module")
def outcome(run):
    return run[0]


def test_the_callbacks_agree_with_the_closed_forms(outcome):
    for part in ("callback trace", "callback Δ", "callback stage"):
        assert len(outcome.part(part)) >= 2 * len(SMALL.spectrum)
        for item in outcome.part(part):
            assert item.agreement == "agrees", item
    for case in ("exact", "weighted by Σ"):
        for item in outcome.part("callback trace", case):
            assert item.simulation == pytest.approx(item.theory, rel=1e-6)
    deviations = np.array(outcome.facts["deviations"])
    assert np.sqrt(np.mean(deviations**2)) < 2
    for item in outcome.part("callback Δ"):
        assert item.stderr < 0.1 * item.theory


def test_a_lab_of_other_parameters_agrees_too(outcome, tmp_path):
    for part in ("learning time", "noise", "forgotten", "fine-tuning loss", "harmless pull"):
        assert outcome.part(part)
        for item in outcome.part(part):
            assert item.agreement != "disagrees", item
    paths = write_outcome("incremental-features", SMALL, outcome, tmp_path)
    content = json.loads((tmp_path / "incremental-features.json").read_text())
    assert content["facts"]["noise_turn"] == 2
    assert {path.name for path in paths} >= {"learning.png", "fine_tuning.svg", "library.png"}
    assert "2dγ²" in paths[-1].read_text()


@pytest.mark.parametrize(
    "part,name,wrong",
    [
        ("noise", "noisy_losses", lambda spectrum, gamma: noisy_losses(spectrum, 0.9 * gamma)),
        ("fine_tuning", "tuned_losses", lambda s, f, pull, time: tuned_losses(s, f, 1.2 * pull, time)),
        ("harmless_pulls", "PULL_FACTOR", 1.05 * PULL_FACTOR),
    ],
)
def test_a_wrong_formula_disagrees(monkeypatch, studies, part, name, wrong):
    monkeypatch.setattr(incremental_features, name, wrong)
    assert "disagrees" in {item.agreement for item in getattr(DEFAULT, f"_{part}")(studies)}


def test_wrong_starts_disagree(monkeypatch, learnt):
    # rows without Gram-Schmidt, the first of which is right
    def rows(first, second, left, right):
        growing = (left.T @ first + np.swapaxes(second @ right, -1, -2)) / 2
        return np.sum(growing**2, axis=-1)

    monkeypatch.setattr(incremental_features, "effective_starts", rows)
    found = DEFAULT._learning()[0]
    assert found[0].agreement == "agrees"
    assert found[-1].simulation != pytest.approx(found[-1].theory, rel=0.01)


def test_a_wrong_closed_form_disagrees_with_the_callbacks(monkeypatch, run):
    monkeypatch.setattr(incremental_features_callbacks, "trace", lambda *a: 1.00001 * trace(*a))
    # without d³γ⁴, as if the loss were quadratic
    monkeypatch.setattr(
        incremental_features_callbacks,
        "noise_rise",
        lambda first, second, gamma, scales=(1.0, 1.0): 0.5 * gamma**2 * trace(first, second, scales),
    )
    items = with_theory(SMALL, run[1])
    assert {item.agreement for item in items if item.case == "exact"} == {"disagrees"}
    assert "agrees" not in {item.agreement for item in items if item.case == "isotropic noise" and item.at == 1}


@pytest.mark.parametrize(
    "change,message",
    [
        ({"gamma": 0.0}, "gamma is 0; it must be from 0.001 to 1"),
        ({"spectrum": (1.0, 0.5)}, "spectrum has 2 features; it must have from 3 to 12"),
        ({"spectrum": (1.0, 0.5, 0.45)}, "spectrum has 0.45 after 0.5; each must be at most 0.8 times the one before"),
        ({"spectrum": (0.2, 0.5, 1.0)}, "spectrum has 0.5 after 0.2"),
        ({"steady_spectrum": (2.0, 1.0, 0.3)}, "steady_spectrum goes down to 0.3; each must be over 0.53"),
        ({"pulls": (0.5, 1.0)}, "pulls is [0.5, 1.0]; it must be 0 and then ascending numbers"),
        ({"pulls": (0.0, 1.0, 1.0)}, "it must be 0 and then ascending numbers"),
        ({"pulls": ()}, "pulls is empty"),
        ({"shift": -1.0}, "shift is -1; it must be from 0.001 to 10"),
        ({"tuning_time": 9.0}, "tuning_time is 9; with this spectrum, shift and start it must be at most"),
        ({"start": 1.0}, "start is 1; it must be from 1e-13 to 1e-06"),
        ({"training_start": 1.0}, "training_start is 1"),
        ({"spectrum": (0.04, 0.03, 0.02)}, "the feature 0.04 of spectrum still lacks 5 % when its budget ends"),
        ({"target_noise": -1.0}, "target_noise is -1"),
        ({"studies": 1}, "studies is 1; it must be from 2 to 1000"),
        ({"pretrainings": 1}, "pretrainings is 1"),
        ({"finetunings": 1}, "finetunings is 1"),
        ({"noise_draws": 1}, "noise_draws is 1"),
    ],
)
def test_one_sentence_for_what_cannot_be_simulated(change, message):
    with pytest.raises(UserError) as caught:
        replace(DEFAULT, **change).check()
    assert message in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_hundred_studies(seed):
    lab = replace(DEFAULT, seed=seed)
    studies = simulate(lab, lab.spectrum, 100, lab.random(3), lab.pulls)
    steady = simulate(lab, lab.steady_spectrum, 100, lab.random(4), lab.pulls[:1])
    comparisons, facts = analysed(lab, studies, steady)
    for item in comparisons:
        assert item.agreement in ("agrees", "shown"), item
    assert facts["noise_found"] >= 90
    assert facts["noise_none"] >= 95
    assert min(facts["pull_found"]) >= 18
    (measured,) = (item for item in comparisons if item.case == "features before the turn")
    assert measured.simulation == measured.theory == 3
