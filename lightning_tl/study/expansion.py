"""A study's axes expanded, once: which data sets, pre-trainings and fine-tunings there are, by their axes' values."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lightning_tl.errors import UserError
from lightning_tl.study.config import Stage, Study
from lightning_tl.study.grid import Point, label


@dataclass(frozen=True)
class PretrainingPoint:
    """A pre-training.

    Attributes:
        render: Name of the data set it reads; None where its configuration names the data.
        own: Its own axes' values.
    """

    render: str | None
    own: Point

    @property
    def point(self) -> Point:
        """All axes' values, ``render`` among them."""
        return self.own if self.render is None else {"render": self.render} | self.own


@dataclass(frozen=True)
class Expansion:
    """What a study's axes expand to.

    Attributes:
        study: The study.
        renders: Data sets: name → axes' values.
        pretrain: Pre-trainings.
        scratch: Axes' values of the fine-tunings from random weights.
        finetune: Number of the pre-training in ``pretrain`` and own axes' values of the other fine-tunings.
    """

    study: Study
    renders: dict[str, Point]
    pretrain: tuple[PretrainingPoint, ...]
    scratch: tuple[Point, ...]
    finetune: tuple[tuple[int, Point], ...]


def expand(study: Study) -> Expansion:
    """Expand a study's axes.

    Raises:
        UserError: An axis is wrong, two data sets have one name, or an exclusion names what is no axis or no value.
    """
    renders: dict[str, Point] = {}
    if study.render is not None:
        for _, point in study.render.grid("render"):
            name = label(point) or label({"config": study.render.files(point)})
            if name in renders:
                raise UserError(f"two data sets are the same: {name}; an axis has a value twice, or differs in nothing")
            renders[name] = point
    pretrain: list[PretrainingPoint] = []
    if study.pretrain is not None:
        others: list[Point] = [{"render": name} for name in renders] or [{}]
        for other, point in study.pretrain.grid("pretrain", others):
            pretrain.append(PretrainingPoint(other.get("render"), point))
    starts = [{"start": number} | finetuning_axes(each.point) for number, each in enumerate(pretrain)]
    pairs = study.finetune.grid("finetune", starts)
    scratch: tuple[Point, ...] = ()
    if study.scratch:
        without_starts = replace(study.finetune, exclude=_own_exclusions(study.finetune))
        scratch = tuple(point for _, point in without_starts.grid("finetune"))
    finetune = tuple((other["start"], point) for other, point in pairs if "start" in other)
    return Expansion(study, renders, tuple(pretrain), scratch, finetune)


def finetuning_axes(point: Point) -> Point:
    """Return a pre-training's axes under the names that fine-tuning has for them: ``render``, ``pretrain.KEY``."""
    return {key if key == "render" else f"pretrain.{key}": value for key, value in point.items()}


def _own_exclusions(stage: Stage) -> list[dict[str, object]]:
    """Return the exclusions that name only the stage's own axes, which hold for scratch too."""
    return [rule for rule in stage.exclude if rule.keys() <= stage.axes]
