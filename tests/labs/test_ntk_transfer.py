from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import approx_fprime

from lightning_tl.cli.main import main
from lightning_tl.labs import ntk_transfer
from lightning_tl.labs.additive_law import contest
from lightning_tl.labs.ntk_transfer import NtkTransfer
from lightning_tl.labs.ntk_transfer_kernel import KernelTransfer, predicted_powers
from lightning_tl.labs.ntk_transfer_network import Networks, NetworkTransfer, Teacher
from lightning_tl.labs.ridge_equivalent import equivalent
from lightning_tl.laws import AdditiveLaw, FullLaw, fit

GRID = [(n, s) for n in (100.0, 200, 400, 800, 1600) for s in (10.0, 20, 40, 80, 160)]
SMALL = NtkTransfer(d=500, n=(150, 300), s=(100,), draws=12)
NETWORK = NetworkTransfer(6, 3, 2, 0.1, 0.05, 0.5, (4, 8), (2, 5))


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("decay,source,gap", [(2.0, 0.8, 0.4), (1.6, 0.9, 0.5), (2.5, 0.6, 0.3)])
def test_exact_curves_have_the_predicted_powers(decay, source, gap, noisy):
    lab = NtkTransfer(decay=decay, source=source, gap=gap)
    found = [item for item in lab._powers() if ("noisy" in item.case) == noisy]
    assert len(found) == 3
    for item in found:
        assert item.agreement == "agrees", item


def test_a_wrong_power_disagrees(monkeypatch):
    def wrong(decay, source, gap, noisy):  # the rate of pre-training in the strong norm is not that of its error
        return {**predicted_powers(decay, source, gap, noisy), "pre-training, strong norm": 2 * source}

    monkeypatch.setattr(ntk_transfer, "predicted_powers", wrong)
    assert "disagrees" in {item.agreement for item in NtkTransfer()._powers()}


@pytest.fixture(scope="module")
def simulated():
    return [*SMALL._learning(), *SMALL._transfer()]


def test_theory_and_simulation_agree(simulated):
    for item in simulated:
        assert item.agreement != "disagrees", item
        assert item.stderr < 0.06 * item.theory, item


def _without_outside_as_noise(kernel, n, s):
    squares = kernel.remaining(n) + kernel.gap_size * kernel.function(kernel.gap)
    many = kernel.kept(n)
    solved = equivalent(kernel.eigenvalues[:many], s, kernel.ridge(kernel.gap, s))
    return squares[many:].sum() + solved.risk(squares[:many] / kernel.eigenvalues[:many])


@pytest.mark.parametrize(
    "case,wrong",
    [
        ("everything fine-tuned, s = 100", lambda kernel, n: kernel.transferred(n, 115, False)),
        ("everything fine-tuned, s = 100", lambda kernel, n: kernel.transferred(1.2 * n, 100, False)),
        ("backbone frozen, s = 100", lambda kernel, n: _without_outside_as_noise(kernel, n, 100)),
    ],
)
def test_wrong_transfer_disagrees(simulated, case, wrong):
    found = [item for item in simulated if item.case == case]
    theory = [wrong(SMALL.kernel(), int(item.at)) for item in found]
    pairs = zip(found, theory, strict=True)
    verdicts = [replace(item, theory=value, allowed=0.0).agreement for item, value in pairs]  # but for chance
    assert len(verdicts) == 2
    assert "disagrees" in verdicts


def test_with_perfect_pre_training_only_the_gap_is_learnt():
    kernel = KernelTransfer(2000, 2.0, 0.8, 0.4, 1.0)
    solved = kernel.solved(0.4, 50)
    assert kernel.transferred(1e9, 50, False) == pytest.approx(
        solved.risk(kernel.function(0.4) / kernel.eigenvalues), rel=1e-4
    )
    assert kernel.kept(1e9) == 2000
    assert kernel.transferred(1e9, 50, True) == pytest.approx(kernel.transferred(1e9, 50, False))


def test_a_frozen_backbone_keeps_what_was_learnt():
    kernel = KernelTransfer(2000, 2.0, 0.8, 0.4, 1.0)
    solved = kernel.solved(0.8, 500)
    learnt = 1 - solved.shrinkage / (kernel.eigenvalues + solved.shrinkage)
    many = kernel.kept(500)
    assert learnt[many - 1] >= 0.9 > learnt[many]


def test_the_additive_law_is_recovered():
    truth = {"A": 3.0, "a": 0.8, "B": 0.7, "b": 0.4}
    n, s = (np.array(column) for column in zip(*GRID, strict=True))
    error = truth["A"] * n ** -truth["a"] + truth["B"] * s ** -truth["b"]
    law = fit(AdditiveLaw(), n=n, s=s, error=error)
    for name, value in truth.items():
        assert law.params[name] == pytest.approx(value, rel=1e-3)
    noisy = error * np.exp(0.02 * np.random.default_rng(0).standard_normal(len(n)))
    law = fit(AdditiveLaw(), n=n, s=s, error=noisy)
    for name, value in truth.items():
        low, high = law.interval(name)
        assert low < value < high


def test_the_jacobian_of_the_additive_law_is_that_of_differences():
    law, at = AdditiveLaw(), np.array([3.0, 0.8, 0.7, 0.4])
    n, s = np.array([100.0]), np.array([20.0])

    def log_error(values):
        return float(np.log(law.predict(dict(zip(law.parameters, values, strict=True)), n, s))[0])

    found = law.jacobian(dict(zip(law.parameters, at, strict=True)), n, s)[0]
    np.testing.assert_allclose(found, approx_fprime(at, log_error, 1e-7), rtol=1e-4)


@pytest.mark.parametrize("winner", ["multiplicative", "additive"])
def test_the_contest_finds_the_law_that_made_the_points(winner):
    laws = {
        "multiplicative": (FullLaw(), {"delta": 2.0, "gamma": 0.01, "alpha": 0.8, "beta": 0.4}),
        "additive": (AdditiveLaw(), {"A": 5.0, "a": 0.8, "B": 0.3, "b": 0.4}),
    }
    form, params = laws[winner]
    n, s = (np.array(column) for column in zip(*GRID, strict=True))
    rng = np.random.default_rng(1)
    error = form.predict(params, n, s) * np.exp(0.01 * rng.standard_normal(len(n)))
    result = contest(list(zip(n, s, error, strict=True)))
    assert result.winner == winner
    assert min(result.off) < 0.03 < 0.1 < max(result.off)


def test_what_is_held_out_is_not_fitted():
    n, s = (np.array(column) for column in zip(*GRID, strict=True))
    error = 2 * (0.01 + n**-0.8) * s**-0.4
    spoilt = np.where((n == n.max()) | (s == s.max()), 0.9, error)
    clean, other = (contest(list(zip(n, s, values, strict=True))) for values in (error, spoilt))
    assert clean.multiplicative.params == other.multiplicative.params
    assert other.off[0] > 1 > 0.001 > clean.off[0]


def test_laws_win_where_the_theory_has_them():
    _, facts = NtkTransfer()._surfaces()
    winners = {case: fact["winner"] for case, fact in facts.items()}
    assert winners == {
        "kernel, everything fine-tuned": "multiplicative",
        "kernel, backbone frozen": "additive",
        "kernel, everything fine-tuned, n far above s": "additive",
    }
    for fact in facts.values():
        off = sorted((fact["off_multiplicative"], fact["off_additive"]))
        assert off[1] > 2 * off[0]


@pytest.mark.parametrize("frozen", [False, True])
def test_sgd_on_networks_is_that_of_torch(frozen):
    rng = np.random.default_rng(2)
    start = Networks(rng.standard_normal((2, 6, 3)), rng.standard_normal((2, 6)))
    teacher = Teacher(rng.standard_normal((2, 3, 2)), rng.standard_normal((2, 2)), np.array([1.0, 2.0]))
    found = NETWORK.averaged_sgd(np.random.default_rng(3), start, teacher, (2, 5), 0.05, frozen)
    again = np.random.default_rng(3)
    samples = [NETWORK._points(again, 2, 1) for _ in range(5)]
    for net in range(2):
        begun = [torch.from_numpy(array[net].copy()) for array in (start.weights, start.heads)]
        weights, heads = (tensor.clone().requires_grad_() for tensor in begun)
        trained = [heads] if frozen else [weights, heads]
        optimiser, path = torch.optim.SGD(trained, lr=0.1), []
        for x in samples:
            inputs = torch.from_numpy(x[net, 0])
            output = heads @ torch.tanh(weights @ inputs) / 6**0.5
            away = sum((now - then).square().sum() for now, then in zip((weights, heads), begun, strict=True))
            loss = (output - float(teacher.outputs(x)[net, 0])).square() / 2 + 0.05 * away / 2
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            path.append([weights.detach().clone().numpy(), heads.detach().clone().numpy()])
        for mark, networks in zip((2, 5), found, strict=True):
            np.testing.assert_allclose(networks.weights[net], np.mean([w for w, _ in path[:mark]], axis=0), atol=1e-12)
            np.testing.assert_allclose(networks.heads[net], np.mean([a for _, a in path[:mark]], axis=0), atol=1e-12)


def test_surfaces_have_one_error_for_each_network_and_size():
    found = NETWORK.surfaces(np.random.default_rng(4))
    assert {key: errors.shape for key, errors in found.items()} == {
        (kind, frozen): (2, 2, 2) for kind in ("new unit", "same units") for frozen in (False, True)
    }


@pytest.mark.slow
def test_laws_win_on_networks_as_in_the_kernel_limit():
    _, facts = NtkTransfer()._network()
    winners = {case: fact["winner"] for case, fact in facts.items()}
    # with a frozen backbone and the source's units, the winner changes with the seed
    del winners["network, same units, backbone frozen"]
    assert winners == {
        "network, new unit, everything fine-tuned": "multiplicative",
        "network, new unit, backbone frozen": "additive",
        "network, same units, everything fine-tuned": "multiplicative",
    }


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--source", "0.3"], "gap is 0.4; it must be below source, which is 0.3"),
        (["--source", "1.5"], "source is 1.5; it must be from 0.1 to 0.9"),
        (["--network_n", "[8,4,16,32]"], "network_n must be at least 4 rising sizes"),
        (["--network_s", "[8,16]"], "network_s must be at least 4 rising sizes"),
        (["--rate", "3"], "rate is 3; it must be from 0.0001 to 1"),
    ],
)
def test_one_sentence_for_each_wrong_parameter(capsys, tmp_path, arguments, message):
    assert main(["lab", "ntk-transfer", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_the_lab_gives_figures_and_paragraphs():
    small = NtkTransfer(
        d=200,
        n=(60, 120),
        s=(50,),
        draws=2,
        width=10,
        inputs=3,
        networks=3,
        network_n=(16, 32, 64, 128),
        network_s=(4, 8, 16, 32),
    )
    outcome = small.run()
    assert set(outcome.draw()) == set(outcome.captions) == {"curves", "kernel", "network"}
    assert {item.part for item in outcome.comparisons} >= {"pre-training", "exponent", "transfer", "strong norm"}
    assert "Which law is closer" in outcome.paragraphs[2]
