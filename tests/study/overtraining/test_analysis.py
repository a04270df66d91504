"""Tables of simulated studies: what the analysis says of them, and what it refuses."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats

from lightning_tl.errors import UserError
from lightning_tl.figure_style import narrow_path
from lightning_tl.study.config import OvertrainingOptions, Stage, Study
from lightning_tl.study.overtraining import Overtraining, analyse, conclude
from lightning_tl.study.overtraining.analysis import scenario
from lightning_tl.study.overtraining.overtraining_figures import figures
from lightning_tl.study.overtraining.overview import NO_BREAK, overview
from lightning_tl.study.overtraining.words import answers, sentences

BUDGETS = [100, 200, 400, 800, 1600]
LRS = [0.001, 0.004, 0.016]
GAMMAS = [0.05, 0.1, 0.4]
SEEDS, DRAWS = 3, 2


def study(best=lambda steps: 0.004, ends=(0.0,), turn=400, passes=1.0, seed=0):
    """At the largest learning rate the forgotten loss is lowest at ``turn``, at the smallest it falls throughout.

    Under noise of γ = 0.05 and 0.1, and up to a learning rate of 0.004, the loss is quadratic; beyond it rises half as
    much as the quadratic approximation says.
    """
    rng = np.random.default_rng(seed)
    results, measured = [], []
    for end in ends:
        for steps in BUDGETS:
            x = np.log(steps / turn)
            for number in range(SEEDS):
                run = f"pre-{end}-{steps}-{number}"
                before = 0.4 * (steps / 100) ** -0.5 * np.exp(rng.normal(0, 0.01))
                trace = 0.2 * (steps / 100) ** 0.5 * np.exp(rng.normal(0, 0.01))
                for gamma in GAMMAS:
                    rise = 0.5 * gamma**2 * trace * (0.5 if gamma == 0.4 else 1.0)
                    stderr = 0.02 * rise
                    rise += stderr * rng.normal()
                    for quantity, value in (("sensitivity", rise), ("perturbed_loss", before + rise)):
                        measured.append((run, steps, quantity, "", gamma, value, stderr))
                measured.append((run, steps, "hessian", "weighted_trace", "", trace, 0.0))
                measured.append((run, steps, "hessian", "trace", "", 10 * steps**0.5, 0.0))
                measured.append((run, 1, "hessian", "trace", "", -1.0, 0.0))  # of an earlier step: not the last
                for draw in range(DRAWS):
                    for lr in LRS:
                        after = np.exp((0.6 * x**2 if lr == LRS[-1] else -0.3 * x) + rng.normal(0, 0.02))
                        error = 0.2 + 0.1 * abs(np.log(lr / best(steps))) + rng.normal(0, 0.002)
                        line = lr * steps**0.5
                        row = {"run_id": f"{run}-{draw}-{lr}", "render": "digits", "pretrain_images": steps * 16}
                        row |= {"pretrain_steps": steps, "pretrain_seed": number, "pretrain_run": run}
                        row |= {"pretrain_passes": passes, "draw_seed": draw, "lr": lr, "error": error}
                        row |= {"finetune_loss": 2 * error, "val_finetune_loss": 2 * error + rng.normal(0, 0.002)}
                        row |= {"pretrain_loss_before": before, "pretrain_loss_after": after + before}
                        row |= {"pretrain_loss_saved": before, "pretrain_loss_after_saved_bn": 1.1 * after + before}
                        row |= {"pretrain_loss_after_target_bn": 2 * after + before, "param_distance": 50 * lr**0.5}
                        row |= {"line_slope": 0.2 * line, "line_curvature": 1.6 * line}
                        row |= {"line_rise": line * (0.5 if lr == LRS[-1] else 1.0)}
                        row |= {"pretrain.model.schedule.init_args.end": end}
                        results.append(row | {"finetune.model.optimizer.lr": lr, "pretrain.trainer.max_steps": steps})
    columns = ["run_id", "step", "quantity", "group", "gamma", "value", "stderr"]
    return pd.DataFrame(results), pd.DataFrame(measured, columns=columns)


@pytest.fixture(scope="module")
def found():
    return analyse(*study())


def test_a_turn_only_at_the_largest_learning_rate(found):
    (series,) = found.series
    verdicts = [item.verdict for item in series.family("forgotten", "lr")]
    assert verdicts == ["falls", "falls", "u"]
    turning = series.family("forgotten", "lr")[-1]
    assert turning.seeds == SEEDS
    assert turning.draws == DRAWS
    # (0.6·log²(b/400) has its minimum at 400; the pre-training loss added to it moves it a little)
    b = np.geomspace(100, 1600, 5000)
    truth = b[np.argmin(np.exp(0.6 * np.log(b / 400) ** 2) + 0.4 * (b / 100) ** -0.5)]
    assert turning.vertex_interval[0] <= truth <= turning.vertex_interval[1]
    assert turning.inflection == 400  # Def. 4.2: the loss at 800 steps is the first that is above that before it
    text = next(text for text in sentences(found) if "the pre-training loss after fine-tuning" in text)
    assert "falls, then rises at lr 0.016" in text
    assert f"lowest near {turning.vertex:,.0f} steps (95 % interval" in text
    assert "first significant increase after 400 steps (the inflection point of Def. 4.2)" in text
    assert "falls at lr ≤ 0.004" in text


def test_the_overview_has_a_row_for_values_that_behave_alike(found):
    heads, rows = overview(found)
    assert heads == ["", "all runs"]
    cells = {row[0].replace(NO_BREAK, " "): row[1] for row in rows}
    (series,) = found.series
    turning = series.family("forgotten", "lr")[-1]
    assert cells["pre-training loss after fine-tuning, lr ≤ 0.004"] == "↘"
    place, factor = (
        "{:,.0f} to {:,.0f}".format(*turning.vertex_interval),
        "{:.3g} to {:.3g}".format(*turning.rise_interval),
    )
    near = f"∪ near {turning.vertex:,.0f} ({place}) steps, then ×{turning.rise:.3g} ({factor})"
    assert cells["pre-training loss after fine-tuning, lr 0.016"] == near
    grown = series.family("sensitivity", "gamma")
    low, high = min(item.rise_interval[0] for item in grown), max(item.rise_interval[1] for item in grown)
    rises = [item.rise for item in grown]
    growth = f"↗ ×{min(rises):.3g} to {max(rises):.3g} ({low:.3g} to {high:.3g})"
    assert cells["rise of the pre-training loss under noise, γ 0.05 to 0.4"] == growth
    assert cells["best lr, from the shortest to the longest budget"].startswith("0.004 (constant)")
    assert cells["quadratic under noise, up to γ"] == "0.1"  # as planted
    assert cells["quadratic along fine-tuning, up to lr"] == "0.004"
    assert cells["pre-trainings per budget × draws"] == f"{SEEDS} × {DRAWS}"
    assert cells["passes over the pre-training samples"] == "1"


def test_of_several_series_the_answer_is_short_and_the_table_has_them_side_by_side():
    analysis = analyse(*study(ends=(0.0, 1.0)))
    heads, rows = overview(analysis)
    assert heads[1:] == [series.name for series in analysis.series]
    assert all(len(row) == 3 for row in rows)
    said = answers(analysis)
    assert all("lowest near" not in text and len(text) < 640 for text in said)
    assert all(text.count("95 % interval") == text.count("times as much") for text in said)
    assert all("raises the pre-training loss after fine-tuning at lr 0.016." in text for text in said)
    assert sum("95 % interval" in text for text in sentences(analysis)) >= 4


def test_the_answer_names_the_harm_and_the_fragility(found):
    (said,) = answers(found)
    assert said.startswith(
        "Longer pre-training raises the pre-training loss after fine-tuning at lr 0.016 (at 0.016 lowest near "
    )
    number = r"([\d.]+)"
    rise, interval = rf"{number} times as much", rf"\(95 % interval {number} to {number}\)"
    claim = re.search(
        rf"The network becomes more fragile: its pre-training loss rises {rise} under noise of γ 0\.4 at 1,600 steps "
        rf"as at 100 {interval}, and {rise} by fine-tuning at lr 0\.016 at 1,600 steps as at 400 {interval}\.$",
        said,
    )
    assert claim
    # what the tables were made of: the trace grows as the root of the budget, the rise as exp(0.6·log²(b/400))
    results, measured = study()
    under_noise = measured[(measured["quantity"] == "sensitivity") & (measured["gamma"] == 0.4)]
    by_tuning = results[results["lr"] == 0.016].assign(
        value=lambda rows: rows["pretrain_loss_after"] - rows["pretrain_loss_before"],
        step=lambda rows: rows["pretrain_steps"],
    )
    numbers = [float(text) for text in claim.groups()]
    for table, lowest, truth, (ratio, low, high) in (
        (under_noise, 100, 4.0, numbers[:3]),
        (by_tuning, 400, np.exp(0.6 * np.log(4) ** 2), numbers[3:]),
    ):
        last, first = (stats.gmean(table.loc[table["step"] == step, "value"]) for step in (1600, lowest))
        assert ratio == pytest.approx(last / first, rel=0.005)
        assert low < truth < high


def test_harm_at_one_high_rate_is_told_from_harm_at_the_best_rate():
    results, measured = study()
    low, high = results["lr"] == LRS[0], results["lr"] == LRS[-1]
    b, noise = results["pretrain_steps"] / 100, 1 + 0.01 * results["draw_seed"]
    results["error"] = noise * (0.5 * b**-0.2).where(low, (0.7 * b**0.1).where(high, 0.8))  # the lowest rate is best
    results["finetune_loss"] = results["val_finetune_loss"] = 2 * results["error"]
    analysis = analyse(results, measured)
    assert [item.verdict for item in analysis.series[0].family("error", "lr")] == ["falls", "flat", "rises"]
    (said,) = answers(analysis)
    assert said.startswith("Longer pre-training raises the fine-tuning loss at lr 0.016 (")
    best = "the fine-tuning loss, the fine-tuning error and the pre-training loss still fall. "
    assert f". At the best learning rate of each budget, {best}The network becomes" in said
    results["val_finetune_loss"] *= np.where(high, 0.1, 1.0)  # as if the highest rate had been the best
    (said,) = answers(analyse(results, measured))
    assert "of each budget, the pre-training loss falls, then rises; the fine-tuning loss and the fine-tuning" in said


def test_fragile_only_at_some_budgets(found):
    (series,) = found.series
    curves = [replace(item, rise_interval=(0.9, 8.0)) for item in series.curves]
    (said,) = answers(Overtraining((replace(series, curves=tuple(curves)),), 0.95))
    assert (
        "more fragile at some budgets (under noise of γ 0.05 to 0.4 and by fine-tuning at lr 0.016), but the test "
        "does not detect it at 1,600 steps." in said
    )


def test_the_answer_without_harm():
    results, measured = study()
    results["pretrain_loss_after"] = results["pretrain_loss_before"]
    results["error"] = 0.3 * results["pretrain_steps"] ** -0.2 * (1 + 0.01 * results["draw_seed"])
    results["finetune_loss"] = results["val_finetune_loss"] = 2 * results["error"]
    measured["value"] = measured["value"] / measured["step"] ** 2
    (said,) = answers(analyse(results, measured))
    assert said.startswith(
        "No evidence that a budget up to 1,600 steps is too long: at no learning rate did the tests detect"
    )
    still = "the fine-tuning loss, the fine-tuning error and the pre-training loss still fall"
    assert f"At the best learning rate of each budget, {still}. No evidence that" in said
    assert said.endswith("No evidence that the network becomes more fragile under noise or fine-tuning.")
    results["pretrain_loss_after"] = results["pretrain_loss_before"] + 9 / results["pretrain_steps"]
    (said,) = answers(analyse(results, measured))
    assert said.endswith("less fragile: the same noise or fine-tuning raises its loss less and less.")
    single = results[(results["pretrain_seed"] == 0) & (results["draw_seed"] == 0)]
    (said,) = answers(analyse(single, measured.iloc[:0]))
    assert said == "These are single runs, so they cannot show whether longer pre-training does harm."


def test_curves_without_a_turn(found):
    text = next(text for text in sentences(found) if "its rise under that noise" in text)
    assert text.startswith("Between 100 and 1,600 steps, its rise under that noise: rises at γ 0.05 to 0.4")
    assert [item.verdict for item in found.series[0].family("sensitivity", "gamma")] == ["rises"] * 3


def test_three_measures_of_forgetting(found):
    (series,) = found.series
    families = [series.family(f"increase{kind}", "lr") for kind in ("", "_saved_bn", "_target_bn")]
    for own, saved, target in zip(*families, strict=True):
        assert np.array(saved.mean) == pytest.approx(1.1 * np.array(own.mean))
        assert np.array(target.mean) == pytest.approx(2 * np.array(own.mean))


def test_measurements_are_those_of_the_last_step(found):
    (trace,) = found.series[0].family("trace")
    assert trace.mean == pytest.approx([10 * steps**0.5 for steps in BUDGETS])


def test_noise_against_the_measured_trace(found):
    (noise,) = found.series[0].noise
    assert noise.up_to == (0.1,) * 5
    assert np.array(noise.measured) / np.array(noise.predicted) == pytest.approx(np.array([[1, 1, 0.5]] * 5), rel=0.05)
    assert len(noise.deviations) == SEEDS * len(BUDGETS)
    # standard normal by construction: the standard error is that of the simulated noise
    assert np.std(noise.deviations) == pytest.approx(1, abs=0.5)
    text = next(text for text in sentences(found) if "½γ²Tr(ΣH)" in text)
    assert text.startswith("The rise under noise (by initialisation) is within 20 % of ½γ²Tr(ΣH), with the measured")
    assert f"the two differ by {np.median(np.abs(noise.deviations)):.1f} standard errors in the median of 15" in text


def test_no_approximation_without_a_measured_trace():
    results, measured = study()
    series = analyse(results, measured[measured["group"] != "weighted_trace"]).series[0]
    assert series.noise == ()
    without = analyse(results.drop(columns=["line_slope"]), measured).series[0]
    assert without.line is None


def test_fine_tuning_against_slope_and_curvature(found):
    line = found.series[0].line
    assert line.up_to == (0.004,) * 5
    assert np.array(line.measured) / np.array(line.predicted) == pytest.approx(np.array([[1, 1, 0.5]] * 5))
    assert np.array(line.first_order) == pytest.approx(0.2 * np.array(line.predicted))
    assert any("within 20 % of gᵀd + ½dᵀHd up to lr 0.004 at 100 steps" in text for text in sentences(found))


def test_a_window_of_losses_leaves_learning_rates_out():
    results, measured = study()
    analysis = analyse(results, measured, loss_window=(1.0, 5.0))
    (kept,) = analysis.series
    assert [item.value for item in kept.family("forgotten", "lr")] == [0.016]
    assert [item.lr for item in kept.exclusions] == [0.001, 0.004]
    means = results.groupby(["lr", "pretrain_steps"])["pretrain_loss_after"].mean()
    assert (
        f"Lr 0.001 is left out: the pre-training loss after fine-tuning goes from {means[0.001].min():.3g} to "
        f"{means[0.001].max():.3g}, outside the window of 1 to 5." in sentences(analysis)
    )
    assert kept.tuned is None
    with pytest.raises(UserError, match=r"loss_window is 0 to 0\.1, which no learning rate stays within.*widen"):
        analyse(results, measured, loss_window=(0.0, 0.1))
    with pytest.raises(UserError, match=r"loss_window is \[2, 1\]; it must be \[lowest, highest\]"):
        analyse(results, measured, loss_window=(2, 1))


def test_the_best_rate_is_chosen_on_validation_images():
    """A rate that is best on the test images is not taken where validation says otherwise."""
    results, measured = study()
    results["val_finetune_loss"] = (results["lr"] - 0.001).abs() + 1
    tuned = analyse(results, measured).series[0].tuned
    assert tuned.lr == (0.001,) * 5
    at = results[results["lr"] == 0.001].groupby("pretrain_steps")["error"].mean()
    assert np.array(tuned.curve("error").mean) == pytest.approx(at.to_numpy())


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
    assert tuned.slope == pytest.approx(stats.linregress(np.log(BUDGETS), np.log(nearest)).slope, abs=1e-12)


def test_the_cases_of_the_best_learning_rate():
    assert scenario(-1.0, -0.2, 0.5, "u") == "slowly decreasing"
    assert scenario(-1.0, -0.2, 0.5, "falls") == "quickly decreasing"
    assert scenario(-1.0, 0.2, 0.5, "u") == "undecided"
    assert scenario(-0.1, 0.1, 0.5, "u") == "constant"
    assert scenario(0.1, 0.3, 0.5, "u") == "increasing"
    assert scenario(float("nan"), float("nan"), 0.5, "u") == "undecided"


def test_series_are_named():
    analysis = analyse(*study(ends=(0.0, 1.0)))
    assert [one.name for one in analysis.series] == ["annealed to zero", "constant rate"]
    assert any(text.startswith("Constant rate: ") for text in sentences(analysis))
    valued = replace(analysis, series=[replace(one, name=f"weight_decay {i}") for i, one in enumerate(analysis.series)])
    assert answers(valued)[1].startswith("weight_decay 1: ")


@pytest.mark.parametrize("passes,said", [(1.0, "every pre-training sample was fresh"), (8.0, "were repeated 8")])
def test_repeated_images_are_stated(passes, said):
    assert any(said in text.lower() for text in sentences(analyse(*study(passes=passes))))


def test_runs_that_failed_are_left_out_and_counted():
    results, measured = study()
    lost = (results["lr"] == LRS[-1]) & (results["pretrain_steps"] == 1600) & (results["pretrain_seed"] == 2)
    analysis = analyse(results[~lost], measured)
    assert analysis.series[0].family("forgotten", "lr")[-1].seeds == SEEDS - 1
    assert any(
        "Lr 0.016 lacks 2 runs (failed, or not run yet): 2 seeds and 2 draws remain" in t for t in sentences(analysis)
    )


def test_no_measurements_and_single_runs():
    results, measured = study()
    single = results[(results["pretrain_seed"] == 0) & (results["draw_seed"] == 0)]
    analysis = analyse(single, measured.iloc[:0])
    assert not analysis.series[0].family("sensitivity", "gamma")
    assert analysis.series[0].tuned.scenario == "undecided"
    assert any("single runs, so no interval" in text for text in sentences(analysis))
    assert any("no interval covers the variation between pre-trainings" in text for text in sentences(analysis))


def test_a_folder_gets_json_and_figures(tmp_path):
    results, measured = study(ends=(0.0, 1.0))
    results.to_csv(tmp_path / "results.csv", index=False)
    measured.to_csv(tmp_path / "measurements.csv", index=False)
    record = conclude(tmp_path)
    written = json.loads((tmp_path / "overtraining.json").read_text())
    assert written == record
    assert [each["file"] for each in written["figures"]] == [
        f"overtraining_{name}.png"
        for name in ("sensitivity", "loss", "tuned", "distance", "noise_quadratic", "line_quadratic", "statistics")
    ]
    assert all((tmp_path / each["file"]).stat().st_size > 5000 and each["caption"] for each in written["figures"])
    narrow = [narrow_path(tmp_path / each["file"]) for each in written["figures"]]
    assert all(Image.open(path).width < 600 < path.stat().st_size for path in narrow)
    assert written["series"][1]["name"] == "constant rate"


def test_the_answer_names_a_turn_under_noise():
    results, measured = study()
    loss = measured["quantity"] == "perturbed_loss"
    steps = measured["run_id"].map(results.drop_duplicates("pretrain_run").set_index("pretrain_run")["pretrain_steps"])
    turning = 1 + 0.3 * np.log(steps / 400) ** 2 + 0.001 * (np.arange(len(measured)) % 7)
    strong = loss & (measured["gamma"] == measured.loc[loss, "gamma"].max())
    measured.loc[strong, "value"] = turning[strong]
    (said,) = answers(analyse(results, measured))
    words = r"Under noise of γ 0\.4 the loss itself falls, then rises: at γ 0\.4 it is lowest near (\d+) steps"
    place = re.search(words, said)
    assert 350 < int(place[1]) < 450  # the tables turn at 400


def test_networks_without_batchnorm_have_no_figure_of_its_statistics():
    results, measured = study()
    losses = {f"pretrain_loss_after_{kind}_bn": results["pretrain_loss_after"] for kind in ("saved", "target")}
    same = results.assign(pretrain_loss_saved=results["pretrain_loss_before"], **losses)
    assert set(figures(analyse(results, measured))) - set(figures(analyse(same, measured))) == {
        "overtraining_statistics"
    }


def test_tables_that_lack_something(tmp_path):
    results, measured = study()
    with pytest.raises(UserError, match=r"no pretrain_loss_after, .*; set forgetting: true and run the study again"):
        analyse(results.drop(columns="pretrain_loss_after"), measured)
    with pytest.raises(UserError, match=r"results\.csv has no lr, which .*; run the study again"):
        analyse(results.assign(lr=np.nan), measured)
    with pytest.raises(UserError, match=r"results\.csv has no val_finetune_loss, which .*; run the study again"):
        analyse(results.drop(columns="val_finetune_loss"), measured)
    with pytest.raises(UserError, match=r"2 budgets \(in steps: 100, 200\).*at least 3: add lengths"):
        analyse(results[results["pretrain_steps"] < 300], measured)
    with pytest.raises(UserError, match="no fine-tuning from a pre-training with numbers"):
        analyse(results.assign(pretrain_images=0), measured)
    with pytest.raises(UserError, match=r"results\.csv: cannot be read"):
        conclude(tmp_path)


def test_a_study_that_cannot_be_analysed():
    stage = Stage(config="pretrain/small_images")
    with pytest.raises(UserError, match="analysis: overtraining needs a pretrain stage and forgetting: true"):
        Study(finetune=stage, pretrain=stage, analysis="overtraining").check()
    with pytest.raises(UserError, match=r"overtraining\.level is 1\.5; it must be between 0 and 1"):
        Study(finetune=stage, pretrain=stage, overtraining=OvertrainingOptions(level=1.5)).check()


def test_budgets_in_tokens_where_they_are_recorded():
    results, measured = study()
    in_steps = analyse(results, measured).series[0]
    in_tokens = analyse(results.assign(pretrain_tokens=results["pretrain_steps"] * 10_240), measured).series[0]
    assert (in_steps.unit, in_tokens.unit) == ("steps", "tokens")
    assert in_tokens.budgets == tuple(steps * 10_240 for steps in BUDGETS)
    for one, other in zip(in_steps.curves, in_tokens.curves, strict=True):  # noise too, which is recorded by step
        assert one.verdict == other.verdict
        assert one.mean == other.mean
        assert other.vertex == pytest.approx(10_240 * one.vertex)
    (said,) = answers(Overtraining((in_tokens,), 0.95))
    assert "tokens" in said
    assert "steps" not in said
    assert "4.1M tokens" in " ".join(sentences(Overtraining((in_tokens,), 0.95)))
    some = results.assign(pretrain_tokens=np.where(results.index == 0, np.nan, 1.0))
    assert analyse(some, measured).series[0].unit == "steps"
