"""Studies in steps, with made-up trainings: the verdict is the truth, and the path is the same however it is run."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from study.stepped import SIZES, Lab, path, study

from lightning_tl.laws.advice import DIFFERENT, MORE
from lightning_tl.study.config import Choice
from lightning_tl.study.facts import Facts, read_facts
from lightning_tl.study.report_page import write_report
from lightning_tl.study.step_words import answer, begins, stands, table
from lightning_tl.study.until import Until


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    lab = Lab()
    curves, steps = lab.run(study(Until()), tmp_path_factory.mktemp("whole") / "out")
    return curves, steps, lab


def test_a_report_of_the_whole_grid_says_nothing_of_earlier_steps(tmp_path):
    """The same folder, run again without `until`: its steps stay in study.json, and are not the answer any more."""
    lab = Lab()
    lab.run(study(Until()), tmp_path / "out")
    (tmp_path / "fits.json").write_text(json.dumps({"groups": [], "comparisons": [], "advice": []}))
    pages = []
    for until in (Until(), None):
        content = read_facts(tmp_path / "out/study.json")
        (tmp_path / "study.json").write_text(json.dumps(content | {"study": asdict(study(until))}))
        pages.append(write_report(tmp_path).read_text())
    assert ["How it was decided" in page for page in pages] == [True, False]


def verdicts(steps) -> dict[str, str]:
    return {item["group"]: item["answer"] for item in steps["taken"][-1]["decisions"]}


def test_the_verdict_is_the_truth_and_takes_fewer_runs_than_the_grid(whole):
    curves, steps, _ = whole
    assert curves.labels == ("resnet10_w8", "resnet10_w16")
    assert verdicts(steps) == {"resnet10_w8": MORE, "resnet10_w16": DIFFERENT}
    last = steps["taken"][-1]
    assert (last["done"], last["reason"], last["batch"]) == (True, "decided", [])
    assert steps["spent"]["runs"] == sum(len(step["batch"]) for step in steps["taken"]) < 24
    assert steps["grid"]["runs"] == steps["grid"]["cost"] == 24
    # 24 pre-trainings, two fine-tunings of each and two from scratch per backbone, 36 s each
    assert steps["grid"]["hours"] == pytest.approx((24 + 48 + 4) * 36 / 3600)
    assert steps["spent"]["hours"] == pytest.approx((3 * steps["spent"]["runs"] + 4) * 36 / 3600)


def test_no_pre_training_is_begun_twice_and_batches_are_of_what_can_run_at_once(whole):
    _, steps, lab = whole
    begun = [(item["group"], item["n"], item["seed"]) for step in steps["taken"] for item in step["batch"]]
    assert len(set(begun)) == len(begun)
    assert all(1 <= len(step["batch"]) <= 2 for step in steps["taken"][:-1])
    assert lab.parts == [sum(len(step["batch"]) for step in steps["taken"][:k]) for k in range(1, len(steps["taken"]))]


@pytest.mark.parametrize("kills", [0, 1, 2])
def test_killed_at_any_step_and_run_again_it_takes_the_same_path(whole, tmp_path, kills):
    lab = Lab()
    lab.kill_after = kills
    with pytest.raises(KeyboardInterrupt):
        lab.run(study(Until()), tmp_path / "out")
    lab.kill_after = None
    _, steps = lab.run(study(Until()), tmp_path / "out")
    assert path(steps) == path(whole[1])
    before = (tmp_path / "out" / "study.json").read_text()
    _, again = lab.run(study(Until()), tmp_path / "out")  # nothing is left to do
    assert again == json.loads(before)["steps"]


def test_a_lost_study_json_is_found_again(whole, tmp_path):
    lab = Lab()
    _, steps = lab.run(study(Until()), tmp_path / "out")
    (tmp_path / "out" / "study.json").write_text("{")
    _, again = lab.run(study(Until()), tmp_path / "out")
    assert path(again) == path(steps) == path(whole[1])


def test_a_step_that_another_command_has_stored_is_taken_over(tmp_path):
    given = study(Until())
    (tmp_path / "out").mkdir()
    mine, other = (Facts(tmp_path / "out" / "study.json", given) for _ in range(2))
    nothing = {"runs": 0, "cost": 0.0, "hours": None}
    head = {"content": "x", "asked": "?", "grid": nothing, "spent": nothing}
    stored = {"settings": "", "question": "", "done": False, "reason": "", "runs": 0, "cost": 0.0, "hours": 0.0}
    stored |= {"decisions": [], "looks": [], "notes": [], "batch": []}
    assert mine.add_step(head, stored | {"reason": "mine"}, 0)[0]["reason"] == "mine"
    assert other.add_step(head, stored | {"reason": "other"}, 0)[0]["reason"] == "mine"
    other.write(failures={})  # other facts do not overwrite it
    assert json.loads((tmp_path / "out" / "study.json").read_text())["steps"]["taken"][0]["reason"] == "mine"


def test_failed_runs_are_left_out_and_the_study_goes_on(tmp_path):
    lab = Lab(failing=("pretrain-n64-seed_everything0-resnet10_w8", "pretrain-n2048"))
    _, steps = lab.run(study(Until()), tmp_path / "out")
    assert verdicts(steps) == {"resnet10_w8": MORE, "resnet10_w16": DIFFERENT}
    assert steps["taken"][-1]["reason"] == "decided"
    begun = [(item["group"], item["n"], item["seed"]) for step in steps["taken"] for item in step["batch"]]
    assert len(set(begun)) == len(begun)


def test_where_every_run_fails_it_ends(tmp_path):
    _, steps = Lab(failing=("pretrain",)).run(study(Until(), sizes=(64, 128, 256), seeds=(0,)), tmp_path / "out")
    assert steps["taken"][-1]["reason"] == "all pre-trainings that could decide it have been run"
    assert steps["spent"]["runs"] == 6


def test_a_curve_that_stays_open_is_not_blamed_on_a_budget(tmp_path):
    """Width 16 is decided early; of width 8, with noise, every pre-training is run, and some of width 16 are left."""

    def law(point, n):
        return 0.5 if not n else 0.3 * n**-0.06 if point["model.backbone"] == "resnet10_w8" else 0.3

    _, steps = Lab(law, noise=0.02).run(study(Until(confidence=0.97), seeds=(0,)), tmp_path / "out")
    last = steps["taken"][-1]
    assert {item["group"]: item["state"] for item in last["decisions"]} == {
        "resnet10_w8": "exhausted",
        "resnet10_w16": "decided",
    }
    assert last["reason"] == "all pre-trainings that could decide it have been run"
    assert steps["spent"]["runs"] < 12


def test_max_runs_and_then_more(tmp_path):
    noisy, until = Lab(noise=0.3), Until(max_runs=7, confidence=0.99)
    _, steps = noisy.run(study(until), tmp_path / "out")
    assert steps["spent"]["runs"] == 7
    assert steps["taken"][-1]["reason"] == "max_runs is 7, and so many pre-trainings have been run"
    assert answer(steps)[0].startswith(
        "Do 10 times the images, from n = 2,048 on, lower the error by 10 % or more? Not "
    )
    _, more = noisy.run(study(replace(until, max_runs=9)), tmp_path / "out")
    assert path(more)[: len(path(steps))] == path(steps)
    assert more["spent"]["runs"] == 9
    # all looks at the same question count, whatever the limits
    looks = [item["looks"] for item in more["taken"][-1]["decisions"]]
    assert looks == [len(more["taken"][-1]["looks"])] * 2
    assert looks[0] > len(steps["taken"][-1]["looks"])


def test_budget_and_cost_of_images(tmp_path):
    until = Until(confidence=0.99, cost_per_image=0.01, budget=30.0)
    _, steps = Lab(noise=0.3).run(study(until), tmp_path / "out")
    largest: dict[str, float] = {}
    runs = 0
    for step in steps["taken"]:
        for item in step["batch"]:
            largest[item["group"]] = max(largest.get(item["group"], 0), item["n"])
            runs += 1
    assert steps["spent"]["cost"] == pytest.approx(runs + 0.01 * sum(largest.values()))
    assert steps["spent"]["cost"] <= 30
    assert steps["taken"][-1]["reason"] == "the budget pays for no further pre-training"
    assert steps["grid"]["cost"] == pytest.approx(24 + 0.01 * 2 * 2048)


def sizes_of(steps, name: str) -> list[float]:
    return [item["n"] for step in steps["taken"] for item in step["batch"] if item["group"] == name]


def test_a_decided_curve_gets_the_sizes_that_its_law_needs(tmp_path):
    """Of those that it lacks, the ones that are farthest from those it has."""
    until = Until(least_sizes=5)
    curves, steps = Lab().run(study(until), tmp_path / "out")
    assert verdicts(steps) == {"resnet10_w8": MORE, "resnet10_w16": DIFFERENT}
    assert steps["taken"][-1]["reason"] == "decided"
    added, before = 0, dict[str, set[float]]()
    for item in (item for step in steps["taken"] for item in step["batch"]):
        have = before.setdefault(item["group"], set())
        if item["why"] == "The question is decided; least_sizes is 5, for the law in the report.":
            added += 1
            apart = {n: min(abs(math.log(n / m)) for m in have) for n in SIZES if n not in have}
            assert apart[item["n"]] == pytest.approx(max(apart.values()))
        have.add(item["n"])
    assert {name: len(have) for name, have in before.items()} == dict.fromkeys(curves.labels, 5)
    assert added
    lab = Lab()
    lab.kill_after = len(steps["taken"]) - 2
    with pytest.raises(KeyboardInterrupt):
        lab.run(study(until), tmp_path / "killed")
    lab.kill_after = None
    assert path(lab.run(study(until), tmp_path / "killed")[1]) == path(steps)


@pytest.mark.parametrize("limit", [{"max_runs": 9}, {"budget": 9.5}])
def test_sizes_for_the_law_come_after_the_question_and_keep_the_limits(tmp_path, limit):
    _, plain = Lab().run(study(Until()), tmp_path / "plain")
    assert plain["spent"]["runs"] < 9
    _, steps = Lab().run(study(Until(least_sizes=6, **limit)), tmp_path / "out")
    assert verdicts(steps) == verdicts(plain)
    assert steps["taken"][-1]["reason"] == "decided"
    assert steps["spent"]["runs"] == 9
    looks = [[item["confidence"] for item in step["decisions"]] for step in plain["taken"]]
    assert [[item["confidence"] for item in step["decisions"]] for step in steps["taken"]][: len(looks)] == looks


def test_of_best_sizes_are_added_when_it_is_decided(tmp_path):
    _, plain = Lab().run(study(Until("best")), tmp_path / "plain")
    _, steps = Lab().run(study(Until("best", least_sizes=4)), tmp_path / "out")
    assert path(steps)[: len(plain["taken"]) - 1] == [
        step | {"settings": steps["taken"][0]["settings"]} for step in path(plain)[:-1]
    ]
    assert verdicts(steps) == verdicts(plain)
    assert [len(set(sizes_of(steps, name))) for name in ("resnet10_w8", "resnet10_w16")] == [4, 4]


def test_max_hours(tmp_path, monkeypatch):
    monkeypatch.setattr(Facts, "hours", 2.5)
    _, steps = Lab().run(study(Until(max_hours=2)), tmp_path / "out")
    assert steps["taken"][-1]["reason"] == "it has taken 2.5 hours, and max_hours is 2"
    assert steps["spent"]["runs"] == 0


@pytest.mark.parametrize(
    "until,truth",
    [
        (Until("best"), {"": "resnet10_w8"}),
        (Until("target", target=0.1), {"resnet10_w8": "reached", "resnet10_w16": "not reached"}),
        (Until("negative_transfer"), {"resnet10_w8": "better than none", "resnet10_w16": "better than none"}),
    ],
)
def test_the_other_questions(tmp_path, until, truth):
    _, steps = Lab().run(study(until), tmp_path / "out")
    assert verdicts(steps) == truth
    assert steps["taken"][-1]["reason"] == "decided"
    assert steps["spent"]["runs"] < 24


def test_with_a_value_to_choose_each_series_begins_at_the_middle_size(tmp_path):
    given = study(Until(), seeds=(0,), choose=Choice("model.optimizer.lr", [0.1, 1]))
    _, steps = Lab().run(given, tmp_path / "out")
    first = [(item["group"], item["n"]) for item in steps["taken"][0]["batch"]]
    assert first == [("resnet10_w8", 512.0), ("resnet10_w16", 512.0)]
    assert verdicts(steps) == {"resnet10_w8": MORE, "resnet10_w16": DIFFERENT}


def test_another_configuration_begins_anew_and_more_sizes_go_on(whole, tmp_path):
    lab = Lab()
    _, steps = lab.run(study(Until(at=2048)), tmp_path / "out")
    _, more = lab.run(study(Until(at=2048), sizes=(64, 128, 256, 512, 1024, 2048, 4096)), tmp_path / "out")
    assert path(more)[: len(path(steps))] == path(steps)
    other = study(Until(at=2048))
    assert other.pretrain is not None
    other.pretrain.set["trainer.max_steps"] = 7
    _, anew = lab.run(other, tmp_path / "out")
    assert anew["content"] != steps["content"]
    assert path(anew)[0]["batch"] == path(steps)[0]["batch"]
    assert anew["spent"]["runs"] < 24


def test_words_and_table(whole):
    _, steps, _ = whole
    last = steps["taken"][-1]
    text = answer(steps)
    looks = last["decisions"][0]["looks"]  # as the words of each decision count them
    assert f"Decided at look {looks}, with {steps['spent']['runs']} of 24 pre-trainings: resnet10_w8: {MORE}" in text[0]
    times = 24 / steps["spent"]["runs"]
    assert f"would have cost 24 instead of {steps['spent']['runs']}, {times:.1f} times as much" in text[1]
    assert stands(last)[-1] == "The study ends: every question is decided."
    assert stands(steps["taken"][0]) == []
    assert begins(steps["taken"][0])[0].startswith("Next: resnet10_w8, n = 64, seed 0: ")
    head, rows = table(steps)
    assert len(rows) == len(steps["taken"])
    assert all(len(row) == len(head) for row in rows)
    runs = steps["spent"]["runs"]
    assert rows[-1][:4] == [len(rows), looks, runs, str(runs)]
    assert rows[0][:2] == [1, "-"]
    assert [row[1] for row in rows if row[1] != "-"] == list(range(1, looks + 1))


def test_the_figure_has_a_line_per_curve_and_the_grid(whole, tmp_path):
    from lightning_tl.study.step_figure import draw, step_figure

    _, steps, _ = whole
    figure = step_figure(steps)
    left, right = figure.axes
    looked = [step for step in steps["taken"] if step["decisions"]]
    confidence = [100 * step["decisions"][0]["confidence"] for step in looked]
    assert list(left.get_lines()[0].get_ydata()) == pytest.approx(confidence)
    assert [text.get_text() for text in left.get_legend().get_texts()] == [
        f"resnet10_w8: {MORE}",
        f"resnet10_w16: {DIFFERENT}",
        "asked for",
    ]
    assert list(right.get_lines()[1].get_ydata()) == [step["cost"] for step in looked]
    assert draw({**steps, "taken": steps["taken"][:1]}, tmp_path) == []
    assert [path.name for path in draw(steps, tmp_path)] == ["steps.png", "steps_narrow.png"]
    from PIL import Image

    assert Image.open(tmp_path / "steps_narrow.png").width == pytest.approx(390 * 1.5, abs=1)
    assert Path(tmp_path / "steps.png").stat().st_size > 0
