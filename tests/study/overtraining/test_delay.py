"""Turns of curves over budgets, with and without a pull to the pre-trained weights, on curves of known truth."""

import numpy as np
import pandas as pd
import pytest
from turning_curves import BUDGETS, curves

from lightning_tl.study.overtraining import analyse, conclude
from lightning_tl.study.overtraining.delay import delay
from lightning_tl.study.overtraining.delay_words import delay_answers, delay_table
from lightning_tl.study.report_page import write_report


def test_without_noise_the_factor_is_exact():
    steps = np.log(BUDGETS)[:, None, None]
    clean = [np.broadcast_to(0.15 * (steps - np.log(turn)) ** 2, (5, 2, 3)) for turn in (181, 362)]
    factor, (low, high), p, _ = delay(BUDGETS, *clean)
    assert factor == pytest.approx(2, rel=1e-6)
    assert low == pytest.approx(2, rel=1e-3)
    assert high == pytest.approx(2, rel=1e-3)
    assert p < 0.001


@pytest.mark.parametrize("turns", [(256, 256), (181, 256)])
def test_the_interval_covers_and_no_delay_is_seldom_called_one(turns):
    covered = called = 0
    for world in range(150):
        _, (low, high), p, _ = delay(BUDGETS, *curves(turns, np.random.default_rng(world)), seed=world)
        covered += low <= turns[1] / turns[0] <= high
        called += p <= 0.05
    assert covered >= 0.93 * 150
    assert called <= 12 if turns[0] == turns[1] else called >= 140  # of 150 at 5 %: more than 12 in 3 % of cases


def test_flat_curves_have_no_delay():
    called = sum(delay(BUDGETS, *curves((9, 9), np.random.default_rng(w), bend=0))[2] <= 0.05 for w in range(100))
    assert called <= 10


def test_a_turn_beyond_the_last_budget_has_no_upper_end():
    rng = np.random.default_rng(1)
    factor, (low, high), p, _ = delay(BUDGETS, *curves((181, 4000), rng))
    assert factor == pytest.approx(1024 / 181, rel=0.3)  # as far as the budgets reach
    assert high == np.inf
    assert 1 < low < factor
    assert p < 0.01
    single = curves((181, 512), rng, seeds=1, draws=1)
    assert np.isnan(delay(BUDGETS, *single)[2])


def table(delayed, draws=3):
    rng = np.random.default_rng(3)
    rows = []
    turns = {"full": 181, "l2sp(strength=0.01)": 362 if delayed else 181, "l2sp(strength=0.001)": 181}
    for lr in (0.01, 0.04):
        values = dict(zip(turns, curves(turns.values(), rng, draws=draws), strict=True))
        for label, cube in values.items():
            for k, steps in enumerate(BUDGETS):
                for seed in range(2):
                    for draw in range(draws):
                        value = cube[k, seed, draw]
                        row = {"run_id": f"{label}-{lr}-{steps}-{seed}-{draw}", "pretrain_images": steps * 64}
                        row |= {"pretrain_steps": steps, "pretrain_seed": seed, "pretrain_run": f"pre-{steps}-{seed}"}
                        row |= {"draw_seed": draw, "lr": lr, "transfer": label, "error": 0.2 + 0.1 * value}
                        row |= {"finetune_loss": np.exp(value), "val_finetune_loss": np.exp(value)}
                        row |= {"pretrain_loss_before": 0.4, "pretrain_loss_after": 0.4 + np.exp(value)}
                        row |= {"param_distance": 1.0, "finetune.model.transfer.init_args.strength": label}
                        rows.append(row)
    return pd.DataFrame(rows)


EMPTY = pd.DataFrame(columns=["run_id", "step", "quantity", "group", "gamma", "value", "stderr"])


def test_series_of_the_pulls_strength_side_by_side():
    analysis = analyse(table(delayed=True), EMPTY)
    assert [item.name for item in analysis.series] == ["full", "l2sp(strength=0.001)", "l2sp(strength=0.01)"]
    assert len(analysis.delays) == 3 * 2 * 2  # quantities, methods, rates
    for item in analysis.delays:
        assert item.reference == "full"
        late = item.method == "l2sp(strength=0.01)"
        assert (item.p <= 0.05) == late
        low, high = item.ratio_interval
        assert low <= (2 if late else 1) * 1.1
        assert high >= (2 if late else 1) / 1.1
        own = next(series for series in analysis.series if series.name == item.method)
        curve = next(one for one in own.family(item.quantity, "lr") if one.value == item.lr)
        assert item.inflection[1] == curve.inflection or np.isnan(item.inflection[1])
    weak, strong = delay_answers(analysis.delays, 0.95)
    assert weak.startswith("Against full, no delay of a turn by l2sp(strength=0.001) was detected")
    assert strong.startswith(
        "Against full, l2sp(strength=0.01) delays the turn: the pre-training loss after fine-tuning"
    )
    heads, rows = delay_table(analysis.delays)
    assert "inflection point (Def. 4.2)" in heads
    assert len(rows) == 12


def test_other_series_are_not_compared():
    both = [table(delayed=True).assign(**{"pretrain.model.schedule.init_args.end": end}) for end in (0.0, 1.0)]
    analysis = analyse(pd.concat(both, ignore_index=True), EMPTY)
    assert {item.series for item in analysis.delays} == {"annealed to zero", "constant rate"}
    assert len(analysis.delays) == 24
    assert analyse(table(True).query("transfer == 'full'"), EMPTY).delays == ()


def test_the_page_shows_the_comparison(tmp_path):
    table(delayed=True).to_csv(tmp_path / "results.csv", index=False)
    EMPTY.to_csv(tmp_path / "measurements.csv", index=False)
    record = conclude(tmp_path)
    assert "delays the turn: " in record["answer"][-1]
    assert "Does a way of fine-tuning delay the turn?" in write_report(tmp_path).read_text(encoding="utf-8")
