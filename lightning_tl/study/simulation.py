"""What a study in steps may take: it is played through with made-up results, many times.

A curve is drawn from the prior that the steps go by: alpha and the share of C uniform, the noise of a pre-training
log-uniform, the error at the smallest size about the prior's. One fine-tuning scatters by another 2 %.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_tl.laws.posterior import shape_of
from lightning_tl.study.cost import Cost, Estimator, total
from lightning_tl.study.curves import Curves
from lightning_tl.study.expansion import Expansion
from lightning_tl.study.plan import data_sets
from lightning_tl.study.plan_items import Run
from lightning_tl.study.steps import Step, begun, is_final, next_step, opening

#: Scatter of the log error from fine-tuning to fine-tuning.
_DRAW = 0.02
Planner = Callable[[Expansion, bool], list[Run]]


@dataclass(frozen=True)
class Truth:
    """A curve that was drawn: its error at each size, and the scatter of its pre-trainings."""

    alpha: float
    share: float
    level: float
    noise: float

    def log_error(self, n: float, smallest: float) -> float:
        """Return the log error at a size."""
        return self.level + float(shape_of(np.array(self.alpha), np.array(self.share), n / smallest))


def draw_truth(curves: Curves, rng: np.random.Generator) -> dict[str, Truth]:
    """Draw a curve for each label; the noise is the same for all."""
    prior = curves.until.prior()
    noise = float(np.exp(rng.uniform(*np.log(prior.noise))))
    return {
        name: Truth(
            float(rng.uniform(*prior.alpha)),
            float(rng.uniform()),
            min(float(rng.normal(np.log(prior.error), prior.spread)), np.log(0.9)),
            noise,
        )
        for name in curves.labels
    }


def simulate(curves: Curves, planner: Planner, estimator: Estimator, seed: int) -> tuple[Cost, list[Step]]:
    """Play a study in steps through once.

    Args:
        curves: Of the study.
        planner: Returns the runs of a part of it, or with True its trial runs and their starts.
        estimator: Adds up what it takes; its data sets grow, so each play needs a new one.
        seed: Of the truth and of the luck of runs.
    """
    rng = np.random.default_rng(seed)
    truths = draw_truth(curves, rng)
    smallest = min(item.n for item in curves.candidates)
    without = float(rng.normal(0.1, 0.3))  # log error without pre-training, over that of the smallest size
    luck: dict[str, float] = {}
    steps: list[Step] = []
    costs: list[Cost] = []
    records: dict[str, dict[str, Any]] = {}
    runs: list[Run] = []
    while True:
        if steps:
            part = curves.part(begun(steps, curves))
            trials = planner(curves.part(begun(steps[:1], curves)), True) if curves.expansion.study.choose else []
            runs = planner(part, False)
            costs.append(estimator.add(data_sets(part), [trials, runs], set(records)))
            place = {repr(p.point): c for p, c in zip(curves.expansion.pretrain, curves.candidates, strict=True)}
            started = {run.name: place[repr(run.point)] for run in runs if run.stage == "pretrain"}
            for run in [*trials, *runs]:
                if run.name in records:
                    continue
                own = started.get(run.name if run.stage == "pretrain" else run.start or "")
                label = own.group if own else curves.labels[0]
                truth = truths[label]
                if run.stage == "pretrain":
                    luck[run.name] = float(rng.normal(0, truth.noise))
                level = truth.log_error(own.n, smallest) if own else truth.level + without
                value = np.exp(level + luck.get(run.start or "", 0.0) + rng.normal(0, _DRAW))
                records[run.name] = {"metrics": {"test/error": float(min(value, 0.999))}, "seconds": 0.0}
        if is_final(steps, curves):
            return total(costs), steps
        first = None if steps else opening(curves)
        groups = curves.groups(runs, records)
        hours = sum(item.clock for item in costs) / 3600
        steps.append(first or next_step(curves, steps, groups, estimator.rates.workers, hours))
