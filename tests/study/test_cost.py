"""`study plan`: sums that can be done by hand, errors, and a trial that is held against a real study."""

from __future__ import annotations

import json
import re
import subprocess

import numpy as np
import pytest
import yaml
from study.small_study import SMALL, run, write
from study.stepped import study as stepped

from lightning_tl.cli import study as command
from lightning_tl.errors import UserError
from lightning_tl.laws.posterior import Prior
from lightning_tl.study.cost import Estimator, makespan
from lightning_tl.study.curves import curves_of
from lightning_tl.study.expansion import expand
from lightning_tl.study.forecast import duration
from lightning_tl.study.plan import plan
from lightning_tl.study.plan_items import DataSet
from lightning_tl.study.rates import Rates, RenderRates, Seconds, StageRates, read_rates, write_rates
from lightning_tl.study.run_counts import Work
from lightning_tl.study.simulation import draw_truth, simulate
from lightning_tl.study.until import Until


def rates(workers: int = 2) -> Rates:
    pretrain = StageRates(Seconds(2, 1), Seconds(0.1, 0.05), Seconds(0.01, 0.01), Seconds(0, 0), 1e6)
    finetune = StageRates(Seconds(1, 1), Seconds(0.2, 0.1), Seconds(0.01, 0.01), Seconds(0.02, 0.01), 2e6)
    stages = {"pretrain": pretrain, "finetune": finetune}
    return Rates(workers, Seconds(5, 4), stages, {"digits": RenderRates(Seconds(3, 2), Seconds(0.5, 0.4), 1e4)})


@pytest.mark.parametrize(
    "workers,wanted",
    [
        (1, 4 + 5 + 4 * 3),
        (2, 11),  # a 0-4, b 0-5, a0 4-7, a1 5-8, a2 7-10, b0 8-11
        (3, 10),  # the third has nothing to do before 4: a0 and a1 4-7, a2 5-8, b0 7-10
        (20, 8),  # b, then its own
    ],
)
def test_the_makespan_is_that_done_by_hand(workers, wanted):
    """Two pre-trainings of 4 and 5 s, then three fine-tunings of the first and one of the second, 3 s each."""
    runs = {"a": (None, 4.0), "b": (None, 5.0), **{f"a{i}": ("a", 3.0) for i in range(3)}, "b0": ("b", 3.0)}
    assert makespan(runs, workers) == wanted


def test_what_a_grid_takes_by_hand():
    given = stepped(Until(), sizes=(64, 128), widths=(), seeds=(0,))
    expansion = expand(given)
    runs = plan(expansion, None)  # type: ignore[arg-type]
    work = {run.name: Work(100, 2, 50, 10 if run.stage == "finetune" else 0, run.stage) for run in runs}
    estimator = Estimator(given, rates(), work, {"digits": 8})
    sets = [DataSet("digits", {}, {}, 60, 20)]
    cost = estimator.add(sets, [runs], set())
    # shards of 8: 64 images for training, 24 for validation
    assert (cost.images, cost.runs) == (88, {"start": 1, "render": 1, "pre-train": 2, "trial runs": 0, "fine-tune": 6})
    assert cost.seconds["render"] == Seconds(2 * 3 + 88 * 0.5, 2 * 2 + 88 * 0.4)
    one, other = 2 + 100 * 0.1 + 2 * 50 * 0.01, 1 + 100 * 0.2 + 2 * 50 * 0.01 + 10 * 0.02
    assert cost.seconds["pre-train"].clock == pytest.approx(2 * one)
    assert cost.seconds["fine-tune"].clock == pytest.approx(6 * other)
    # two workers: 11 shards, 6 on one of them; then one pre-training and three fine-tunings on each
    assert cost.clock == pytest.approx(10 + 3 + 6 * 8 * 0.5 + one + 3 * other)
    assert cost.size == pytest.approx(88e4 + 2 * 1e6 + 6 * 2e6)
    # more images: only the new shards; what is done is not done again
    more = estimator.add([DataSet("digits", {}, {}, 65, 20)], [runs], {run.name for run in runs})
    assert (more.images, more.seconds["fine-tune"]) == (8, Seconds(0, 0))


def test_truths_are_drawn_from_the_prior():
    curves = curves_of(expand(stepped(Until())))
    rng, prior = np.random.default_rng(0), Prior()
    drawn = [truth for _ in range(2000) for truth in draw_truth(curves, rng).values()]
    alpha = np.array([truth.alpha for truth in drawn])
    assert alpha.mean() == pytest.approx(np.mean(prior.alpha), abs=0.02)
    assert np.quantile([truth.share for truth in drawn], [0.25, 0.5, 0.75]) == pytest.approx(
        [0.25, 0.5, 0.75], abs=0.03
    )
    noise = np.log([truth.noise for truth in drawn])
    assert noise.mean() == pytest.approx(np.log(prior.noise).mean(), abs=0.05)


def test_a_simulated_study_is_decided_within_its_candidates():
    given = stepped(Until(), sizes=(64, 256, 1024), seeds=(0, 1))
    curves = curves_of(expand(given))
    everything = plan(curves.expansion, None)  # type: ignore[arg-type]
    work = {run.name: Work(100, 1, 0, 0, run.stage) for run in everything}
    runs = {}
    for seed in range(4):
        cost, steps = simulate(curves, lambda part, _: plan(part, None), Estimator(given, rates(), work, {}), seed)  # type: ignore[arg-type]
        assert steps[-1]["done"]
        runs[seed] = cost.runs["pre-train"]
        assert runs[seed] == sum(len(step["batch"]) for step in steps) <= 12
        assert cost.runs["fine-tune"] == 2 * runs[seed] + 4
    again, _ = simulate(curves, lambda part, _: plan(part, None), Estimator(given, rates(), work, {}), 3)  # type: ignore[arg-type]
    assert again.runs["pre-train"] == runs[3]


def test_rates_are_written_and_read_again(tmp_path):
    write_rates(rates(), tmp_path / "rates.yaml")
    assert read_rates(tmp_path / "rates.yaml") == rates()


@pytest.mark.parametrize(
    "change,words",
    [
        (None, "cannot be read"),
        ("- 1", "no rates (it: should be keys and values"),
        ({"workers": 0}, "workers is 0; durations and sizes are numbers from 0 on, workers from 1 on"),
        ({"start": {"clock": -1, "cpu": 0}}, "start.clock is -1"),
        ({"start": {"clock": 1}}, "no rates (start.cpu is missing)"),
        ({"stages": {}}, "the rates have no stage pretrain; measure them again, without --assume"),
    ],
)
def test_wrong_rates(tmp_path, renders, change, words):
    path = tmp_path / "rates.yaml"
    if change is not None:
        write_rates(rates(), path)
        text = change if isinstance(change, str) else yaml.safe_dump(yaml.safe_load(path.read_text()) | change)
        path.write_text(text)
    study = write(tmp_path, renders)
    with pytest.raises(UserError, match=re.escape(words)):
        command.main(["plan", f"--config={study}", f"--out={tmp_path / 'out'}", f"--assume={path}"])


def test_the_command_with_rates_of_another_machine(tmp_path, renders, capsys):
    path = tmp_path / "rates.yaml"
    write_rates(rates(), path)
    study = write(tmp_path, renders, sizes=(8, 16, 24), until={"question": "more_or_different"})
    arguments = ["plan", f"--config={study}", f"--out={tmp_path / 'out'}", f"--assume={path}", "--simulations=5"]
    assert command.main(arguments) == 0
    said = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in said.splitlines() if line.startswith("  ") and line.strip()}
    # three pre-trainings of 8 steps, two validations of 24 images; eight fine-tunings of 4 steps
    clock, cpu = 3 * (2 + 8 * 0.1 + 2 * 24 * 0.01), 3 * (1 + 0.4 + 0.48)
    assert rows["pre-train"] == ["3", f"{clock:.2g}", "s", f"{cpu:.2g}", "s"]
    assert rows["fine-tune"][0] == "8"
    assert rows["in"][:2] == ["all", "11"]
    assert rows["pre-trainings"] == ["3", "3"]
    assert rows["time"][1::2] == ["s", "s"] or rows["time"][1::2] == ["min", "min"]
    assert "In steps, until more_or_different is decided, by 5 simulated studies:" in said
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=r"--simulations is 0; it must be at least 1"):
        command.main([*arguments[:-1], "--simulations=0"])


@pytest.mark.parametrize(
    "seconds,words",
    [
        (0.0, "0 s"),
        (9.44, "9.4 s"),
        (98.9, "99 s"),
        (99, "1.65 min"),
        (100, "1.67 min"),
        (5400, "90 min"),
        (6000, "1.67 h"),
        (9e6, "2,500 h"),
    ],
)
def test_durations_have_the_unit_that_suits_them(seconds, words):
    assert duration(seconds) == words


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_forecast_of_a_real_study_is_near_what_it_took(tmp_path, renders):
    """By the CPU time of runs, as others may load the machine: the steps of a trial are those of the study."""
    path = write(tmp_path, renders)
    settings = yaml.safe_load(path.read_text())
    settings["pretrain"]["set"] |= SMALL | {"trainer.max_steps": 100, "data.steps_per_epoch": 50}
    path.write_text(yaml.safe_dump(settings))
    assert (
        command.main(["plan", f"--config={path}", f"--out={tmp_path / 'out'}", f"--write-rates={tmp_path / 'r'}"]) == 0
    )
    found = read_rates(tmp_path / "r")
    assert set(found.stages) == {"pretrain", "finetune"}
    assert subprocess.run(run(path, tmp_path / "out"), capture_output=True, timeout=800).returncode == 0
    records = [json.loads(file.read_text()) for file in (tmp_path / "out/runs").glob("pretrain-*/record.json")]
    took = np.mean([record["seconds"] for record in records])
    pretrain = found.stages["pretrain"]
    planned = pretrain.start.clock + 100 * pretrain.step.clock + 2 * 24 * pretrain.val_image.clock
    assert took / 3 < planned < took * 3  # the load of the machine may change; docs/study.md has what was measured
