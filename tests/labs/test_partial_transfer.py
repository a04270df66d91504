from __future__ import annotations

from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch.nn.functional import softplus

from lightning_tl.cli.main import main
from lightning_tl.labs import partial_transfer
from lightning_tl.labs import partial_transfer_theory as theory
from lightning_tl.labs.partial_transfer import PartialTransfer
from lightning_tl.labs.partial_transfer_simulation import inherited, simulate
from lightning_tl.labs.patch_network import Patches, accuracy, draw_patches, signs, train, without

SMALL = PartialTransfer(shares=(0.5,), upstream=(320,), shared=(0.0, 0.6), networks=8)


@pytest.fixture(scope="module")
def simulated():
    return simulate(SMALL)


def small_task(networks: int = 3, samples: int = 10, d: int = 60) -> tuple[torch.Tensor, Patches]:
    generator = torch.Generator().manual_seed(0)
    signal = torch.zeros(networks, d)
    signal[:, 0] = 2
    return 0.01 * torch.randn(networks, 6, d, generator=generator), draw_patches(signal, samples, generator)


def outputs(weights: torch.Tensor, data: Patches) -> torch.Tensor:
    """The networks' outputs as written in the papers, by plain loops over networks and samples."""
    rows = []
    for weight, signal, noises in zip(weights, data.signal, data.noise, strict=True):
        found = []
        for label, noise in zip(data.labels, noises, strict=True):
            plus, minus = weight.chunk(2)
            f = [(half @ (label * signal)).relu().mean() + (half @ noise).relu().mean() for half in (plus, minus)]
            found.append(f[0] - f[1])
        rows.append(torch.stack(found))
    return torch.stack(rows)


def test_the_training_is_gradient_descent_on_the_logistic_loss():
    weights, data = small_task()
    trained = train(weights, data, 0.3)
    by_hand = weights.clone().requires_grad_()
    samples, filters = data.noise.shape[1], weights.shape[1] // 2
    square = data.signal.square().sum(1)
    rate = 4 * 0.05 * filters / (square + data.noise.square().sum(2).mean(1) / samples)
    running = torch.ones(len(weights), dtype=torch.bool)
    while running.any():
        losses = softplus(-data.labels * outputs(by_hand, data)).mean(1)
        running = losses.detach() > 0.3
        (gradient,) = torch.autograd.grad(losses.sum(), by_hand)
        with torch.no_grad():
            by_hand -= (rate * running)[:, None, None] * gradient
    torch.testing.assert_close(trained, by_hand.detach(), atol=1e-4, rtol=1e-3)
    losses = softplus(-data.labels * outputs(trained, data)).mean(1)
    assert losses.max() <= 0.3 + 1e-5


def test_noise_is_orthogonal_to_its_signal_and_of_variance_1_elsewhere():
    _, data = small_task(samples=400)
    assert torch.einsum("bkd,bd->bk", data.noise, data.signal).abs().max() < 1e-4
    assert data.noise[..., 1:].var().item() == pytest.approx(1, abs=0.02)
    assert data.labels.sum() == 0


def test_accuracy_counts_both_labels():
    weights, data = small_task()
    noise = without(torch.randn(3, 200, 60, generator=torch.Generator().manual_seed(1)), data.signal)
    right = []
    for label in (1.0, -1.0):
        tested = Patches(data.signal, noise, torch.full((200,), label))
        right.append((label * outputs(weights, tested) > 0).float().mean(1))
    torch.testing.assert_close(accuracy(weights, data.signal, noise), (right[0] + right[1]) / 2)


def test_the_share_is_inherited_by_the_library_s_method():
    old, new = torch.ones(2, 40, 30), torch.zeros(2, 40, 30)
    mixed = inherited(old, new, 0.25, seed=3)
    of_filter = mixed.mean(2)
    assert set(of_filter.unique().tolist()) == {0.0, 1.0}
    assert of_filter[:, :20].sum(1).tolist() == [5, 5]
    assert of_filter[:, 20:].sum(1).tolist() == [5, 5]
    more = inherited(old, new, 0.5, seed=3).mean(2)
    assert torch.all(more >= of_filter)
    assert not torch.equal(inherited(old, new, 0.25, seed=4), mixed)


def test_the_signal_learnt_from_scratch_has_its_closed_form():
    # a second way: with one margin κ for all samples and three quarters of the filters active, S = κR/(R + 3/2);
    # the argument lets samples differ, so that the two are near each other and not equal
    for samples in (20, 80, 320):
        setting = theory.Setting(2000, 2.0, samples, 40, 0.0, 1e-4, 0.05)
        ratio = setting.ratio(samples)
        margin = -np.log(np.expm1(0.05))
        assert theory.learnt(setting, samples).signal == pytest.approx(margin * ratio / (ratio + 1.5), rel=0.1)


def test_the_signal_learnt_is_that_of_networks():
    generator = torch.Generator().manual_seed(2)
    signal = torch.zeros(6, 2000)
    signal[:, 0] = 2
    for samples in (20, 80):
        start = 1e-4 * torch.randn(6, 40, 2000, generator=generator)
        trained = train(start, draw_patches(signal, samples, generator), 0.05)
        learnt = (torch.einsum("bfd,bd->bf", trained, signal) * signs(20)).mean().item()
        setting = theory.Setting(2000, 2.0, samples, 40, 0.0, 1e-4, 0.05)
        assert theory.learnt(setting, samples).signal == pytest.approx(learnt, rel=0.08)


def test_answers_to_new_noise_are_those_of_networks():
    # what a label's filters share in their answers, and each one's own part, which the argument overestimates a little
    generator = torch.Generator().manual_seed(5)
    setting = theory.Setting(2000, 2.0, 80, 40, 0.6, 1e-4, 0.05)
    signal = torch.zeros(8, 2000)
    signal[:, 0], signal[:, 1] = 2 * 0.6**0.5, 2 * 0.4**0.5
    start = 1e-4 * torch.randn(8, 80, 2000, generator=generator)
    trained = train(start, draw_patches(signal, 80, generator), 0.05)
    noise = without(torch.randn(8, 300, 2000, generator=generator), signal)
    answers = (trained @ noise.mT).reshape(8, 2, 40, 300)
    shared, own = answers.mean(2).var().sqrt().item(), answers.var(2).mean().sqrt().item()
    found = theory.upstream(setting)
    assert found.common[0] == pytest.approx(shared, rel=0.08)
    assert found.own[0] == pytest.approx(own, rel=0.12)
    # what filters answer by upstream's signal to noise along the part of it that is orthogonal to the downstream signal
    learnt = (torch.einsum("bfd,bd->bf", trained, signal) * signs(40)).mean().item() / 2
    first, second = np.array([0.6**0.5, 0.4**0.5, 0.0]), np.array([0.6**0.5, 0.0, 0.4**0.5])
    across = first - (first @ second) * second
    along = learnt * (first @ across) / np.linalg.norm(across)
    assert theory.foreign_response(setting, found.signal) == pytest.approx(along, rel=0.08)


def test_mean_response_is_that_of_draws():
    rng = np.random.default_rng(3)
    common = np.array([-1.0, 0.0, 0.7])
    drawn = np.maximum(common[:, None] + 0.5 * rng.standard_normal((3, 400_000)), 0).mean(axis=1)
    np.testing.assert_allclose(theory.mean_response(common, 0.25), drawn, atol=3e-3)


def test_covariance_of_two_responses():
    rng = np.random.default_rng(4)
    a, b = rng.standard_normal((2, 1_000_000))
    for correlation in (-0.5, 0.0, 0.75, 1.0):
        other = correlation * a + np.sqrt(1 - correlation**2) * b
        drawn = np.cov(np.maximum(a, 0), np.maximum(other, 0))[0, 1]
        assert theory._covariance(correlation) == pytest.approx(drawn, abs=2e-3)


def test_the_accuracy_from_scratch_is_near_that_of_one_normal_margin():
    # a second, cruder way: the response to new noise as normal with the variance of two sums of responses
    setting = theory.Setting(2000, 2.0, 40, 40, 0.0, 1e-4, 0.05)
    signal = theory.learnt(setting, 40).signal
    memory = (-np.log(np.expm1(0.05)) - signal) / 0.75
    spread = np.sqrt(2 * memory**2 * 0.75 * 40 / 4000 * theory._covariance(0.75))
    assert theory.accuracy(setting, 0.0) == pytest.approx(NormalDist().cdf(signal / spread), abs=0.06)


def test_the_accuracy_from_scratch_is_that_of_drawn_filters():
    setting, rng = theory.Setting(2000, 2.0, 40, 40, 0.0, 1e-4, 0.05), np.random.default_rng(7)
    then = theory.learnt(setting, 40)
    common, means = then.common[0] * rng.standard_normal((2, 40_000)), np.zeros((2, 40_000))
    for _ in range(100):
        means += np.maximum(common + then.own[0] * rng.standard_normal((2, 40_000)), 0) / 100
    drawn = np.mean(then.signal + means[0] - means[1] > 0)
    assert theory.accuracy(setting, 0.0) == pytest.approx(drawn, abs=0.006)


def test_where_inheriting_harms():
    nothing_shared = theory.Setting(2000, 2.0, 320, 40, 0.0, 1e-4, 0.05)
    assert theory.harmful_share(nothing_shared) == 0
    assert theory.accuracy(nothing_shared, 0.5) < theory.accuracy(nothing_shared, 0.0)
    all_shared = replace(nothing_shared, shared=1.0)
    assert theory.harmful_share(all_shared) > 1
    assert theory.accuracy(all_shared, 0.5) > theory.accuracy(all_shared, 0.0)


@pytest.mark.parametrize(
    ("upstream", "shared", "down"), [(320, 0.2, 40), (80, 0.3, 40), (320, 0.0, 40), (1000, 0.6, 1000)]
)
def test_the_harmful_share_is_that_of_drawn_responses(upstream, shared, down):
    # the argument at lowest order, with responses that are drawn in place of covariances, and the share that is solved
    kappa, q, d, mu = -np.log(np.expm1(0.05)), 0.75, 2000, 2.0
    r1, r2 = upstream * mu**2 / d, down * mu**2 / d
    s1, s2 = kappa * r1 / (r1 + 2 * q), kappa * r2 / (r2 + 2 * q)
    rng, filters, noises = np.random.default_rng(6), 100, 10_000

    def drawn(signal, samples, foreign):
        """The difference of the labels' mean answers: a share q of what is memorised is common to a label's filters."""
        spread = (kappa - signal) / q * np.sqrt(q * samples / (2 * d))
        of_signal = foreign * rng.standard_normal(noises)
        means = []
        for sign in (1, -1):
            own = np.sqrt(1 - q) * rng.standard_normal((filters, noises))
            normal = spread * (np.sqrt(q) * rng.standard_normal(noises) + own) + sign * of_signal
            means.append(np.maximum(normal, 0).mean(axis=0))
        return np.var(means[0] - means[1])

    old, new = drawn(s1, upstream, s1 * np.sqrt(1 - shared**2) / mu), drawn(s2, down, 0.0)

    def worse(share):
        had = share * shared * s1
        signal = had + (kappa - had) * r2 / (r2 + 2 * q)
        return s2 / new**0.5 - signal / np.sqrt(share**2 * old + (1 - had / kappa) ** 2 * new)

    found = theory.harmful_share(theory.Setting(d, mu, upstream, down, shared, 1e-4, 0.05))
    if shared == 0:
        assert found == 0
        assert worse(0.1) > 0
    else:
        assert found == pytest.approx(brentq(worse, 1e-3, 3), rel=0.06)


def test_accuracies_and_gains_follow_the_argument(simulated):
    comparisons, cells = SMALL.beside_theory(*simulated)
    for item in comparisons:
        assert item.agreement != "disagrees", item
        assert item.simulation == pytest.approx(item.theory, abs=0.035)
    assert [cell["gain"] < 0 for cell in cells] == [True, False]
    for cell in cells:
        assert cell["decided"]
        assert cell["right"]
        assert cell["low"] < cell["gain"] < cell["high"]


def test_without_a_gain_beyond_chance_no_sign_is_judged():
    lab = replace(SMALL, shared=(0.6,), networks=2)
    comparisons, cells = lab.beside_theory({0.6: np.array([0.8, 0.8])}, {(320, 0.6, 0.5): np.array([0.7, 0.95])})
    assert not cells[0]["decided"]
    assert "sign of the gain" not in {item.part for item in comparisons}


@pytest.mark.parametrize(
    "wrong",
    [
        lambda setting, share: theory.accuracy(replace(setting, shared=0.6), share),
        lambda setting, share: theory.accuracy(replace(setting, downstream=2 * setting.downstream), share),
        lambda setting, share: theory.accuracy(replace(setting, strength=1.15 * setting.strength), share),
    ],
)
def test_a_wrong_argument_disagrees(monkeypatch, simulated, wrong):
    monkeypatch.setattr(partial_transfer, "accuracy", wrong)
    comparisons, _ = SMALL.beside_theory(*simulated)
    assert "disagrees" in {item.agreement for item in comparisons}


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("shares", "[0]", "shares is 0; it must be from 0.05 to 1"),
        ("upstream", "[21]", "upstream is 21; it must be even, as there are as many samples of each label"),
        ("downstream", "2", "downstream is 2; it must be from 4 to 1000"),
        ("shared", "[1.5]", "shared is 1.5; it must be from 0 to 1"),
        ("networks", "1", "networks is 1; it must be from 2 to 1000"),
        ("filters", "1", "filters is 1; it must be from 2 to 200"),
        ("strength", "0", "strength is 0; it must be from 0.1 to 20"),
        ("d", "10", "d is 10; it must be from 100 to 20000"),
        ("loss", "1", "loss is 1; it must be from 0.005 to 0.5"),
        ("start", "1", "start is 1; it must be from 1e-08 to 0.1"),
    ],
)
def test_wrong_parameters(capsys, tmp_path, option, value, message):
    assert main(["lab", "partial-transfer", f"--{option}", value, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
