"""A run that is proposed, and why, in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lightning_tl.laws.candidates import Candidate
from lightning_tl.laws.lookahead import Outlook
from lightning_tl.laws.posterior import Points
from lightning_tl.laws.stopping import LEAST_RUNS, Decision
from lightning_tl.laws.wording import percent

Kind = Literal["size", "seed", "draw", "group", "scratch", "stop"]
#: Where no run lowers the probability of a wrong answer by this much by itself, runs are ranked by what they would
#: contribute together: by the drop in the probability that an answer drawn by its probability is wrong.
LEAST_GAIN = 0.005


@dataclass(frozen=True)
class Proposal:
    """A run that is proposed.

    Attributes:
        candidate: The run; ``None`` for "stop".
        kind: A new size, a repeated seed at a size, another draw of shots, a group without runs, a run
            without pre-training, or stop.
        gain: Expected drop in the probability of a wrong answer.
        insight: Expected drop in the probability that an answer drawn by its probability is wrong. Any information
            lowers it, also where no single run can change the likeliest answer.
        cost: What it costs.
        gain_per_cost: What it is ranked by; where no run has a gain of half a percent, insight per cost is.
        settles: Probability that the question is decided after it.
        why: Its ground in one sentence.
    """

    candidate: Candidate | None
    kind: Kind
    gain: float
    insight: float
    cost: float
    gain_per_cost: float
    settles: float
    why: str


@dataclass(frozen=True)
class Value:
    """What one more run is expected to bring.

    Attributes:
        gain: Expected drop in the probability of a wrong answer.
        insight: Expected drop in the probability that an answer drawn by its probability is wrong.
        ahead: What is expected after it.
    """

    gain: float
    insight: float
    ahead: Outlook


@dataclass(frozen=True)
class Option:
    """Runs that differ only in their label: one gain for all of them.

    Attributes:
        group: Number of the group.
        kind: What they are.
        place: Which of the group's points a draw is added to; -1 for a new pre-training run.
        candidates: The runs, the one to do first first.
    """

    group: int
    kind: Kind
    place: int
    candidates: tuple[Candidate, ...]

    @property
    def first(self) -> Candidate:
        """The run to do first."""
        return self.candidates[0]

    @property
    def pretrains(self) -> bool:
        """Whether it is a pre-training run."""
        return self.kind not in ("draw", "scratch")

    @property
    def key(self) -> tuple[int, Kind, int, float]:
        """What tells it from the others."""
        return self.group, self.kind, self.place, self.first.n


def ground(option: Option, points: Points, value: Value, lacking: bool) -> str:
    """Say why a run is proposed; ``lacking``: the answer is sure enough, but rests on too few runs."""
    n, ahead = f"n = {option.first.n:,.0f}", value.ahead
    what = {
        "size": f"A first run at {n}",
        "seed": f"A repeated pre-training at {n}",
        "draw": f"Another draw of shots for the pre-training at {n}",
        "scratch": "Another run without pre-training",
        "group": f"A first run of {points.label}, at {n}",
    }[option.kind]
    if lacking:
        if option.kind == "group":
            return f"{what}: without any run of it, nothing is decided."
        return f"{what}: the answer for {points.label} is sure enough, but needs {LEAST_RUNS} pre-training runs."
    if not value.insight and not ahead.settles:
        return f"{what} says nothing by itself, but the next runs need it."
    if value.gain < LEAST_GAIN:
        return (
            f"{what} is not expected to change the likeliest answer by itself, but lowers the doubt in it by "
            f"{percent(value.insight)}; it decides the question with a probability of {percent(ahead.settles)}."
        )
    return (
        f"{what} is expected to lower the probability of a wrong answer from {percent(ahead.wrong + value.gain)} to "
        f"{percent(ahead.wrong)}; it decides the question with a probability of {percent(ahead.settles)}."
    )


def stop(decisions: Sequence[Decision], done: bool) -> tuple[Proposal, ...]:
    """Return the proposal to stop, where the study is done."""
    if not done:
        return ()
    undecided = [item for item in decisions if item.state != "decided"]
    why = "Every question is decided." if not undecided else "No run that is allowed and affordable is left."
    return (Proposal(None, "stop", 0.0, 0.0, 0.0, 0.0, 0.0, why),)
