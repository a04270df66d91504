"""When a question counts as decided, and what looking often costs.

The confidence of an answer is its posterior probability. Averaged over the prior, that is the share of right answers
whatever rule ends the study: the posterior is a martingale, so looking often costs nothing there. It does cost where
the truth is not drawn from the prior, above all where the noise is larger than was likely a priori: after few runs the
noise is hardly known, and the first looks are those that go wrong. Two things keep the promise there too: the prior of
the noise leans towards large noise (:class:`~.posterior.Prior`), and the first looks ask for more, as O'Brien and
Fleming's boundary does (Biometrics 1979): the probability of a wrong answer must be at most 0.9 of the promised one at
the first look, 0.95 at the second, all of it from the third on. These numbers were calibrated by simulation
(``benchmarks/decide.py more``) and hold for looks after every run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lightning_tl.errors import UserError
from lightning_tl.laws.wording import sure

State = Literal["decided", "open", "exhausted"]
#: Share of the promised probability of a wrong answer that the first look may use, and what each further look adds.
_FIRST, _STEP = 0.9, 0.05
#: Pre-training runs of a group without which its own question is not decided: two sizes cannot contradict a law.
LEAST_RUNS = 3


@dataclass(frozen=True)
class Look:
    """One look at the results at which an answer could have been decided.

    Attributes:
        runs: Runs in the table, fine-tunings and runs without pre-training included.
        confidence: Confidence of the answer by then; the lowest over the groups where each has its own.
    """

    runs: int
    confidence: float


@dataclass(frozen=True)
class Decision:
    """Where a question stands.

    Attributes:
        group: The group that it is answered for; empty where the groups have one answer together.
        state: ``decided``; ``open``; ``exhausted``: not decided, and no run is left that could change this.
        answer: The answer most likely right.
        confidence: Probability that it is right.
        threshold: Probability from which on it is decided at this look.
        looks: Looks at the results so far, this one included.
        probabilities: Probability that each answer is right; more than 1 together where several may count as right.
        why: Why it is not decided, or on what it rests, in a sentence.
    """

    group: str
    state: State
    answer: str
    confidence: float
    threshold: float
    looks: int
    probabilities: dict[str, float]
    why: str = ""


def threshold(confidence: float, looks: int) -> float:
    """Return the probability from which on an answer is decided, so that looking often keeps what is promised.

    Args:
        confidence: Promised share of right decisions.
        looks: Number of looks so far at which it could have been decided, this one included.

    Raises:
        UserError: The confidence is not in [0.5, 1).
    """
    if not 0.5 <= confidence < 1:
        raise UserError(
            f"confidence is {confidence:g}; give a share of right decisions from 0.5 to below 1, such as 0.9"
        )
    return 1 - (1 - confidence) * min(_FIRST + _STEP * (looks - 1), 1.0)


def missing_runs(joint: bool, runs: int) -> int:
    """Return how many pre-training runs a group lacks before its question, or the one of all, may be decided."""
    return max((1 if joint else LEAST_RUNS) - runs, 0)


def count_looks(looks: Sequence[Look], runs: int) -> int:
    """Return the number of looks, the one at a table of so many runs included; a second look at one table is none."""
    return len({look.runs for look in looks} | {runs})


def why(state: State, confidence: float, limit: float, looks: int, joint: bool) -> str:
    """Say on what a decision rests, or why there is none yet."""
    times = f"{looks} looks ask" if looks > 1 else "1 look asks"
    if state == "decided":
        return f"Confidence {sure(confidence)}, at least the {100 * limit:.1f} % that {times} for."
    rest = "no run that is allowed and affordable is left" if state == "exhausted" else "more runs are needed"
    if confidence >= limit:
        short = "a group has no run yet" if joint else f"on fewer than {LEAST_RUNS} pre-training runs"
        return f"Confidence {sure(confidence)}, but {short}; {rest}."
    return f"Confidence {sure(confidence)}, below the {100 * limit:.1f} % that {times} for; {rest}."
