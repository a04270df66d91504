"""Budgets, the next size to render, model sizes: decisions whose right answer is known."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lightning_tl.errors import UserError
from lightning_tl.laws.advice import DIFFERENT, MODEL, MORE, advise
from lightning_tl.laws.columns import Columns
from lightning_tl.laws.forms import FullLaw
from lightning_tl.laws.group_fits import Method, analyse
from lightning_tl.laws.results_table import groups
from lightning_tl.laws.spending import Budget, choices, model_parameters, next_size
from lightning_tl.laws.transfer_gaps import gap_by_model_size

SIZES = 1000 * 2.0 ** np.arange(7)
COLUMNS = Columns(size="n", score="error", by=("render", "model"))


def table(laws: dict[tuple[str, str], tuple[float, float, float]], noise: float = 0.003, seed: int = 0) -> pd.DataFrame:
    """Rows of transfer laws (D, alpha, C) by (render, model)."""
    rng = np.random.default_rng(seed)
    rows = []
    for (render, model), (d, alpha, gap) in laws.items():
        for n in SIZES:
            error = (d * n**-alpha + gap) * np.exp(noise * rng.standard_normal())
            rows.append({"render": render, "model": model, "n": n, "error": error})
    return pd.DataFrame(rows)


def fits_of(laws, **kwargs):
    return analyse(groups(table(laws, **kwargs), COLUMNS))


def test_the_budget_goes_where_the_error_falls_most() -> None:
    laws = {
        ("plain", "r18"): (0.8, 0.4, 0.20),
        ("random", "r18"): (0.8, 0.4, 0.12),
        ("plain", "r50"): (0.8, 0.4, 0.17),
    }
    fits = fits_of(laws)
    found = choices(fits[0], fits, Budget(cost_per_image=0.01, amount=640))
    assert [choice.kind for choice in found] == ["another rendering", "another model", "more images"]
    assert [choice.n for choice in found] == [128_000, 64_000, 128_000]
    for choice, (d, alpha, gap) in zip(
        found, [laws["random", "r18"], laws["plain", "r50"], laws["plain", "r18"]], strict=True
    ):
        assert choice.low < d * choice.n**-alpha + gap < choice.high
    advice = advise(fits, budget=Budget(0.01, 640))
    text = " ".join(advice.groups[0].sentences)
    assert "A budget of 640 buys 64,000 images: another rendering (random / r18, n = 128,000)" in text
    assert "Another rendering (random / r18) has the lowest expected error." in text
    assert "Of these, more images have the lowest expected error" in " ".join(advice.groups[1].sentences)


def test_the_verdict_follows_the_budget() -> None:
    """What is told to be better for the money is the verdict, also where more images would help too."""
    laws = {
        ("plain", "r18"): (0.8, 0.3, 0.02),
        ("plain", "r50"): (0.8, 0.3, 0.001),
        ("random", "r50"): (0.8, 0.3, 0.05),
    }
    fits = fits_of(laws)
    assert [item.verdict for item in advise(fits).groups] == [MORE, MORE, DIFFERENT]
    spent = advise(fits, budget=Budget(0.01, 64)).groups
    assert [item.verdict for item in spent] == [MODEL, MORE, DIFFERENT]
    assert "For the budget, plain / r50 has a lower error than more images of this kind." in spent[0].sentences[0]


def test_what_the_data_do_not_tell_is_said() -> None:
    same = (0.8, 0.4, 0.15)
    fits = fits_of({("a", "r18"): same, ("b", "r18"): same}, noise=0.01)
    texts = [" ".join(group.sentences) for group in advise(fits, budget=Budget(1, 1000)).groups]
    assert any("but its difference from more images is within the noise" in text for text in texts)


@pytest.mark.parametrize(
    ("cost", "amount", "message"),
    [(0, 1, "cost per image is 0"), (1, -1, "budget is -1"), (1, np.inf, "budget is inf")],
)
def test_budgets_are_positive(cost: float, amount: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Budget(cost, amount)


def test_the_next_size_narrows_the_interval_as_promised() -> None:
    """The promise, by the curvature, against refits with one more simulated run."""
    law = (2.0, 0.5, 0.05)
    item = fits_of({("a", "r18"): law}, noise=0.003)[0]
    told = next_size(item)
    assert told is not None
    assert told.n in (128_000, 256_000, 512_000)
    assert told.at == 640_000
    assert 0 < told.again < told.narrower < 1
    widths = {}
    rng = np.random.default_rng(1)
    for added in (None, told.n):
        found = []
        for seed in range(14):
            frame = table({("a", "r18"): law}, noise=0.003, seed=seed)
            if added is not None:
                error = (2 * added**-0.5 + 0.05) * np.exp(0.003 * rng.standard_normal())
                frame = pd.concat([frame, pd.DataFrame([{"render": "a", "model": "r18", "n": added, "error": error}])])
            low, high = analyse(groups(frame, COLUMNS))[0].law.log_level(640_000)[1]
            found.append(high - low)
        widths[added] = np.median(found)
    assert 1 - widths[told.n] / widths[None] == pytest.approx(told.narrower, abs=0.25)
    few = next_size(item, budget=Budget(1, 70_000))
    assert few is not None
    assert few.n == 128_000
    assert next_size(item, budget=Budget(1, 10)) is None


def test_model_sizes_by_name_and_by_column() -> None:
    fits = fits_of({("a", name): (0.8, 0.4, 0.2) for name in ("r18", "ResNet-50", "resnet152", "vit")})
    assert [model_parameters(item) for item in fits[:3]] == pytest.approx([11.69e6, 25.56e6, 60.19e6])
    assert model_parameters(fits[3]) is None
    frame = table({("a", "vit"): (0.8, 0.4, 0.2)}).assign(backbone_params=5e6)
    assert model_parameters(analyse(groups(frame, COLUMNS))[0]) == 5e6


def test_gaps_by_model_size_follow_their_power_law() -> None:
    sizes = {"r18": 11.69, "r34": 21.80, "r50": 25.56, "r101": 44.55, "r152": 60.19}
    laws = {(render, name): (0.8, 0.45, base * (millions / 11.69) ** -0.3)
            for render, base in (("a", 0.3), ("b", 0.2)) for name, millions in sizes.items()}  # fmt: skip
    families = gap_by_model_size(fits_of(laws, noise=0.001))
    assert [family.label for family in families] == ["a", "b"]
    for family in families:
        assert family.parameters == pytest.approx(1e6 * np.array(list(sizes.values())))
        assert family.law is not None
        low, high = family.law.interval("alpha")
        assert low < 0.3 < high
        assert high - low < 0.2


def test_how_gaps_go_with_model_size_is_said() -> None:
    sizes = {"r18": 11.69, "r34": 21.80, "r50": 25.56, "r101": 44.55}
    laws = {("a", name): (0.8, 0.45, 0.3 * (millions / 11.69) ** -0.3) for name, millions in sizes.items()}
    (told,) = advise(fits_of(laws, noise=0.001)).gaps
    value, low, high = map(float, re.findall(r"-0\.\d+", told))
    assert low <= -0.3 <= high
    assert low <= value <= high
    assert told.endswith("through the gaps of 4 models, each by its precision; 4 of them are identified.")
    (told,) = advise(fits_of(dict.fromkeys(laws, (0.8, 0.1, 0.0)), noise=0.1)).gaps
    assert re.fullmatch(
        r"The relation of the transfer gap to .* cannot be determined: C is identified for [012] of 4 models\.", told
    )


def test_how_gaps_go_with_complexity_is_said() -> None:
    laws = {(f"setting {i}", "r18"): (0.8, 0.45, 0.1 + 0.03 * i) for i in range(6)}
    frame = table(laws, noise=0.001)
    frame["complexity"] = frame["render"].str[-1].astype(float) * -10
    (told,) = advise(analyse(groups(frame, COLUMNS))).gaps
    assert told.startswith(
        "Over 6 groups with an identified C its rank correlation with the data's complexity (larger: more complex) "
        "is -1.00"
    )
    few = frame[frame["render"].isin(["setting 0", "setting 1"])]
    (told,) = advise(analyse(groups(few, COLUMNS))).gaps
    assert told.endswith("cannot be determined: C is identified for 2 of 2 groups.")


def test_what_real_images_are_worth_is_said() -> None:
    rng = np.random.default_rng(0)
    n, s = (grid.ravel() for grid in np.meshgrid(SIZES, [100.0, 400.0, 1600.0]))
    error = 2 * (0.02 + n**-0.4) * s**-0.3 * np.exp(0.005 * rng.standard_normal(len(n)))
    frame = pd.DataFrame({"n": n, "s": s, "error": error, "render": "a"})
    table_of = Columns(size="n", score="error", by=("render",), target_size="s")
    fits = analyse(groups(frame, table_of), FullLaw())
    (told,) = advise(fits).gaps
    found = [float(number) / 100 for number in re.findall(r"([\d.]+) %", told)][:6]
    for truth, (value, low, high) in zip(
        (1 - 2**-0.3, 1 - (0.02 + 128_000**-0.4) / (0.02 + 64_000**-0.4)), (found[:3], found[3:]), strict=True
    ):
        assert low - 0.005 <= truth <= high + 0.005  # printed with two digits
        assert low <= value <= high
    assert "twice the 64,000 rendered ones" in told


def test_pre_training_tasks_compete_for_each_fine_tuning() -> None:
    laws = {(task, to): (0.8, 0.4, gap) for task, gap in (("mulclass", 0.2), ("objdet", 0.1)) for to in ("x", "y")}
    frame = table(laws).rename(columns={"render": "pretrain_task", "model": "finetune_task"})
    columns = replace(COLUMNS, by=("pretrain_task", "finetune_task"))
    advice = advise(analyse(groups(frame, columns)))
    assert [line.startswith(f"Keep objdet / {to}") for line, to in zip(advice.ranking, "xy", strict=True)] == [True] * 2


def test_groups_compete_within_a_task_and_model_only() -> None:
    laws = {("a", "r18"): (0.8, 0.4, 0.2), ("b", "r18"): (0.8, 0.4, 0.1), ("a", "r50"): (0.8, 0.4, 0.05)}
    advice = advise(fits_of(laws))
    assert advice.best is None
    assert len(advice.ranking) == 1
    assert advice.ranking[0].startswith("Keep b / r18")
    assert len(advice.comparisons) == 3


def test_many_groups_are_counted() -> None:
    laws = {(f"render {i}", "r18"): (0.8, 0.4, 0.1 + 0.01 * i) for i in range(12)}
    advice = advise(analyse(groups(table(laws), COLUMNS), method=Method()))
    assert advice.headline[0].startswith("Whether pre-training is better than none is not known")
    assert len(advice.headline) == 3
    assert "groups" in advice.headline[2]
    assert sum(int(part.split(": ")[1].split()[0]) for part in advice.headline[2].rstrip(".").split("; ")) == 12
    assert len(advice.comparisons) == 66
