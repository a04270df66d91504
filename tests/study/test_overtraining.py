"""Tables of simulated studies: what is said of them, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lightning_tl.errors import UserError
from lightning_tl.study.config import Stage, Study
from lightning_tl.study.overtraining import analyse, conclude, scenario
from lightning_tl.study.overtraining_words import answers

BUDGETS = [100, 200, 400, 800, 1600]
LRS = [0.001, 0.004, 0.016]
GAMMAS = [0.05, 0.1, 0.4]
SEEDS, DRAWS = 3, 2


def study(best=lambda steps: 0.004, ends=(0.0,), turn=400, passes=1.0, seed=0):
    """At the largest learning rate the forgotten loss is lowest at ``turn``, at the smallest it falls throughout."""
    rng = np.random.default_rng(seed)
    results, measured = [], []
    for end in ends:
        for steps in BUDGETS:
            x = np.log(steps / turn)
            for number in range(SEEDS):
                run = f"pre-{end}-{steps}-{number}"
                before = 0.4 * (steps / 100) ** -0.5 * np.exp(rng.normal(0, 0.01))
                for gamma in GAMMAS:
                    rise = 0.1 * gamma**2 * (steps / 100) ** 0.5 * np.exp(rng.normal(0, 0.01))
                    rise *= 0.5 if gamma == 0.4 else 1.0  # no longer quadratic
                    for quantity, value in (("sensitivity", rise), ("perturbed_loss", before + rise)):
                        measured.append((run, steps, quantity, "", gamma, value, 0.0))
                measured.append((run, steps, "hessian", "trace", "", 10 * steps**0.5, 0.0))
                measured.append((run, 1, "hessian", "trace", "", -1.0, 0.0))  # of an earlier step: not the last
                for draw in range(DRAWS):
                    for lr in LRS:
                        after = np.exp((0.3 * x**2 if lr == LRS[-1] else -0.3 * x) + rng.normal(0, 0.02))
                        error = 0.2 + 0.1 * abs(np.log(lr / best(steps))) + rng.normal(0, 0.002)
                        row = {"run_id": f"{run}-{draw}-{lr}", "render": "digits", "pretrain_images": steps * 16}
                        row |= {"pretrain_steps": steps, "pretrain_seed": number, "pretrain_run": run}
                        row |= {"pretrain_passes": passes, "draw_seed": draw, "lr": lr, "error": error}
                        row |= {"pretrain_loss_before": before, "pretrain_loss_after": after + before}
                        row |= {"param_distance": 50 * lr**0.5, "pretrain.model.schedule.init_args.end": end}
                        results.append(row | {"finetune.model.optimizer.lr": lr, "pretrain.trainer.max_steps": steps})
    columns = ["run_id", "step", "quantity", "group", "gamma", "value", "stderr"]
    return pd.DataFrame(results), pd.DataFrame(measured, columns=columns)


@pytest.fixture(scope="module")
def found():
    return analyse(*study())


def test_a_turn_at_one_learning_rate_alone(found):
    (series,) = found.series
    verdicts = [item.verdict for item in series.family("forgotten", "lr")]
    assert verdicts == ["falls", "falls", "u"]
    turning = series.family("forgotten", "lr")[-1]
    assert turning.seeds == SEEDS
    assert turning.draws == DRAWS
    # (0.3·log²(b/400) has its minimum at 400; the pre-training loss added to it moves it a little)
    b = np.geomspace(100, 1600, 5000)
    truth = b[np.argmin(np.exp(0.3 * np.log(b / 400) ** 2) + 0.4 * (b / 100) ** -0.5)]
    assert turning.inflection_interval[0] <= truth <= turning.inflection_interval[1]
    said = next(text for text in found.sentences if "pre-training loss after fine-tuning" in text)
    assert "falls, then rises at lr 0.016" in said
    assert f"beyond {turning.inflection:,.0f} steps (95 % interval" in said
    assert "falls at lr ≤ 0.004" in said


def test_the_answer_names_the_harm_and_the_fragility(found):
    (said,) = found.answer
    assert said.startswith(
        "Pre-training longer makes the fine-tuned network forget more of its pre-training at lr 0.016"
    )
    assert "(at 0.016 beyond " in said
    noise = found.series[0].family("sensitivity", "gamma")[-1]
    rate = found.series[0].family("increase", "lr")[-1]
    low, high = (f"({low:.3g} to {high:.3g})" for low, high in (noise.rise_interval, rate.rise_interval))
    assert said.endswith(
        f"The network becomes more fragile: its pre-training loss rises {noise.rise:.3g} times as much under noise of "
        f"γ 0.4 at 1,600 steps as at 100 (95 % interval {low[1:]}, and {rate.rise:.3g} times as much by fine-tuning at "
        f"lr 0.016 at 1,600 steps as at {rate.inflection:,.0f} (95 % interval {high[1:]}."
    )


def test_fragile_on_the_way_alone(found):
    (series,) = found.series
    curves = [replace(item, rise_interval=(0.9, 8.0)) for item in series.curves]
    (said,) = answers([replace(series, curves=tuple(curves))], 0.95)
    assert "more fragile on the way (under noise of γ 0.05 to 0.4 and by fine-tuning at lr 0.016), but is not" in said
    assert said.endswith("shown to be so at 1,600 steps.")


def test_the_answer_without_harm():
    results, measured = study()
    results["pretrain_loss_after"] = results["pretrain_loss_before"]
    results["error"] = 0.3 * results["pretrain_steps"] ** -0.2 * (1 + 0.01 * results["draw_seed"])
    measured["value"] = measured["value"] / measured["step"] ** 2
    (said,) = analyse(results, measured).answer
    assert said.startswith("No budget up to 1,600 steps is shown to be too long: at no learning rate does the error")
    assert "With the best rate of each budget the error still falls." in said
    assert said.endswith(
        "That its loss rises more under the same noise or fine-tuning, so that it becomes fragile, is not shown."
    )
    results["pretrain_loss_after"] = results["pretrain_loss_before"] + 9 / results["pretrain_steps"]
    (said,) = analyse(results, measured).answer
    assert said.endswith("less fragile: its loss rises less and less under the same noise or fine-tuning.")
    alone = results[(results["pretrain_seed"] == 0) & (results["draw_seed"] == 0)]
    (said,) = analyse(alone, measured.iloc[:0]).answer
    assert said == "Whether longer pre-training does harm cannot be told from single runs."


def test_without_a_turn_that_is_said(found):
    said = next(text for text in found.sentences if "under noise in the weights" in text)
    assert said.startswith("No inflection is shown within these budgets: between 100 and 1,600 steps")
    assert [item.verdict for item in found.series[0].family("sensitivity", "gamma")] == ["rises"] * 3


def test_measurements_are_those_of_the_last_step(found):
    (trace,) = found.series[0].family("trace")
    assert trace.mean == pytest.approx([10 * steps**0.5 for steps in BUDGETS])


def test_the_quadratic_range(found):
    (quadratic,) = found.series[0].quadratic
    assert quadratic.up_to == (0.1,) * 5
    assert np.array(quadratic.ratio)[:, 2] == pytest.approx([0.5] * 5, rel=0.05)


@pytest.mark.parametrize(
    "best,expected",
    [
        (lambda steps: 0.004, "constant"),
        (lambda steps: 0.016 * (steps / 100) ** -0.8, "quickly decreasing"),
        (lambda steps: 0.001 * (steps / 100) ** 0.8, "increasing"),
    ],
)
def test_the_best_learning_rate(best, expected):
    tuned = analyse(*study(best)).series[0].tuned
    assert tuned.scenario == expected
    nearest = [min(LRS, key=lambda lr: abs(np.log(lr / best(steps)))) for steps in BUDGETS]
    assert list(tuned.lr) == nearest
    assert all(low <= lr <= high for lr, (low, high) in zip(tuned.lr, tuned.interval, strict=True))
    assert tuned.slope == pytest.approx(np.polyfit(np.log(BUDGETS), np.log(nearest), 1)[0])


def test_the_cases_of_the_best_learning_rate():
    assert scenario(-1.0, -0.2, 0.5, "u") == "slowly decreasing"
    assert scenario(-1.0, -0.2, 0.5, "falls") == "quickly decreasing"
    assert scenario(-1.0, 0.2, 0.5, "u") == "undecided"
    assert scenario(-0.1, 0.1, 0.5, "u") == "constant"
    assert scenario(0.1, 0.3, 0.5, "u") == "increasing"
    assert scenario(float("nan"), float("nan"), 0.5, "u") == "undecided"


def test_series_are_told_apart_and_named():
    found = analyse(*study(ends=(0.0, 1.0)))
    assert [one.name for one in found.series] == ["annealed to zero", "constant rate"]
    assert any(text.startswith("Constant rate: ") for text in found.sentences)


@pytest.mark.parametrize("passes,said", [(1.0, "every pre-training image was fresh"), (8.0, "images were repeated, 8")])
def test_repeats_are_named(passes, said):
    assert any(said in text.lower() for text in analyse(*study(passes=passes)).sentences)


def test_runs_that_failed_are_left_out_and_told():
    results, measured = study()
    lost = (results["lr"] == LRS[-1]) & (results["pretrain_steps"] == 1600) & (results["pretrain_seed"] == 2)
    found = analyse(results[~lost], measured)
    assert found.series[0].family("forgotten", "lr")[-1].seeds == SEEDS - 1
    assert any(
        "Lr 0.016 lacks 2 runs (failed, or not run yet): 2 seeds and 2 draws are left" in t for t in found.sentences
    )


def test_no_measurements_and_single_runs():
    results, measured = study()
    alone = results[(results["pretrain_seed"] == 0) & (results["draw_seed"] == 0)]
    found = analyse(alone, measured.iloc[:0])
    assert not found.series[0].family("sensitivity", "gamma")
    assert found.series[0].tuned.scenario == "undecided"
    assert any("stands on single runs: no interval" in text for text in found.sentences)
    assert any("no interval covers the luck of a pre-training" in text for text in found.sentences)


def test_a_folder_gets_json_and_figures(tmp_path):
    results, measured = study(ends=(0.0, 1.0))
    results.to_csv(tmp_path / "results.csv", index=False)
    measured.to_csv(tmp_path / "measurements.csv", index=False)
    found = conclude(tmp_path)
    written = json.loads((tmp_path / "overtraining.json").read_text())
    assert written["sentences"] == list(found.sentences)
    assert [each["file"] for each in written["figures"]] == [
        f"overtraining_{name}.png" for name in ("sensitivity", "loss", "tuned", "distance", "quadratic")
    ]
    assert all((tmp_path / each["file"]).stat().st_size > 5000 and each["caption"] for each in written["figures"])
    assert written["series"][1]["name"] == "constant rate"


def test_tables_that_lack_something(tmp_path):
    results, measured = study()
    with pytest.raises(UserError, match=r"no pretrain_loss_after, .*; set forgetting: true and run the study again"):
        analyse(results.drop(columns="pretrain_loss_after"), measured)
    with pytest.raises(UserError, match=r"results\.csv has no lr, which .*; run the study again"):
        analyse(results.assign(lr=np.nan), measured)
    with pytest.raises(UserError, match=r"2 budgets \(pretrain_steps 100, 200\).*at least 3: add lengths"):
        analyse(results[results["pretrain_steps"] < 300], measured)
    with pytest.raises(UserError, match="no row of a fine-tuning from a pre-training"):
        analyse(results.assign(pretrain_images=0), measured)
    with pytest.raises(UserError, match=r"results\.csv: cannot be read"):
        conclude(tmp_path)


def test_a_study_that_cannot_be_analysed():
    stage = Stage(config="pretrain/small_images")
    with pytest.raises(UserError, match="analysis: overtraining needs a pretrain stage and forgetting: true"):
        Study(finetune=stage, pretrain=stage, analysis="overtraining").check()
