"""Simulations of `lightning-tl next`: does it decide with fewer runs than a fixed grid, and how often wrongly?

    python benchmarks/decide.py more            # more or different, against the grid of seven sizes 1000·2^k
    python benchmarks/decide.py other           # the same, where the curves are no such law
    python benchmarks/decide.py boundary        # the same, where ten times the images take away 5 to 20 %
    python benchmarks/decide.py questions       # is a target reached; is pre-training worse than none
    python benchmarks/decide.py best            # which of eight groups has the lowest error at 64,000 images

Worlds have a known truth. A curve is ``error = 0.3 (c + (1 - c) (n / 1000)^-alpha)`` with alpha uniform in 0.1 to 1 and
c, the share of C in the error at 1000 images, uniform in 0.05 to 0.95. One run at n has that error times exp(noise z),
z normal. The truth of "more or different" is that of the verdict of `law`: do 640,000 images have an error at least
10 % below that of 64,000?
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lightning_tl.labs.error_curves import LEVEL, LawCurve, broken_curve, law_curve, rising_curve
from lightning_tl.labs.shares import binomial_interval
from lightning_tl.laws import fit
from lightning_tl.laws.candidates import Candidate, Costs
from lightning_tl.laws.forms import Array
from lightning_tl.laws.law_check import check_law
from lightning_tl.laws.next_runs import plan
from lightning_tl.laws.posterior import Points, Prior
from lightning_tl.laws.questions import BestGroup, MoreOrDifferent, NegativeTransfer, Question, TargetError
from lightning_tl.laws.stopping import Decision, Look

SIZES = 1000 * 2.0 ** np.arange(7)
LARGEST = float(SIZES[-1])
GROUPS = 8
CONFIDENCE = 0.9
#: Runs after which a study of one curve gives up.
MOST_RUNS = 10
Curve = Callable[[Array], Array]
Draw = Callable[[np.random.Generator], Curve]


@dataclass(frozen=True)
class Outcome:
    """How one simulated study ended.

    Attributes:
        answer: The answer; ``None`` where it was not decided.
        right: Whether the answer is right.
        near: Whether the truth lies so near the boundary that either answer is acceptable.
        runs: Pre-trainings done.
        flagged: Whether the runs were found to contradict the law.
    """

    answer: str | None
    right: bool
    near: bool
    runs: int
    flagged: bool = False

    @property
    def wrong(self) -> bool:
        """Whether a wrong answer was given."""
        return self.answer is not None and not self.right


# ---- worlds ----------------------------------------------------------------------------------------------------------


def boundary_curve(rng: np.random.Generator) -> LawCurve:
    """Draw laws until ten times the images take away 5 to 20 % of the error at 64,000."""
    while True:
        curve = law_curve(rng)
        if 0.05 <= reduction(curve) <= 0.20:
            return curve


def reduction(curve: Curve) -> float:
    """Return which share of the error at 64,000 images ten times as many take away."""
    near, far = curve(np.array([LARGEST, 10 * LARGEST]))
    return float(1 - far / near)


def measured(curve: Curve, n: float, noise: float, rng: np.random.Generator) -> float:
    """Return the log error of one run."""
    return float(np.log(curve(np.array([n]))[0]) + noise * rng.standard_normal())


def points(label: str, n: Sequence[float], y: Sequence[float]) -> Points:
    """Return runs as points."""
    return Points(label, np.array(n, float), np.array(y, float), np.ones(len(n)))


# ---- more or different -----------------------------------------------------------------------------------------------


def study(
    curve: Curve,
    noise: float,
    rng: np.random.Generator,
    prior: Prior,
    confidence: float = CONFIDENCE,
    most: int = MOST_RUNS,
    batch: int = 1,
) -> Outcome:
    """Run a sequential study of "more or different"."""
    question, truth = MoreOrDifferent(LARGEST), reduction(curve)
    decision, runs = sequential(curve, question, noise, rng, prior, confidence, most, batch)
    answer = decision.answer if decision.state == "decided" else None
    flagged = check_law(runs, [runs], prior, float(SIZES[0])).flagged
    return _outcome(answer, truth, question, len(runs.n), flagged)


def sequential(
    curve: Curve,
    question: Question,
    noise: float,
    rng: np.random.Generator,
    prior: Prior,
    confidence: float = CONFIDENCE,
    most: int = MOST_RUNS,
    batch: int = 1,
    scratch: tuple[Array, float] | None = None,
) -> tuple[Decision, Points]:
    """Run what is proposed until the question is decided, and return where it then stands and the runs.

    ``scratch`` has the log errors of runs without pre-training, and their truth.
    """
    n: list[float] = []
    y: list[float] = []
    looks: tuple[Look, ...] = ()
    while True:
        left = [Candidate("a", size, str(len(n) + i)) for size in SIZES for i in range(batch)]
        costs = Costs(budget=float(most - len(n)))
        runs = points("a", n, y)
        if scratch is not None:  # one more run without pre-training may be done too, at the same cost
            runs = replace(runs, scratch=scratch[0])
            left.append(Candidate("a", 0.0, "", str(len(scratch[0]))))
            costs = Costs(budget=float(most - len(n) - len(scratch[0]) + 3))
        now = plan([runs], question, left, costs, confidence, looks, batch, prior=prior)
        looks = now.looks
        if now.done:
            return now.decisions[0], runs
        for proposal in now.batch:
            chosen = proposal.candidate
            assert chosen is not None
            if chosen.n == 0 and scratch is not None:
                scratch = np.append(scratch[0], scratch[1] + noise * rng.standard_normal()), scratch[1]
                continue
            n.append(chosen.n)
            y.append(measured(curve, chosen.n, noise, rng))


def against(kind: str, curve: Curve, noise: float, rng: np.random.Generator, prior: Prior) -> Outcome:
    """Ask whether the error at 64,000 reaches a target, or is above that of three runs without pre-training.

    Target and error without pre-training are the true error times exp(0.1 z), z normal: near enough to be hard.
    """
    near = float(curve(np.array([LARGEST]))[0] * np.exp(0.1 * rng.standard_normal()))
    below = bool(curve(np.array([LARGEST]))[0] <= near)
    if kind == "target":
        decision, runs = sequential(curve, TargetError(LARGEST, near), noise, rng, prior)
        right = decision.answer == ("reached" if below else "not reached")
    else:
        scratch = np.log(near) + noise * rng.standard_normal(3), float(np.log(near))
        decision, runs = sequential(curve, NegativeTransfer(LARGEST), noise, rng, prior, scratch=scratch)
        right = decision.answer == ("better than none" if below else "worse than none")
    answer = decision.answer if decision.state == "decided" else None
    return Outcome(answer, right, False, len(runs.n) + max(len(runs.scratch) - 3, 0))


def grid(curve: Curve, noise: float, rng: np.random.Generator, confidence: float = CONFIDENCE) -> Outcome:
    """Run the seven sizes, then take the verdict of ``law`` with this confidence."""
    y = [measured(curve, float(n), noise, rng) for n in SIZES]
    law = fit(n=SIZES, error=np.exp(y))
    question = MoreOrDifferent(LARGEST)
    sure = law.probability_of_reduction(LARGEST, 10 * LARGEST, question.worthwhile)
    answer = "render more" if sure >= confidence else "render differently" if sure <= 1 - confidence else None
    return _outcome(answer, reduction(curve), question, len(SIZES))


def _outcome(answer: str | None, truth: float, question: MoreOrDifferent, runs: int, flagged: bool = False) -> Outcome:
    right = answer == ("render more" if truth >= question.worthwhile else "render differently")
    near = abs(truth - question.worthwhile) <= question.zone * question.worthwhile
    return Outcome(answer, right, near, runs, flagged)


# ---- the best of several ---------------------------------------------------------------------------------------------


def apart(rng: np.random.Generator) -> list[Curve]:
    """Draw eight curves whose errors at 1000 images scatter by 10 %."""
    return [law_curve(rng, LEVEL * float(np.exp(0.1 * rng.standard_normal()))) for _ in range(GROUPS)]


def close(rng: np.random.Generator) -> list[Curve]:
    """Draw eight curves whose errors at 64,000 images scatter by 5 %."""
    curves = []
    for _ in range(GROUPS):
        shape, aim = law_curve(rng), 0.2 * float(np.exp(0.05 * rng.standard_normal()))
        scale = aim / float(shape(np.array([LARGEST]))[0])
        curves.append(lambda n, shape=shape, scale=scale: scale * shape(n))
    return curves


def best_of(
    curves: Sequence[Curve], noise: float, rng: np.random.Generator, prior: Prior, most: int, full: bool = False
) -> Outcome:
    """Find the best of eight groups at 64,000 images, in sequence or, with ``full``, from all sizes of all groups."""
    question = BestGroup(LARGEST)
    truth = np.array([curve(np.array([LARGEST]))[0] for curve in curves])
    runs: list[tuple[list[float], list[float]]] = [([], []) for _ in curves]
    looks: tuple[Look, ...] = ()
    if full:
        for curve, (n, y) in zip(curves, runs, strict=True):
            for size in SIZES:
                n.append(float(size))
                y.append(measured(curve, float(size), noise, rng))
    while True:
        done = sum(len(n) for n, _ in runs)
        left = [Candidate(str(i), size, str(done)) for i in range(GROUPS) for size in SIZES]
        costs = Costs(budget=0.0 if full else float(most - done))
        now = plan(
            [points(str(i), *run) for i, run in enumerate(runs)], question, left, costs, CONFIDENCE, looks, prior=prior
        )
        looks = now.looks
        if now.done:
            break
        chosen = now.batch[0].candidate
        assert chosen is not None
        runs[int(chosen.group)][0].append(chosen.n)
        runs[int(chosen.group)][1].append(measured(curves[int(chosen.group)], chosen.n, noise, rng))
    found = truth[int(now.decisions[0].answer)]
    decided = now.decisions[0].state == "decided"
    right = bool(found <= truth.min() * (1 + question.within))
    return Outcome("best" if decided else None, right, False, done)


# ---- tables ----------------------------------------------------------------------------------------------------------


def share(count: int, of: int) -> str:
    """A share in percent with its 95 % binomial interval (Clopper and Pearson)."""
    if not of:
        return "-"
    low, high = binomial_interval(count, of)
    return f"{100 * count / of:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def show(head: list[str], rows: list[list[str]]) -> None:
    """Print a Markdown table."""
    width = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, ["-" * w for w in width], *rows]:
        print("| " + " | ".join(cell.ljust(w) for cell, w in zip(row, width, strict=True)) + " |", flush=True)


def row(name: str, noise: float, results: Sequence[Outcome], seconds: float) -> list[str]:
    """One line of the tables of "more or different"."""
    decided = [item for item in results if item.answer is not None]
    wrong = [item for item in decided if item.wrong]
    far = [item for item in wrong if not item.near]
    runs = np.array([item.runs for item in results])
    flagged = sum(item.flagged for item in results)
    return [
        name,
        f"{100 * noise:g} %",
        share(len(decided), len(results)),
        share(len(wrong), len(decided)),
        share(len(far), len(decided)),
        f"{runs.mean():.2f}",
        f"{np.quantile(runs, 0.9):.0f}",
        share(flagged, len(results)),
        share(sum(item.flagged for item in wrong), len(wrong)),
        f"{seconds:.0f} s",
    ]


HEAD = ["curves", "noise", "decided", "wrong", "and outside 8 to 12 %", "runs, mean", "90 % of studies"]
HEAD += ["flagged", "flagged, of the wrong", "time"]


def more(
    kinds: dict[str, Draw],
    worlds: int,
    noises: Sequence[float],
    seed: int,
    batch: int,
    confidence: float,
    with_grid: bool,
) -> None:
    """Print a row per kind of curve and noise: the sequential study, and the grid with the verdict of ``law``."""
    rows = []
    for name, kind in kinds.items():
        for noise in noises:
            for procedure in ("next", "grid") if with_grid else ("next",):
                rng, start, results = np.random.default_rng(seed), time.process_time(), []
                for _ in range(worlds):
                    curve = kind(rng)
                    own = np.random.default_rng(rng.integers(2**32))
                    if procedure == "next":
                        results.append(study(curve, noise, own, Prior(), confidence, batch=batch))
                    else:
                        results.append(grid(curve, noise, own, confidence))
                rows.append(row(f"{name}, {procedure}", noise, results, time.process_time() - start))
                print(" ".join(rows[-1]), flush=True)
    show(HEAD, rows)


def questions(worlds: int, noises: Sequence[float], seed: int) -> None:
    """Print a row for each other question on one curve and noise."""
    rows = []
    for kind in ("target", "negative"):
        for noise in noises:
            rng, start, results = np.random.default_rng(seed), time.process_time(), []
            for _ in range(worlds):
                curve = law_curve(rng)
                results.append(against(kind, curve, noise, np.random.default_rng(rng.integers(2**32)), Prior()))
            decided = [item for item in results if item.answer is not None]
            runs = np.array([item.runs for item in results])
            cells = [kind, f"{100 * noise:g} %", share(len(decided), worlds)]
            cells += [share(sum(item.wrong for item in decided), len(decided)), f"{runs.mean():.2f}"]
            rows.append([*cells, f"{np.quantile(runs, 0.9):.0f}", f"{time.process_time() - start:.0f} s"])
            print(" ".join(rows[-1]), flush=True)
    show(["question", "noise", "decided", "wrong, of these", "runs, mean", "90 % of studies", "time"], rows)


def best(worlds: int, noises: Sequence[float], seed: int, names: Sequence[str], with_grid: bool) -> None:
    """Print a row per noise: the sequential study with at most half the grid's runs, and the grid."""
    rows = []
    for name in names:
        kind = {"apart": apart, "close": close}[name]
        for noise in noises:
            for full in (False, True) if with_grid else (False,):
                rng, start, results = np.random.default_rng(seed), time.process_time(), []
                for _ in range(worlds):
                    curves = kind(rng)
                    own = np.random.default_rng(rng.integers(2**32))
                    results.append(best_of(curves, noise, own, Prior(), GROUPS * len(SIZES) // 2, full))
                decided = [item for item in results if item.answer is not None]
                runs = np.array([item.runs for item in results])
                cells = [f"{name}, {'grid' if full else 'next'}", f"{100 * noise:g} %"]
                cells += [share(sum(item.right for item in results), worlds), share(len(decided), worlds)]
                cells += [
                    share(sum(item.wrong for item in decided), len(decided)),
                    f"{runs.mean():.1f}",
                    f"{runs.max()}",
                ]
                rows.append([*cells, f"{time.process_time() - start:.0f} s"])
                print(" ".join(rows[-1]), flush=True)
    show(["curves", "noise", "right or within 2 %", "decided", "wrong, of these", "runs, mean", "most", "time"], rows)


def main() -> None:
    """Run one of the simulations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["more", "other", "boundary", "questions", "best"])
    parser.add_argument("--worlds", type=int, default=1000)
    parser.add_argument("--noise", type=float, nargs="+", default=[0.005, 0.02, 0.05])
    parser.add_argument("--batch", type=int, default=1, help="runs started together; for more, other, boundary")
    parser.add_argument("--confidence", type=float, default=CONFIDENCE, help="for more, other, boundary")
    parser.add_argument("--curves", nargs="+", default=["apart", "close"], choices=["apart", "close"], help="for best")
    parser.add_argument("--no-grid", action="store_true", help="only the sequential study")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.what == "best":
        best(given.worlds, given.noise, given.seed, given.curves, not given.no_grid)
        return
    if given.what == "questions":
        questions(given.worlds, given.noise, given.seed)
        return
    kinds = {
        "more": {"laws": law_curve},
        "other": {"double power laws": broken_curve, "rising again": rising_curve},
        "boundary": {"laws near the boundary": boundary_curve},
    }[given.what]
    more(kinds, given.worlds, given.noise, given.seed, given.batch, given.confidence, not given.no_grid)


if __name__ == "__main__":
    main()
