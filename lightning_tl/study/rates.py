"""How fast this machine renders and trains, measured in short trials; the rates of another can be read."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lightning_tl.errors import UserError, shortened
from lightning_tl.study.shapes import problem


@dataclass
class Seconds:
    """A duration: of the clock, and of all CPU cores together."""

    clock: float
    cpu: float

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(self.clock + other.clock, self.cpu + other.cpu)

    def __mul__(self, factor: float) -> Seconds:
        return Seconds(self.clock * factor, self.cpu * factor)


@dataclass
class StageRates:
    """Durations of a run of one stage.

    Attributes:
        start: Before its first step: reading, building, and what comes after its last evaluation.
        step: Of one training step.
        val_image: Of one image of a validation.
        test_image: Of one image of the test.
        checkpoint_bytes: Size of what it leaves on disk.
    """

    start: Seconds
    step: Seconds
    val_image: Seconds
    test_image: Seconds
    checkpoint_bytes: float


@dataclass
class RenderRates:
    """Durations of rendering a data set on one worker.

    Attributes:
        start: Before the first scene.
        image: Of one image.
        image_bytes: Size of one image with its labels, on disk.
    """

    start: Seconds
    image: Seconds
    image_bytes: float


@dataclass
class Rates:
    """All rates of a study on a machine.

    Attributes:
        workers: Runs at a time. Rates of training were measured with so many trials at once.
        start: Once: the imports of the processes. The check of the study comes on top.
        stages: ``pretrain``, ``finetune``; where a stage has several kinds of runs, ``pretrain`` and the settings, such
            as the network, that tell the kind from others.
        render: Data set → rates; those not named take the mean.
    """

    workers: int
    start: Seconds
    stages: dict[str, StageRates]
    render: dict[str, RenderRates] = field(default_factory=dict)

    def rendering(self, name: str) -> RenderRates:
        """Return the rates of a data set."""
        if name in self.render:
            return self.render[name]
        if not self.render:
            raise UserError(f"the rates have none of rendering {name}; measure them again, without --assume")
        return mean_rendering(list(self.render.values()))

    def training(self, kind: str) -> StageRates:
        """Return the rates of a kind of run; where it was not measured, the mean of its stage."""
        if kind in self.stages:
            return self.stages[kind]
        return mean_training([item for name, item in self.stages.items() if stage_of(name) == stage_of(kind)])


def stage_of(kind: str) -> str:
    """Return the stage of a kind of run."""
    return kind.partition(" ")[0]


def mean_rendering(items: Sequence[RenderRates]) -> RenderRates:
    """Return the mean of rates."""
    share = 1 / len(items)
    start, image = (total([getattr(item, name) for item in items]) * share for name in ("start", "image"))
    return RenderRates(start, image, share * sum(item.image_bytes for item in items))


def mean_training(items: Sequence[StageRates]) -> StageRates:
    """Return the mean of rates."""
    share = 1 / len(items)
    parts = {
        name: total([getattr(item, name) for item in items]) * share
        for name in ("start", "step", "val_image", "test_image")
    }
    return StageRates(**parts, checkpoint_bytes=share * sum(item.checkpoint_bytes for item in items))


def total(items: Sequence[Seconds]) -> Seconds:
    """Return the sum of durations."""
    return Seconds(sum(item.clock for item in items), sum(item.cpu for item in items))


def read_rates(path: Path) -> Rates:
    """Read rates that :func:`write_rates` wrote.

    Raises:
        UserError: The file is missing or holds something else.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read ({shortened(str(error), 100)}); write it with --write-rates") from None
    if wrong := problem(content, Rates):
        raise UserError(f"{path}: no rates ({wrong}); write it with --write-rates, then change its numbers")
    if bad := _negative(content, ""):
        raise UserError(f"{path}: {bad}; durations and sizes are numbers from 0 on, workers from 1 on")
    stages = {name: StageRates(**_durations(item)) for name, item in content["stages"].items()}
    render = {name: RenderRates(**_durations(item)) for name, item in content.get("render", {}).items()}
    return Rates(content["workers"], Seconds(**content["start"]), stages, render)


def _durations(item: Mapping[str, Any]) -> dict[str, Any]:
    return {name: Seconds(**value) if isinstance(value, dict) else value for name, value in item.items()}


def _negative(value: Any, where: str) -> str:
    if isinstance(value, dict):
        return next(filter(None, (_negative(each, f"{where}.{key}".strip(".")) for key, each in value.items())), "")
    least = 1 if where == "workers" else 0
    return "" if least <= value < float("inf") else f"{where} is {value}"


def write_rates(rates: Rates, path: Path) -> None:
    """Write rates as YAML, to be changed or taken to another machine."""
    path.write_text(yaml.safe_dump(asdict(rates), sort_keys=False), encoding="utf-8")


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its children that have ended."""
    if os.name != "posix":
        used = os.times()
        return used.user + used.system
    import resource  # Windows has none; finer than os.times

    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


class Watch:
    """Measures durations between its calls."""

    def __init__(self) -> None:
        self.clock, self.cpu = time.perf_counter(), cpu_seconds()

    def lap(self) -> Seconds:
        """Return the time since it was made or last asked."""
        clock, cpu = time.perf_counter(), cpu_seconds()
        passed = Seconds(clock - self.clock, cpu - self.cpu)
        self.clock, self.cpu = clock, cpu
        return passed
