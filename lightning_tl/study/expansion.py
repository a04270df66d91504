"""The expansion of a study's axes into data sets, pre-trainings and fine-tunings. It is done once per study."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lightning_tl.errors import UserError
from lightning_tl.study.config import Stage, Study
from lightning_tl.study.grid import Point, excluder, label


@dataclass(frozen=True)
class PretrainingPoint:
    """The values of the axes of one pre-training.

    Attributes:
        render: Name of the data set that it reads; None where its configuration names the data.
        own: Values of its own axes.
    """

    render: str | None
    own: Point

    @property
    def point(self) -> Point:
        """Values of all axes, with ``render``."""
        return self.own if self.render is None else {"render": self.render} | self.own


@dataclass(frozen=True)
class Expansion:
    """An expanded study.

    Attributes:
        study: The study.
        renders: Name of each data set → values of its axes.
        pretrain: The pre-trainings.
        scratch: Values of the axes of each fine-tuning from random weights.
        finetune: For each other fine-tuning, the index of its pre-training in ``pretrain`` and the values of its own
            axes.
    """

    study: Study
    renders: dict[str, Point]
    pretrain: tuple[PretrainingPoint, ...]
    scratch: tuple[Point, ...]
    finetune: tuple[tuple[int, Point], ...]


def expand(study: Study) -> Expansion:
    """Expand a study's axes.

    Raises:
        UserError: An axis is wrong, two data sets have the same name, or an exclusion names an unknown axis or value.
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
    starts = [{"start": number} | finetuning_axes(planned.point) for number, planned in enumerate(pretrain)]
    pairs = study.finetune.grid("finetune", starts)
    scratch: tuple[Point, ...] = ()
    if study.scratch:
        without_starts = replace(study.finetune, exclude=_own_exclusions(study.finetune))
        scratch = tuple(point for _, point in without_starts.grid("finetune"))
        if isinstance(study.scratch, dict):
            kept = excluder([study.scratch], list(scratch), "finetune", "scratch")
            scratch = tuple(point for point in scratch if kept(point))
    finetune = tuple((other["start"], point) for other, point in pairs if "start" in other)
    return Expansion(study, renders, tuple(pretrain), scratch, finetune)


def finetuning_axes(point: Point) -> Point:
    """Return a pre-training's axes by the names that they have in fine-tuning: ``render``, ``pretrain.KEY``."""
    return {key if key == "render" else f"pretrain.{key}": value for key, value in point.items()}


def _own_exclusions(stage: Stage) -> list[dict[str, object]]:
    """Return the exclusions that name only the stage's own axes; they also apply to runs from scratch."""
    return [rule for rule in stage.exclude if rule.keys() <= stage.axes]
