"""What a fit can be asked for beside the default: linear space, robust loss, weights, held parameters, clusters."""

from __future__ import annotations

import json
import shlex

import numpy as np
import pandas as pd
import pytest
from scipy import optimize

from lightning_tl.cli.law import main
from lightning_tl.errors import UserError
from lightning_tl.laws import FullLaw, PowerLaw, TransferLaw, fit
from lightning_tl.laws.columns import Columns
from lightning_tl.laws.group_fits import Method, analyse
from lightning_tl.laws.results_table import groups
from lightning_tl.laws.wording import change_interval, images, lower_or_higher, percent, signed, sure

from .tables import falling, flat, results

SIZES = 1000 * 2.0 ** np.arange(7)


def noisy(seed: int, noise: float = 0.01) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (2 * SIZES**-0.5 + 0.05) * np.exp(noise * rng.standard_normal(len(SIZES)))


def test_linear_space_agrees_with_curve_fit() -> None:
    error = noisy(1)
    law = fit(n=SIZES, error=error, space="linear")
    best, covariance = optimize.curve_fit(lambda n, d, a, c: d * n**-a + c, SIZES, error, p0=[2, 0.5, 0.05], xtol=1e-14)
    assert list(law.params.values()) == pytest.approx(best, rel=1e-5)
    assert list(law.stderr.values()) == pytest.approx(np.sqrt(np.diag(covariance)), rel=1e-3)
    power = fit(PowerLaw(), n=SIZES, error=error, space="linear")
    best, _ = optimize.curve_fit(lambda n, d, a: d * n**-a, SIZES, error, p0=[1, 0.3], xtol=1e-14)
    assert list(power.params.values()) == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize(("seed", "correlated"), [(2, True), (4, False)])
@pytest.mark.parametrize("space", ["log", "linear"])
@pytest.mark.parametrize("floor", [False, True])
def test_full_laws_agree_with_least_squares(space: str, floor: bool, seed: int, correlated: bool) -> None:
    rng = np.random.default_rng(seed)
    n, s = (grid.ravel() for grid in np.meshgrid(SIZES, [100.0, 400.0, 1600.0, 6400.0]))
    truth = {"delta": 4.0, "gamma": 0.05, "alpha": 0.5, "beta": 0.3, **({"E": 0.02} if floor else {})}
    form = FullLaw(floor=floor)

    def formula(delta: float, gamma: float, alpha: float, beta: float, e: float = 0.0) -> np.ndarray:
        return delta * (gamma + n**-alpha) * s**-beta + e

    error = formula(*truth.values()) * np.exp(0.003 * rng.standard_normal(len(n)))
    law = fit(form, n=n, s=s, error=error, space=space)

    def residual(logs: np.ndarray) -> np.ndarray:
        predicted = formula(*np.exp(logs))
        return whitening @ (np.log(predicted / error) if space == "log" else predicted - error)

    # points of one pre-training run, those of one n, may be correlated
    assert (law.shared > 0) == correlated
    whitening = np.linalg.inv(np.linalg.cholesky(np.eye(len(n)) + law.shared * (n[:, None] == n[None])))
    direct = optimize.least_squares(residual, np.log(list(truth.values())), xtol=1e-15, ftol=1e-15, gtol=1e-15)
    assert law.search.rss == pytest.approx(2 * direct.cost, rel=1e-6)
    assert list(law.params.values()) == pytest.approx(np.exp(direct.x), rel=1e-3)
    for name, value in truth.items():
        low, high = law.interval(name)
        assert low < value < high
        assert low <= law.params[name] <= high


def test_luck_shared_by_a_pretraining_is_seen() -> None:
    rng = np.random.default_rng(3)
    n, s = (grid.ravel() for grid in np.meshgrid(SIZES, [100.0, 400.0, 1600.0, 6400.0], indexing="ij"))
    own, luck = 0.003 * rng.standard_normal(len(n)), np.repeat(0.03 * rng.standard_normal(len(SIZES)), 4)
    law, alone = (fit(FullLaw(), n=n, s=s, error=4 * (0.05 + n**-0.5) * s**-0.3 * np.exp(x)) for x in (own + luck, own))
    assert law.shared > 5
    assert alone.shared < 0.5
    assert law.dof == len(SIZES) - 3
    assert np.ptp(np.log(law.interval("delta"))) > 3 * np.ptp(np.log(alone.interval("delta")))
    assert law.interval("beta")[0] < 0.3 < law.interval("beta")[1]


def test_huber_shrugs_off_a_run_that_went_wrong() -> None:
    sizes = 1000 * 2.0 ** np.arange(0, 6.5, 0.5)
    rng = np.random.default_rng(4)
    error = (2 * sizes**-0.5 + 0.05) * np.exp(0.005 * rng.standard_normal(len(sizes)))
    error[9] *= 1.3
    plain, robust = fit(n=sizes, error=error), fit(n=sizes, error=error, loss="huber")
    assert abs(robust.params["C"] - 0.05) < 0.5 * abs(plain.params["C"] - 0.05)
    assert robust.cells.weight[9] < 0.2
    assert np.median(robust.cells.weight) == 1


def test_weights_count_as_repeats() -> None:
    error = noisy(5)
    weighted = fit(PowerLaw(), n=SIZES, error=error, weights=[3, 1, 1, 1, 1, 1, 2])
    repeated = fit(PowerLaw(), n=[*SIZES, SIZES[0], SIZES[0], SIZES[-1]], error=[*error, error[0], error[0], error[-1]])
    assert weighted.params == pytest.approx(repeated.params)


@pytest.mark.parametrize("space", ["log", "linear"])
def test_what_is_held_holds_whatever_the_weights(space: str) -> None:
    """Weights may be inverse variances, thousands or millions: a held D is exact, and so are the others' fits."""
    error = noisy(9)
    plain = fit(n=SIZES, error=error, fixed={"D": 3.0}, space=space)
    heavy = fit(n=SIZES, error=error, fixed={"D": 3.0}, space=space, weights=np.full(7, 1e8))
    assert plain.params["D"] == pytest.approx(3.0, rel=1e-12)
    assert heavy.params == pytest.approx(plain.params, rel=1e-6)
    assert plain.stderr["D"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"space": "logarithmic"}, "space is 'logarithmic'"),
        ({"loss": "hubber"}, "loss is 'hubber'; did you mean 'huber'"),
        ({"fixed": {"E": 1.0}}, r"no parameter 'E' to fix in error = D \* n\^-alpha \+ C"),
        ({"fixed": {"alpha": 0.5}}, "only D can be fixed"),
        ({"fixed": {"D": 0.0}}, "D is fixed at 0; it must be over 0"),
        ({"weights": [1, 1, 1, 1, 1, 1, 0]}, "weights must be over 0"),
        ({"weights": [1, 1]}, "weights has 2 values and n has 7"),
        ({"draw": ["a"]}, "draw has 1 values and n has 7"),
    ],
)
def test_wrong_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fit(TransferLaw(), n=SIZES, error=noisy(6), **arguments)
    with pytest.raises(UserError, match="n must be numbers: could not convert"):
        fit(n=["many"], error=[0.1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--space", "logs"], "space: 'logs' is unknown; did you mean 'log'?"),
        (["--loss", "absolute"], "loss: 'absolute' is unknown; valid: huber, squares"),
        (["--plots", "gif"], "plots: 'gif' is unknown"),
        (["--level", "95"], "level is 95; give a confidence level from 0.5 to below 1, such as 0.95"),
        (["--bootstrap", "-1"], "bootstrap is -1"),
        (["--target-error", "5"], "target error 5 is not between 0 and 1; an error of 10 % is 0.1"),
        (["--budget", "10"], "cost_per_image and budget go together"),
        (["--budget", "10", "--cost-per-image", "0"], "cost per image is 0; it must be over 0"),
        (
            ["--fix-d", "guess"],
            "fix_d: 'guess' is unknown; valid: auto, free, median, pooled, shared",
        ),
        (["--fix-d", "-2"], "D is fixed at -2"),
        (["--target-size", "shots"], "no column 'shots' (--target-size)"),
        (["--cluster", "seeds"], "no column 'seeds' (--cluster)"),
        (["--tagret-error", "0.1"], "unknown option --tagret-error"),
    ],
)
def test_wrong_options(tmp_path, options: list[str], message: str) -> None:
    path = tmp_path / "results.csv"
    results({"digits": falling(0.2, 0.0)}, 0.1275, seed=1).to_csv(path, index=False)
    with pytest.raises(UserError) as error:
        main([str(path), *options])
    assert message in str(error.value)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["results.csv"]


def test_every_option_at_once(tmp_path, capsys) -> None:
    path = tmp_path / "other.csv"
    frame = results({"digits": falling(0.5, 0.2), "shapes": flat(0.12)}, 0.1275, seed=2)
    names = {"pretrain_images": "images", "score": "accuracy", "draw_seed": "fold"}
    frame.rename(columns=names).drop(columns=["error", "run_id"]).to_csv(path, index=False)
    options = """--size images --score accuracy --score-is accuracy --by render --cluster draw:fold,pretrain_seed
        --where 'finetune_images == 100' --form transfer --fix-d shared --share-by render --loss huber --bootstrap 50
        --seed 3 --level 0.9 --hold-out-from 1024 --target-error 0.03 --budget 5 --cost-per-image 0.01 --plots svg"""
    code = main([str(path), "--out", str(tmp_path / "out"), *shlex.split(options)])
    assert code == 0
    record = json.loads((tmp_path / "out" / "fits.json").read_text())
    assert record["settings"]["cluster"] == "draw:fold,pretrain_seed"
    group = record["groups"][0]
    assert group["law"]["level"] == 0.9
    assert group["law"]["draws"] == ["0", "1", "2"]
    assert group["hold_out"]["n"] == [1024, 2048]
    assert group["bootstrap"]["resamples"] == 50
    assert group["choices"]
    assert record["advice"][0].startswith("Pre-training is better than none with both. digits, at n = 2,048: error ")
    assert record["advice"][1].startswith("digits: 2 points from n = 1,024 to 2,048 were predicted")
    assert "90 % interval" in capsys.readouterr().out
    assert (tmp_path / "out" / "law.svg").is_file()


@pytest.mark.parametrize(
    ("cluster", "points", "draws"),
    [
        (("seed",), 7, 2),  # the same labels at every size: draws
        (("pretrain:seed",), 14, 0),  # said to be pre-training runs
        (("run",), 14, 0),  # each label at one size
        ((), 14, 0),
    ],
)
def test_clusters_by_their_values_or_by_name(cluster: tuple[str, ...], points: int, draws: int) -> None:
    frame = pd.DataFrame({"n": np.repeat(SIZES, 2), "error": np.repeat(noisy(7), 2) * np.tile([1.02, 0.98], 7)})
    frame["seed"], frame["run"] = np.tile([0, 1], 7), np.arange(14)
    law = analyse(groups(frame, Columns(size="n", by=(), cluster=cluster)))[0].law
    assert law is not None
    assert len(law.cells.n) == points
    assert len(law.cells.offsets) == draws


def test_a_rising_curve_is_noted() -> None:
    frame = pd.DataFrame({"n": np.repeat(SIZES, 3), "error": np.repeat(noisy(8, 0.01), 3)})
    frame["error"] *= np.tile([0.999, 1, 1.001], 7)
    assert analyse(groups(frame, Columns(size="n", by=())))[0].notes == []
    frame["error"] = np.repeat([0.3, 0.2, 0.2, 0.2, 0.2, 0.2, 0.3], 3) * np.tile([0.999, 1, 1.001], 7)
    notes = analyse(groups(frame, Columns(size="n", by=())), method=Method(loss="huber"))[0].notes
    assert notes
    assert "The error rises from n = " in notes[0]
    assert "by 50 %" in notes[0]


def test_numbers_in_sentences() -> None:
    assert [percent(x) for x in (0.123, 0.0123, -0.0001, -0.05)] == ["12 %", "1.2 %", "0 %", "-5.0 %"]
    assert [sure(x) for x in (0.999, 0.83, 0.001)] == ["over 99 %", "83 %", "under 1 %"]
    assert [signed(x) for x in (-0.004, 0.004, 0.126, -0.051)] == ["0 %", "0 %", "+13 %", "-5 %"]
    assert [lower_or_higher(np.log(x)) for x in (0.928, 1.072, 0.5)] == ["7.2 % lower", "7.2 % higher", "50 % lower"]
    assert [lower_or_higher(x) for x in (-np.inf, np.inf)] == ["without bound"] * 2
    ends = [(0.76, 1.055), (0.45, 0.76), (1.03, 1.18)]
    texts = [change_interval(*np.log(pair)) for pair in ends]
    assert texts == ["24 % lower to 5.5 % higher", "24 % to 55 %", "3.0 % to 18 %"]
    assert [images(x) for x in (12.3, 12345, 999.7e3, 1.234e6, 12.34e6, 1.234e9, 123.4e9, np.inf)] == [
        "12",
        "12,300",
        "1 million",
        "1.23 million",
        "12.3 million",
        "1.23 billion",
        "123 billion",
        "no bound",
    ]
    assert [images(x) for x in (45.67e12, 4.5e16, 1.04e300)] == ["45.7 trillion", "4.5×10¹⁶", "1×10³⁰⁰"]
