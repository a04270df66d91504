"""Laws of losses: the Chinchilla form and the transfer law in tokens, on simulated tables of known truth.

Two truths are published estimates of language models: Hoffmann et al., arXiv 2203.15556, Approach 3, and Besiroglu et
al., arXiv 2404.10102. The points that they were fitted to are not used here.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize

from lightning_tl.errors import UserError
from lightning_tl.laws import AdditiveLaw, ChinchillaLaw, TransferLaw, fit
from lightning_tl.laws.fitting import MOST_LOSS

HOFFMANN = {"E": 1.69, "A": 406.4, "a": 0.34, "B": 410.7, "b": 0.28}
BESIROGLU = {"E": 1.8172, "A": 482.01, "a": 0.3478, "B": 2085.43, "b": 0.3658}
MODELS = np.array([5e7, 2e8, 8e8, 3.2e9, 1.28e10])
TOKENS = np.array([1e9, 4e9, 1.6e10, 6.4e10, 2.56e11])
D, N = (axis.ravel() for axis in np.meshgrid(TOKENS, MODELS))
BUDGETS = 2.5e5 * 4.0 ** np.arange(8)


def loss(truth: dict[str, float], tokens: np.ndarray = D, models: np.ndarray = N) -> np.ndarray:
    return truth["E"] + truth["A"] * models ** -truth["a"] + truth["B"] * tokens ** -truth["b"]


def noisy(truth: dict[str, float], noise: float, seed: int) -> np.ndarray:
    return loss(truth) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(D)))


@pytest.mark.parametrize("truth", [HOFFMANN, BESIROGLU])
def test_a_table_without_noise_gives_the_truth(truth) -> None:
    law = fit(ChinchillaLaw(), n=D, s=N, error=loss(truth))
    assert law.params == pytest.approx(truth, rel=1e-6)


@pytest.mark.parametrize("truth", [HOFFMANN, BESIROGLU])
def test_intervals_contain_the_truth(truth) -> None:
    law = fit(ChinchillaLaw(), n=D, s=N, error=noisy(truth, 0.003, 2), level=0.99)
    for name, value in truth.items():
        low, high = law.interval(name)
        assert low < value < high < 2 * low + 10 * value
        assert law.unidentified(name) is None


def scipys_best(tokens: np.ndarray, models: np.ndarray, losses: np.ndarray, starts: int, seed: int) -> np.ndarray:
    """Least squares of log loss in (E, log A, a, log B, b), from many starts."""

    def residual(p: np.ndarray) -> np.ndarray:
        first, second = np.exp(p[1] - p[2] * np.log(models)), np.exp(p[3] - p[4] * np.log(tokens))
        return np.log(np.maximum(p[0] + first + second, 1e-300)) - np.log(losses)

    rng, found = np.random.default_rng(seed), []
    for _ in range(starts):
        start = [rng.uniform(0, losses.min()), rng.uniform(0, 10), rng.uniform(0.05, 1), rng.uniform(0, 10), 0.3]
        low, high = [0, -50, 1e-3, -50, 1e-3], [np.inf, 200, 10, 200, 10]
        found.append(optimize.least_squares(residual, start, bounds=(low, high), xtol=1e-14, ftol=1e-14, gtol=1e-14))
    return min(found, key=lambda done: done.cost)


@pytest.mark.parametrize("noise", [0.003, 0.05])
def test_the_fit_is_scipys_best_of_many_starts(noise) -> None:
    losses = noisy(HOFFMANN, noise, 3)
    law = fit(ChinchillaLaw(), n=D, s=N, error=losses)
    best = scipys_best(D, N, losses, 30, 4)
    rss = float(np.sum(law.residuals**2))
    assert rss <= 2 * best.cost * (1 + 1e-6)
    own = [law.params["E"], np.log(law.params["A"]), law.params["a"], np.log(law.params["B"]), law.params["b"]]
    assert own == pytest.approx(best.x, rel=2e-3)


def test_the_interval_of_the_floor_is_a_direct_profile() -> None:
    """The ends of E's interval are where the least sum of squares with E held there reaches the threshold."""
    losses = noisy(HOFFMANN, 0.003, 5)
    law = fit(ChinchillaLaw(), n=D, s=N, error=losses)
    best = float(np.sum(law.residuals**2))

    def held(floor: float) -> float:
        def residual(p: np.ndarray) -> np.ndarray:
            return np.log((floor + np.exp(p[0] - p[1] * np.log(N)) + np.exp(p[2] - p[3] * np.log(D))) / losses)

        start = [np.log(law.params["A"]), law.params["a"], np.log(law.params["B"]), law.params["b"]]
        return 2 * optimize.least_squares(residual, start, x_scale="jac", xtol=1e-14, ftol=1e-14).cost

    from scipy import stats

    limit = best * (1 + stats.f.ppf(0.95, 1, len(D) - 5) / (len(D) - 5))
    low, high = (optimize.brentq(lambda e: held(e) - limit, law.params["E"], end) for end in (1.4, 1.9))
    assert law.interval("E") == pytest.approx((low, high), abs=0.02 * (high - low))


def test_the_jacobian_is_that_of_differences() -> None:
    form = ChinchillaLaw()
    at, tokens, models = np.array([HOFFMANN[name] for name in form.parameters]), np.array([3e9]), np.array([1e8])

    def log_loss(values: np.ndarray) -> float:
        return float(np.log(form.predict(dict(zip(form.parameters, values, strict=True)), tokens, models))[0])

    found = form.jacobian(HOFFMANN, tokens, models)[0]
    assert found == pytest.approx(optimize.approx_fprime(at, log_loss, 1e-7 * at), rel=1e-4)


def test_units_change_what_they_must_and_nothing_else() -> None:
    """Tokens in billions, parameters in millions, the loss in bits."""
    losses = noisy(HOFFMANN, 0.004, 6)
    law = fit(ChinchillaLaw(), n=D, s=N, error=losses)
    other = fit(ChinchillaLaw(), n=D / 1e9, s=N / 1e6, error=losses / np.log(2))
    scale = {"E": 1.0, "A": 1e6 ** -law.params["a"], "B": 1e9 ** -law.params["b"]}
    for name in ("a", "b"):
        assert other.params[name] == pytest.approx(law.params[name], rel=1e-5)
        assert other.interval(name) == pytest.approx(law.interval(name), rel=1e-3)
    for name, factor in scale.items():
        assert other.params[name] == pytest.approx(law.params[name] * factor / np.log(2), rel=1e-4)
    assert other.predict_interval([300], s=[20_000])[1] == pytest.approx(
        law.predict_interval([3e11], s=[2e10])[1] / np.log(2), rel=1e-3
    )


def test_the_largest_budget_is_predicted_from_the_smaller_ones() -> None:
    losses = noisy(HOFFMANN, 0.003, 7)
    small = TOKENS[-1] > D
    law = fit(ChinchillaLaw(), n=D[small], s=N[small], error=losses[small], level=0.99)
    low, high = law.predict_interval(D[~small], N[~small])
    assert np.all((low < losses[~small]) & (losses[~small] < high))
    assert np.all(high / low < 1.05)


def test_tokens_and_parameters_needed_are_those_of_the_law_solved() -> None:
    law = fit(ChinchillaLaw(), n=D, s=N, error=loss(HOFFMANN))
    tokens = (410.7 / (2.2 - 1.69 - 406.4 * 1.28e10**-0.34)) ** (1 / 0.28)
    assert law.images_needed(2.2, s=1.28e10).estimate == pytest.approx(tokens, rel=1e-2)
    models = (406.4 / (2.2 - 1.69 - 410.7 * 2.56e11**-0.28)) ** (1 / 0.34)
    needed = law.images_needed(2.2, over="s")
    assert needed.estimate == pytest.approx(models, rel=1e-2)
    assert needed.largest == 1.28e10
    assert law.images_needed(1.6, s=1.28e10).estimate == np.inf
    assert law.images_needed(1.6, s=1.28e10).never > 0.99


def test_more_tokens_than_a_trillion_are_in_reach() -> None:
    """A law fitted to trillions of tokens answers with more of them."""
    law = fit(ChinchillaLaw(), n=D * 100, s=N, error=loss(HOFFMANN, D * 100))
    target = float(loss(HOFFMANN, np.array([1e14]), np.array([1.28e10]))[0])
    assert law.images_needed(target, s=1.28e10).estimate == pytest.approx(1e14, rel=0.05)


def test_without_a_floor_none_is_found_and_said_so() -> None:
    truth = HOFFMANN | {"E": 0.0}
    law = fit(ChinchillaLaw(), n=D, s=N, error=noisy(truth, 0.01, 8))
    assert law.interval("E")[0] == 0
    assert law.unidentified("E") == "no floor is seen: E = 0 fits as well"


def test_an_exponent_without_an_effect_is_not_identified() -> None:
    """The loss does not depend on the model's size: a and A say nothing, and the reason names the model sizes."""
    rng = np.random.default_rng(9)
    losses = (1.7 + 410.7 * D**-0.28) * np.exp(0.01 * rng.standard_normal(len(D)))
    some = TOKENS[-1] > D
    law = fit(ChinchillaLaw(), n=D[some], s=N[some], error=losses[some])
    assert law.unidentified("a") is not None
    assert "5 sizes over 2.4 decades" in law.unidentified("A")
    assert law.unidentified("b") is None


def test_points_of_one_budget_are_runs_of_their_own() -> None:
    """One seed at several model sizes names several pre-trainings: their scatter is not shared."""
    rng = np.random.default_rng(10)
    shared = np.exp(0.02 * rng.standard_normal(len(TOKENS)))[np.searchsorted(TOKENS, D)]
    losses = loss(HOFFMANN) * shared * np.exp(0.001 * rng.standard_normal(len(D)))
    law = fit(ChinchillaLaw(), n=D, s=N, error=losses, pretrain=["0"] * len(D))
    assert law.shared == 0
    assert law.dof == len(D) - 5


def test_the_transfer_law_of_a_loss_in_tokens() -> None:
    truth = {"D": 60.0, "alpha": 0.33, "C": 1.4}
    curve = truth["C"] + truth["D"] * BUDGETS ** -truth["alpha"]
    exact = fit(TransferLaw(), n=BUDGETS, error=curve, measured="loss")
    assert exact.params == pytest.approx(truth, rel=1e-6)
    losses = curve * np.exp(0.004 * np.random.default_rng(11).standard_normal(len(BUDGETS)))
    law = fit(TransferLaw(), n=BUDGETS, error=losses, measured="loss")
    assert all(law.interval(name)[0] < value < law.interval(name)[1] for name, value in truth.items())
    fraction = fit(TransferLaw(), n=BUDGETS, error=losses / 10)  # the same curve below 1, as an error
    assert fraction.params["alpha"] == pytest.approx(law.params["alpha"], rel=1e-6)
    assert fraction.interval("C") == pytest.approx(np.array(law.interval("C")) / 10, rel=1e-6)
    assert law.images_needed(1.6).estimate == pytest.approx(fraction.images_needed(0.16).estimate, rel=1e-6)


def test_the_additive_law_with_a_floor_is_the_chinchilla_law() -> None:
    """The same problem under other names: losses below 1."""
    losses = noisy(HOFFMANN, 0.005, 12) / 10
    first, second = (fit(form, n=D, s=N, error=losses) for form in (ChinchillaLaw(), AdditiveLaw(floor=True)))
    pairs = {"B": "A", "b": "a", "A": "B", "a": "b", "E": "E"}
    for name, other in pairs.items():
        assert second.params[other] == pytest.approx(first.params[name], rel=1e-6)
        assert second.interval(other) == pytest.approx(first.interval(name), rel=1e-4)
    assert AdditiveLaw(floor=True).formula == "error = A * n^-a + B * s^-b + E"
    assert ChinchillaLaw().formula == "loss = E + A * N^-a + B * D^-b"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": D, "error": loss(HOFFMANN)}, r"^loss = E \+ A \* N\^-a \+ B \* D\^-b needs the model sizes: fit"),
        ({"n": D, "s": N, "error": loss(HOFFMANN) - 9}, "^loss -.* is not in .*; give losses over 0"),
        ({"n": D, "s": N, "error": loss(HOFFMANN) * MOST_LOSS}, r"^loss .* is not in \[1e-09, 1e\+06\]"),
        ({"n": D, "s": -N, "error": loss(HOFFMANN)}, r"^model size s = -5e\+07 is not in"),
        (
            {"n": D, "s": N * 0 + 1e9, "error": loss(HOFFMANN)},
            r"^all runs have s = 1e\+09; .* needs several model size",
        ),
        ({"n": D * 0 + 1e9, "s": N, "error": loss(HOFFMANN)}, r"^all runs have n = 1e\+09; a law needs several sizes"),
        ({"n": D[:4], "s": N[[0, 5, 10, 15]], "error": loss(HOFFMANN)[:4]}, "^4 points for the 5 parameters of loss ="),
    ],
)
def test_every_wrong_table_of_losses_has_its_message(options, message) -> None:
    with pytest.raises(UserError, match=message):
        fit(ChinchillaLaw(), **options)


def test_wrong_options_of_losses_have_their_messages() -> None:
    with pytest.raises(UserError, match=r"^error 2\.5 is not in \(0, 1\]; give 1 - score .*measured='loss'"):
        fit(n=BUDGETS, error=np.full(8, 2.5))
    with pytest.raises(UserError, match=r"^measured is 'los'; did you mean 'loss'\?"):
        fit(n=BUDGETS, error=np.full(8, 2.5), measured="los")  # type: ignore[arg-type]
    law = fit(n=BUDGETS, error=1.4 + 60 * BUDGETS**-0.33, measured="loss")
    assert law.images_needed(3).estimate == pytest.approx((60 / 1.6) ** (1 / 0.33), rel=1e-2)  # below all sizes
    with pytest.raises(UserError, match=r"^target loss -3 is not a number over 0"):
        law.images_needed(-3)
    with pytest.raises(UserError, match=r"^over is 'N'; it is n \(the pre-training size\) or s \(the fine-tuning size"):
        law.images_needed(1.5, over="N")  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.002, 0.01])
def test_intervals_cover(noise) -> None:
    """Of 300 worlds each: 95 % intervals of all parameters and of a prediction hold the truth as often as said."""
    names, count = tuple(HOFFMANN), 300
    covered = dict.fromkeys((*names, "prediction"), 0)
    far = float(loss(HOFFMANN, np.array([1e12]), np.array([3e10]))[0])
    for seed in range(count):
        law = fit(ChinchillaLaw(), n=D, s=N, error=noisy(HOFFMANN, noise, 5000 + seed))
        for name in names:
            low, high = law.interval(name)
            covered[name] += low <= HOFFMANN[name] <= high
        low, high = (ends[0] for ends in law.band([1e12], [3e10]))
        covered["prediction"] += low <= far <= high
        law.forget_regions()
    shares = {name: hits / count for name, hits in covered.items()}
    # three standard errors of a share of 0.95 among 300
    assert all(0.912 <= share <= 0.988 for share in shares.values()), shares
