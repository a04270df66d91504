"""A study in steps whose trainings are made up: errors follow a law that the test knows."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lightning_tl.study.config import Choice, Stage, Study
from lightning_tl.study.curves import Curves, curves_of
from lightning_tl.study.expansion import expand
from lightning_tl.study.facts import Facts, read_facts
from lightning_tl.study.plan import plan
from lightning_tl.study.run_steps import run_in_steps
from lightning_tl.study.trained import Trained
from lightning_tl.study.until import Until

Law = Callable[[dict[str, Any], float], float]
SIZES = (64, 128, 256, 512, 1024, 2048)


def study(until: Until, sizes=SIZES, widths=("resnet10_w8", "resnet10_w16"), seeds=(0, 1), **more) -> Study:
    product: dict[str, list[Any]] = {"data.n": list(sizes), "seed_everything": list(seeds)}
    if widths:
        product["model.backbone"] = list(widths)
    tune = Stage("finetune/digits", zip=[{"data.draw": [0, 1], "seed_everything": [0, 1]}])
    if widths:
        tune.product, tune.same = {"model.backbone": list(widths)}, ["model.backbone"]
    given = {"pretrain": Stage("pretrain/small_images", {"data.root": "renders"}, product), "finetune": tune}
    return Study(**(given | {"until": until, "workers": 2} | more))


def widths_differ(point: dict[str, Any], n: float) -> float:
    """With width 8 more images help; with width 16 the gap has been reached."""
    if not n:
        return 0.5
    return 0.9 * n**-0.5 if point["model.backbone"] == "resnet10_w8" else 0.2 + 0.1 * n**-1.0


class Lab:
    """Trains nothing: makes up the record of each run, with a scatter that depends only on the run."""

    def __init__(self, law: Law = widths_differ, noise: float = 0.01, failing: tuple[str, ...] = ()) -> None:
        self.law, self.noise, self.failing = law, noise, failing
        self.parts: list[int] = []
        self.kill_after: int | None = None

    def record(self, run, start) -> dict[str, Any]:
        n = start.point["data.n"] if start else 0
        digest = int(run.key, 16)
        luck = np.random.default_rng(digest % 2**32).normal(0, self.noise)
        point = run.point if start is None else {**run.point, **start.point}
        error = min(self.law(point, n) * math.exp(luck), 0.999)
        return {"seconds": 36.0, "metrics": {"test/error": error, "val/error": error}, "checkpoint": "", "facts": {}}

    def train(self, out: Path) -> Callable[..., Trained]:
        def trained(part, trials) -> Trained:
            if self.kill_after is not None:
                if not self.kill_after:
                    raise KeyboardInterrupt
                self.kill_after -= 1
            self.parts.append(len(part.pretrain))
            value = {"chosen": 1}
            chosen = None if part.study.choose is None else dict.fromkeys(["scratch", *self.series(part)], value)
            runs = plan(part, out, chosen)
            by_name = {run.name: run for run in runs}
            failures = {run.name: "broken" for run in runs if any(text in run.name for text in self.failing)}
            done = {
                run.name: self.record(run, by_name.get(run.start or ""))
                for run in runs
                if run.name not in failures and run.start not in failures
            }
            return Trained([], runs, done, failures)

        return trained

    def series(self, part) -> list[str]:
        from lightning_tl.study.choice import origin

        return [origin(planned.point) for planned in part.pretrain]

    def run(self, given: Study, out: Path) -> tuple[Curves, dict[str, Any]]:
        given.check()
        out.mkdir(exist_ok=True)
        curves = curves_of(expand(given))
        run_in_steps(curves, Facts(out / "study.json", given), 2, self.train(out))
        return curves, read_facts(out / "study.json")["steps"]


def path(steps: dict[str, Any]) -> list[dict[str, Any]]:
    return [{key: value for key, value in step.items() if key != "hours"} for step in steps["taken"]]


__all__ = ["SIZES", "Choice", "Lab", "Law", "path", "study", "widths_differ"]
