"""Decisions, proposals and batches; candidates and costs; each message."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lightning_tl.errors import UserError
from lightning_tl.laws.candidates import Candidate, Costs, default_candidates, group_without_runs, open_candidates
from lightning_tl.laws.law_check import check_law
from lightning_tl.laws.next_runs import Plan, next_runs, plan
from lightning_tl.laws.posterior import Points, Prior
from lightning_tl.laws.questions import BestGroup, MoreOrDifferent, NegativeTransfer, TargetError
from lightning_tl.laws.results_table import Group, groups
from lightning_tl.laws.stopping import Look, count_looks, threshold

from .tables import falling, flat, results

SIZES = [1000.0, 4000.0, 16000.0, 64000.0]
ASKED = MoreOrDifferent(64000.0)


def points(label, n, error, **more) -> Points:
    return Points(label, np.array(n, float), np.log(error), np.ones(len(n)), **more)


def candidates(*labels: str, sizes=SIZES, seeds=4) -> list[Candidate]:
    return [Candidate(label, n, str(seed)) for label in labels for n in sizes for seed in range(seeds)]


UNSURE = points("a", [1000.0, 4000.0, 64000.0], [0.300, 0.245, 0.212])


def small_table() -> list[Group]:
    rows = [("a", n, seed, draw) for n in (1000, 16000) for seed in (0, 1) for draw in (0, 1)]
    frame = pd.DataFrame(rows, columns=["render", "pretrain_images", "pretrain_seed", "draw_seed"])
    frame["error"] = 0.3 * (frame["pretrain_images"] / 1000) ** -0.1 + 0.001 * frame["draw_seed"]
    return groups(frame)


# ---- decisions -------------------------------------------------------------------------------------------------------


def test_clear_cases_are_decided() -> None:
    steep = points("steep", SIZES, [0.3, 0.2, 0.13, 0.09])
    level = points("level", SIZES, [0.3, 0.299, 0.3005, 0.2995])
    made = plan([steep, level], ASKED, candidates("steep", "level"), Costs())
    assert [(item.group, item.answer, item.state) for item in made.decisions] == [
        ("steep", "render more", "decided"),
        ("level", "render differently", "decided"),
    ]
    assert made.done
    assert made.batch == ()
    assert [item.kind for item in made.proposals] == ["stop"]
    assert made.proposals[0].why == "Every question is decided."


def test_two_runs_decide_nothing_of_a_curve() -> None:
    two = points("a", [1000.0, 64000.0], [0.3, 0.3])
    made = plan([two], ASKED, candidates("a"), Costs())
    assert made.decisions[0].confidence > made.decisions[0].threshold
    assert made.decisions[0].state == "open"
    assert "but on fewer than 3 pre-training runs" in made.decisions[0].why
    assert made.looks == ()


def test_a_group_that_only_lacks_runs_comes_first() -> None:
    """Its answer is sure, so no run has a gain; yet the study would not end without them."""
    two = points("flat", [1000.0, 64000.0], [0.3, 0.3])
    made = plan([UNSURE, two], ASKED, candidates("a", "flat"), Costs(), batch=2, prior=Prior(noise=(0.03, 0.03)))
    assert [item.candidate.group for item in made.batch] == ["flat", "a"]
    assert made.batch[0].why.endswith(": the answer for flat is sure enough, but needs 3 pre-training runs.")


def test_another_draw_is_no_pre_training_run() -> None:
    """It cannot make up for the runs that a group lacks, nor stand first for it."""
    two = points("flat", [1000.0, 64000.0], [0.3, 0.3])
    draw = Candidate("flat", 64000.0, "0", "5")
    made = plan([two], ASKED, [draw, Candidate("flat", 4000.0)], Costs(), batch=2)
    assert [item.kind for item in made.batch] == ["size", "draw"]
    assert next(item for item in made.proposals if item.kind == "draw").settles == 0


def test_a_decided_group_gets_no_more_runs() -> None:
    steep = points("steep", SIZES, [0.3, 0.2, 0.13, 0.09])
    prior = Prior(noise=(0.03, 0.03))
    made = plan([steep, UNSURE], ASKED, candidates("steep", "a"), Costs(), batch=3, prior=prior)
    assert [item.state for item in made.decisions] == ["decided", "open"]
    assert {item.candidate.group for item in made.proposals} == {"a"}
    assert not made.done


def test_nothing_left_to_run() -> None:
    for left, costs in (([], Costs()), (candidates("a"), Costs(budget=0.5))):
        made = plan([UNSURE], ASKED, left, costs)
        assert made.decisions[0].state == "exhausted"
        assert made.done
        assert made.proposals[0].kind == "stop"
        assert made.proposals[0].why == "No run that is allowed and affordable is left."
        assert "no run that is allowed and affordable is left" in made.decisions[0].why


def test_looks_are_counted_and_handed_on() -> None:
    first = plan([UNSURE], ASKED, candidates("a"), Costs())
    again = plan([UNSURE], ASKED, candidates("a"), Costs(), looks=first.looks)
    assert first.looks == again.looks == (Look(3, first.decisions[0].confidence),)
    more = points("a", [*UNSURE.n, 4000.0], [*np.exp(UNSURE.log_error), 0.245])
    second = plan([more], ASKED, candidates("a"), Costs(), looks=first.looks)
    assert second.decisions[0].looks == 2
    assert [look.runs for look in second.looks] == [3, 4]
    assert second.decisions[0].threshold < first.decisions[0].threshold


def test_threshold_comes_down_to_what_is_promised() -> None:
    values = [threshold(0.9, look) for look in range(1, 40)]
    assert values[0] == pytest.approx(0.91)
    assert values == sorted(values, reverse=True)
    assert min(values) == pytest.approx(0.9)
    assert count_looks([Look(3, 0.5), Look(4, 0.6)], 4) == 2
    with pytest.raises(UserError, match="confidence is 1; give a share of right decisions from 0"):
        threshold(1.0, 1)


# ---- proposals -------------------------------------------------------------------------------------------------------


def test_proposals_are_ranked_by_gain_per_cost() -> None:
    two = points("a", [1000.0, 16000.0], [0.3, 0.225])
    made = plan([two], ASKED, candidates("a"), Costs(per_image=0.001))
    values = [item.gain_per_cost for item in made.proposals]
    assert values == sorted(values, reverse=True)
    first = made.proposals[0]
    assert first.gain > 0.05
    assert first.gain_per_cost == pytest.approx(first.gain / first.cost)
    assert made.batch[0] == first
    assert "expected to lower the probability of a wrong answer from" in first.why


def test_where_no_run_changes_the_answer_the_doubt_decides() -> None:
    fair = points("a", [1000.0, 4000.0, 16000.0, 64000.0, 64000.0], [0.3, 0.235, 0.19, 0.165, 0.163])
    made = plan([fair], ASKED, candidates("a"), Costs(), confidence=0.9999)
    assert max(item.gain for item in made.proposals) < 0.005
    values = [item.insight for item in made.proposals]
    assert values == sorted(values, reverse=True)
    assert values[0] > 0
    assert "is not expected to change the likeliest answer by itself, but lowers the doubt" in made.batch[0].why


def test_cost_of_images_moves_the_choice_to_small_sizes() -> None:
    start = [points("a", [1000.0], [0.3])]
    cheap = plan(start, ASKED, candidates("a"), Costs())
    dear = plan(start, ASKED, candidates("a"), Costs(per_image=0.01))
    assert cheap.batch[0].candidate.n == 64000
    assert dear.batch[0].candidate.n < 64000
    # a smaller set is part of a larger one
    costs = Costs(per_image=0.01)
    assert costs.of(Candidate("a", 4000.0), 1000.0) == pytest.approx(31)
    assert costs.of(Candidate("a", 4000.0), 64000.0) == pytest.approx(1)
    assert costs.of(Candidate("a", 4000.0, "0", "7"), 0.0) == pytest.approx(1)


def test_first_runs_of_a_curve() -> None:
    made = plan([points("a", [], [])], ASKED, candidates("a"), Costs(), batch=3)
    assert [item.candidate.n for item in made.batch][:2] == [1000, 64000]
    assert len({item.candidate for item in made.batch}) == 3
    assert made.batch[0].why == "A first run at n = 1,000 says nothing by itself, but the next runs need it."


def test_a_batch_is_chosen_together() -> None:
    """The second run of a batch is worth less at the size of the first, as it measures the same."""
    made = plan([UNSURE], ASKED, candidates("a"), Costs(), batch=4)
    runs = [(item.candidate.n, item.candidate.seed) for item in made.batch]
    assert len(set(runs)) == 4
    assert len({n for n, _ in runs}) > 1
    rivals = [points(str(i), [1000.0, 64000.0], [0.3, 0.2 + 0.001 * i]) for i in range(4)]
    best = plan(rivals, BestGroup(64000.0, 0.0), candidates("0", "1", "2", "3", sizes=[64000.0]), Costs(), batch=4)
    assert len({item.candidate.group for item in best.batch}) > 1


def test_runs_in_progress_are_taken_into_account() -> None:
    """With the best run in progress, the next is chosen as the second of a batch is."""
    both = plan([UNSURE], ASKED, candidates("a"), Costs(), batch=2).batch
    started = [both[0].candidate]
    single = plan([UNSURE], ASKED, candidates("a"), Costs(), running=started)
    assert single.batch[0].candidate not in started
    assert single.batch[0].candidate.n == both[1].candidate.n
    waiting = plan([UNSURE], ASKED, [], Costs(), running=started)
    assert waiting.decisions[0].state == "open"
    assert (waiting.done, waiting.batch) == (False, ())


def test_a_batch_keeps_to_the_budget() -> None:
    made = plan([UNSURE], ASKED, candidates("a"), Costs(budget=2.5), batch=5)
    assert len(made.batch) == 2


def test_most_runs_go_to_the_contenders() -> None:
    """Two of four groups are near each other; the others are clearly worse."""
    rivals = [points(name, [64000.0], [error]) for name, error in zip("abcd", (0.2, 0.205, 0.3, 0.35), strict=True)]
    made = plan(rivals, BestGroup(64000.0), candidates("a", "b", "c", "d"), Costs(), prior=Prior(noise=(0.03, 0.03)))
    assert {item.candidate.group for item in made.proposals[:2]} == {"a", "b"}
    gains = {name: max(p.gain for p in made.proposals if p.candidate.group == name) for name in "abcd"}
    assert min(gains["a"], gains["b"]) > 20 * max(gains["c"], gains["d"])


def test_a_group_without_runs_is_proposed() -> None:
    made = plan(
        [points("a", [64000.0], [0.2]), points("new", [], [])], BestGroup(64000.0), candidates("a", "new"), Costs()
    )
    assert made.batch[0].kind == "group"
    assert made.batch[0].candidate.group == "new"
    assert made.batch[0].why.startswith("A first run of new, at n = ")


def test_the_best_is_not_decided_before_every_group_has_a_run() -> None:
    rivals = [points(name, [64000.0] * 4, [error] * 4) for name, error in zip("abc", (0.2, 0.4, 0.41), strict=True)]
    left = candidates("a", "b", "c", "new")
    made = plan([*rivals, points("new", [], [])], BestGroup(64000.0), left, Costs(), confidence=0.6)
    assert made.decisions[0].confidence > made.decisions[0].threshold
    assert made.decisions[0].state == "open"
    assert "but a group has no run yet; more runs are needed." in made.decisions[0].why
    assert made.batch[0].candidate.group == "new"
    assert made.batch[0].why.endswith(": without any run of it, nothing is decided.")
    assert made.looks == ()
    tried = plan([*rivals, points("new", [64000.0], [0.5])], BestGroup(64000.0), left, Costs(), confidence=0.6)
    assert tried.decisions[0].answer == "a"
    assert tried.done


def test_kinds_of_runs() -> None:
    table = small_table()
    more = [Candidate("a", 4000, "0"), Candidate("a", 1000, "2"), Candidate("a", 16000, "1", "9")]
    made = next_runs(table, MoreOrDifferent(16000.0), more)
    assert {(item.candidate.n, item.kind) for item in made.proposals} == {
        (4000, "size"),
        (1000, "seed"),
        (16000, "draw"),
    }


def test_one_table_gives_one_plan_to_the_bit() -> None:
    from lightning_tl.laws import posterior as module

    def text(made: Plan) -> str:
        return repr((made.decisions, made.proposals, made.batch, made.looks))

    made = []
    for _ in range(2):
        module._drawn.cache_clear()
        rivals = [UNSURE, points("b", [1000.0], [0.3])]
        made.append(text(plan(rivals, BestGroup(64000.0), candidates("a", "b"), Costs(0.001), batch=3)))
    assert made[0] == made[1]


# ---- tables ----------------------------------------------------------------------------------------------------------


def test_our_own_table() -> None:
    table = groups(results({"digits": falling(0.2, 0.0), "shapes": flat(0.12)}, 0.1275, seed=1))
    left = default_candidates(table)
    made = next_runs(table, MoreOrDifferent(2048.0), left)
    assert [item.answer for item in made.decisions] == ["render more", "render differently"]
    assert all(not check.flagged for check in made.checks)
    negative = next_runs(table, NegativeTransfer(2048.0), left)
    assert negative.decisions[0].answer == "better than none"
    target = next_runs(table, TargetError(2048.0, 0.2), left)
    assert [item.answer for item in target.decisions] == ["reached", "reached"]
    best = next_runs(table, BestGroup(2048.0), left)
    assert (best.decisions[0].group, best.decisions[0].answer) == ("", "digits")


def test_default_candidates() -> None:
    table = small_table()
    found = default_candidates(table, repeats=2)
    assert not [item for item in found if item.n == 0]  # no run without pre-training to add to
    assert sorted({item.n for item in found if item.draw is None}) == [1000, 2000, 4000, 8000, 16000, 32000]
    assert [item.seed for item in found if item.n == 1000 and item.draw is None] == ["2", "3"]
    assert [item.seed for item in found if item.n == 4000] == ["0", "1"]
    assert {(item.n, item.seed, item.draw) for item in found if item.draw} == {
        (n, seed, "2") for n in (1000, 16000) for seed in "01"
    }
    named = default_candidates([*table, group_without_runs("new")], [500, 1000], repeats=1)
    assert {(item.group, item.n) for item in named if item.draw is None} == {
        (group, n) for group in ("a", "new") for n in (500, 1000)
    }


def test_done_candidates_are_left_out() -> None:
    table = small_table()
    some = [
        Candidate("a", 1000, "0"),
        Candidate("a", 1000, "5"),
        Candidate("a", 1000, "0", "1"),
        Candidate("a", 1000, "0", "4"),
    ]
    assert open_candidates(some, table) == [some[1], some[3]]


def test_runs_without_pre_training_are_proposed_where_they_are_what_is_uncertain() -> None:
    """The pre-trained runs are many and agree; the two without pre-training are few."""
    n = [1000.0, 4000.0, 16000.0, *[64000.0] * 12]
    error = [0.3, 0.25, 0.22, *[0.2] * 12]
    known = points("a", n, error, scratch=np.log([0.2, 0.206]))
    more = [*candidates("a"), *(Candidate("a", 0.0, "", str(draw)) for draw in range(2, 6))]
    prior = Prior(noise=(0.02, 0.02))
    made = plan([known], NegativeTransfer(64000.0), more, Costs(per_run=1.0, per_draw=0.5), batch=2, prior=prior)
    assert [item.kind for item in made.batch] == ["scratch", "scratch"]
    assert [item.candidate.draw for item in made.batch] == ["2", "3"]
    assert made.batch[0].cost == 0.5
    assert made.batch[0].why.startswith("Another run without pre-training is expected to lower the probability")
    best = plan([known, points("b", n, error)], BestGroup(64000.0), more, Costs())
    assert all(item.kind != "scratch" for item in best.proposals)
    table = groups(results({"digits": falling(0.2, 0.0)}, 0.1275, seed=1))
    wanted = [Candidate("digits", 0, "", "0"), Candidate("digits", 0, "", "3")]
    assert open_candidates(wanted, table) == wanted[1:]
    assert wanted[1] in default_candidates(table)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: open_candidates([Candidate("digit", 10)], [group_without_runs("digits")]),
            "candidate group 'digit' is not in the table; did you mean 'digits'?",
        ),
        (
            lambda: open_candidates([Candidate("a", -1)], [group_without_runs("a")]),
            "candidate size -1 is not a number of images from 0 on",
        ),
        (
            lambda: open_candidates([Candidate("a", 10, "3", "1")], [group_without_runs("a")]),
            "candidate draw '1' of a at n = 10 needs the pre-training with seed '3', which is not in the table",
        ),
        (lambda: default_candidates(small_table(), [0.0]), "candidate size 0 is not a number of images over 0"),
        (
            lambda: default_candidates([group_without_runs("a")]),
            "there is no run with pre-training yet: name the sizes that may be run (--candidates)",
        ),
        (lambda: Costs(per_image=-1), "per image is -1; a cost is a number from 0 on"),
        (lambda: Costs(per_run=0), "cost per run or per draw is 0; every run costs something"),
        (lambda: Costs(per_draw=0), "cost per run or per draw is 0; every run costs something"),
        (lambda: plan([UNSURE], ASKED, [], Costs(), batch=0), "batch is 0; give how many runs to start together"),
    ],
)
def test_messages(call, message) -> None:
    with pytest.raises(UserError) as error:
        call()
    assert str(error.value).startswith(message)


# ---- does the law hold? ----------------------------------------------------------------------------------------------


def test_a_run_that_contradicts_the_others_is_named() -> None:
    error = 0.3 * (0.3 + 0.7 * (np.array(SIZES) / 1000) ** -0.5)
    fine = points("a", [*SIZES, *SIZES], [*error, *(1.01 * error)])
    assert not check_law(fine, [fine], Prior(), 1000.0).flagged
    assert check_law(fine, [fine], Prior(), 1000.0).sentence == ""
    off = points("a", [*SIZES, *SIZES], [*error, *(1.01 * error[:3]), 2 * error[3]])
    found = check_law(off, [off], Prior(), 1000.0)
    assert found.flagged
    assert found.n == 64000
    assert found.sentence.startswith("a: the run at n = 64,000 does not fit the law through the others (probability ")
    assert not check_law(UNSURE, [UNSURE], Prior(), 1000.0).flagged


def test_runs_to_which_no_law_comes_near_are_named_from_two_on() -> None:
    for error in ([0.1, 0.4], [0.3, 0.02, 0.3]):
        item = points("a", SIZES[: len(error)], error)
        found = check_law(item, [item], Prior(), 1000.0)
        assert found.flagged
        assert "(probability under 0.001)" in found.sentence
    near = points("a", SIZES[:2], [0.2, 0.22])  # a rise that noise explains
    assert not check_law(near, [near], Prior(), 1000.0).flagged
    one = points("a", SIZES[:1], [0.2])
    assert np.isnan(check_law(one, [one], Prior(), 1000.0).n)


def test_curves_that_are_laws_are_seldom_flagged() -> None:
    rng, flagged = np.random.default_rng(8), 0
    n = np.array([1000.0, 2000.0, 4000.0, 16000.0, 64000.0, 64000.0])
    for _ in range(60):
        alpha, share, noise = rng.uniform(0.1, 1), rng.uniform(0.05, 0.95), rng.choice([0.005, 0.02, 0.05])
        error = 0.3 * (share + (1 - share) * (n / 1000) ** -alpha) * np.exp(noise * rng.standard_normal(len(n)))
        item = points("a", n, error)
        flagged += check_law(item, [item], Prior(), 1000.0).flagged
    assert flagged <= 8  # 5 % of 60 are 3; 8 or fewer in 99.7 %
