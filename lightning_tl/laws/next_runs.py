"""Which run to do next: the one that makes a wrong decision less likely by the most, for what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lightning_tl.errors import UserError
from lightning_tl.laws.candidates import Candidate, Costs, open_candidates
from lightning_tl.laws.law_check import LawCheck, check_law
from lightning_tl.laws.posterior import Points, Prior, points_of_group
from lightning_tl.laws.proposals import Proposal, stop
from lightning_tl.laws.questions import Question
from lightning_tl.laws.results_table import Group
from lightning_tl.laws.run_choice import Study, smallest_size
from lightning_tl.laws.stopping import Decision, Look, count_looks, threshold


@dataclass(frozen=True)
class Plan:
    """Where a study stands, and what to run next.

    Attributes:
        question: What is asked.
        decisions: One per group, or one where the groups have one answer together.
        proposals: Every affordable candidate, the best first; "stop" first where the study is done.
        batch: The runs to start now, chosen together; none where the study is done.
        looks: History of the looks, this one included, to be handed in next time.
        checks: For each group, whether its runs contradict the law that the answers rest on.
    """

    question: Question
    decisions: tuple[Decision, ...]
    proposals: tuple[Proposal, ...]
    batch: tuple[Proposal, ...]
    looks: tuple[Look, ...]
    checks: tuple[LawCheck, ...] = ()

    @property
    def done(self) -> bool:
        """Whether the study stops: every question is decided, or nothing is left to run."""
        return all(decision.state != "open" for decision in self.decisions)


def next_runs(
    groups: Sequence[Group],
    question: Question,
    candidates: Sequence[Candidate],
    costs: Costs | None = None,
    *,
    confidence: float = 0.9,
    looks: Sequence[Look] = (),
    batch: int = 1,
    running: Sequence[Candidate] = (),
    prior: Prior | None = None,
) -> Plan:
    """Say whether a question is decided, and if not, which runs to do next.

    The same table, candidates and looks give the same plan, to the bit.

    Args:
        groups: The runs so far, as :func:`~.results_table.groups` returns them; a group may have none.
        question: What is to be decided.
        candidates: The runs that may be done; those that are in the table are left out.
        costs: What runs cost; default: each the same.
        confidence: Promised share of right decisions.
        looks: The ``looks`` of the plan made before.
        batch: Number of runs to start together.
        running: Runs that have been started and are not in the table yet: the batch is chosen to go with them.
        prior: What is taken for likely before any run.

    Returns:
        Decisions, the ranked proposals, and the batch to start.

    Raises:
        UserError: An argument is out of range, or a candidate does not fit the table.
    """
    points = [points_of_group(group) for group in groups]
    left, prior = open_candidates(candidates, groups), prior or Prior()
    started = open_candidates(running, groups)
    made = plan(points, question, left, costs or Costs(), confidence, looks, batch, started, prior)
    n_ref = smallest_size(points, question, [*left, *started])
    return replace(made, checks=tuple(check_law(item, points, prior, n_ref) for item in points))


def plan(
    points: Sequence[Points],
    question: Question,
    candidates: Sequence[Candidate],
    costs: Costs,
    confidence: float = 0.9,
    looks: Sequence[Look] = (),
    batch: int = 1,
    running: Sequence[Candidate] = (),
    prior: Prior | None = None,
) -> Plan:
    """Do :func:`next_runs` for points, of which no candidate is one."""
    if batch < 1:
        raise UserError(f"batch is {batch}; give how many runs to start together, 1 or more")
    study = Study(points, question, candidates, prior or Prior(), running)
    runs = int(sum(item.runs.sum() + len(item.scratch) for item in points))
    count = count_looks(looks, runs)
    limit = threshold(confidence, count)
    stand = study.stand(limit)
    unanswered = [group for group, item in enumerate(stand) if not item.decided]
    affordable = [item for item in study.options if costs.budget is None or study.cost(item, costs) <= costs.budget]
    options = [item for item in affordable if question.joint or item.group in unanswered]
    if all(item.decided for item in stand):
        options = []
    proposals = study.ranked(options, costs, limit)
    decisions = tuple(study.decision(item, limit, count, [*options, *study.running]) for item in stand)
    done = all(item.state != "open" for item in decisions)
    chosen = () if done else study.batch(options, costs, limit, batch)
    history = tuple(item for item in looks if item.runs != runs)
    if not all(study.world.lacks_runs(item.group) for item in stand):
        history = (*history, Look(runs, min(item.confidence for item in decisions)))
    return Plan(question, decisions, (*stop(decisions, done), *proposals), chosen, history)
