"""What a study will take, before anything runs: runs, images, disk and hours, from rates and the runs it plans."""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from lightning_tl.study.config import Study
from lightning_tl.study.plan_items import DataSet, Run
from lightning_tl.study.rates import Rates, Seconds
from lightning_tl.study.run_counts import Work

#: Stages in the order of a study.
STAGES = ("start", "render", "pre-train", "trial runs", "fine-tune")


@dataclass(frozen=True)
class Cost:
    """What a study, or a part of it, takes.

    Attributes:
        runs: Number of runs by stage.
        seconds: Duration by stage, of all runs one after the other.
        images: Images to render.
        size: Bytes on disk.
        clock: Seconds until it is done, with so many runs at a time as the rates are for.
    """

    runs: dict[str, int]
    seconds: dict[str, Seconds]
    images: int
    size: float
    clock: float


@dataclass
class Estimator:
    """Adds up what runs take.

    Attributes:
        study: The study.
        rates: Of the machine.
        work: Run name → what it does.
        per_shard: Data set → images of a shard; whole shards are rendered.
    """

    study: Study
    rates: Rates
    work: Mapping[str, Work]
    per_shard: Mapping[str, int]
    rendered: dict[str, int] = field(default_factory=dict)

    def of_run(self, run: Run) -> Seconds:
        """Return the duration of a run."""
        work = self.work[run.name]
        rates = self.rates.training(work.kind)
        duration = (
            rates.start
            + rates.step * work.steps
            + rates.val_image * (work.validations * work.val_images)
            + rates.test_image * work.test_images
        )
        if work.start_images:
            duration += self.rates.training("pretrain").val_image * work.start_images
        return duration

    def rendering(self, data: DataSet, images: int) -> tuple[int, Seconds, float]:
        """Return images, duration on one worker, and clock time of rendering a data set up to so many images."""
        rates, shard = self.rates.rendering(data.name), self.per_shard.get(data.name, 1)
        train = math.ceil(images / shard) * shard
        val = math.ceil(data.val_images / shard) * shard
        have = self.rendered.get(data.name, -val)
        new = max(train - have, 0)
        self.rendered[data.name] = max(train, have)
        if not new:
            return 0, Seconds(0, 0), 0.0
        busy = min(self.rates.workers, math.ceil(new / shard))
        seconds = rates.start * busy + rates.image * new
        # shards are rendered one by one on each worker
        longest = math.ceil(new / shard / busy) * shard
        return new, seconds, rates.start.clock + rates.image.clock * longest

    def add(self, sets: Sequence[DataSet], stages: Sequence[Sequence[Run]], done: Collection[str]) -> Cost:
        """Return the cost of rendering data sets, then doing groups of runs, one group after the other.

        Args:
            sets: With the images that are needed.
            stages: The groups; a run waits for its start.
            done: Names of runs that are done before.
        """
        runs = dict.fromkeys(STAGES, 0)
        seconds = dict.fromkeys(STAGES, Seconds(0, 0))
        clock, images, size = 0.0, 0, 0.0
        if not done:  # the command, and the server of its workers
            seconds["start"] = self.rates.start * 2
            runs["start"] = 1
            clock += seconds["start"].clock
        for data in sets:
            new, own, wall = self.rendering(data, data.images)
            runs["render"] += bool(new)
            seconds["render"] += own
            images, clock = images + new, clock + wall
            size += new * self.rates.rendering(data.name).image_bytes
        known = set(done)
        for group in stages:
            todo = [run for run in group if run.name not in known]
            known |= {run.name for run in todo}
            for run in todo:
                name = "trial runs" if run.trial else "pre-train" if run.stage == "pretrain" else "fine-tune"
                runs[name] += 1
                seconds[name] += self.of_run(run)
                size += self.rates.training(self.work[run.name].kind).checkpoint_bytes
            clock += makespan({run.name: (run.start, self.of_run(run).clock) for run in todo}, self.rates.workers)
        return Cost(runs, seconds, images, size, clock)


def makespan(runs: Mapping[str, tuple[str | None, float]], workers: int) -> float:
    """Return when runs are all done that are begun in order, as workers become free and their starts are done.

    Args:
        runs: Name → the run that it waits for (where that is among them), and its duration.
        workers: Runs at a time.
    """
    ended: dict[str, float] = {}
    busy: list[tuple[float, str]] = []
    waiting, now = list(runs), 0.0
    while waiting or busy:
        for name in list(waiting):
            start, duration = runs[name]
            if len(busy) < workers and (start not in runs or start in ended):
                heapq.heappush(busy, (now + duration, name))
                waiting.remove(name)
        now, name = heapq.heappop(busy)
        ended[name] = now
    return now


def total(costs: Sequence[Cost]) -> Cost:
    """Return the sum of costs that follow each other."""
    runs = {name: sum(item.runs[name] for item in costs) for name in STAGES}
    seconds = dict.fromkeys(STAGES, Seconds(0, 0))
    for item in costs:
        seconds = {name: seconds[name] + item.seconds[name] for name in STAGES}
    return Cost(runs, seconds, sum(c.images for c in costs), sum(c.size for c in costs), sum(c.clock for c in costs))
