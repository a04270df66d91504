"""Which column of a table of runs is what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lightning_tl.laws.terms import Terms

ScoreKind = Literal["error", "accuracy", "loss"]
#: Columns in which the curves of our own tables differ, where the table has them. Not here: what a tuned recipe
#: may vary along a curve (lr, steps) and what repeats a run (seeds).
GROUP_COLUMNS = (
    "render",
    "pretrain_task",
    "backbone",
    "finetune_task",
    "finetune_data",
    "finetune_fraction",
    "finetune_images",
    "transfer",
    "metric",
)


@dataclass(frozen=True)
class Columns:
    """Which column of a table is what. The defaults are our own ``results.csv``.

    Attributes:
        size: Pre-training size in images or tokens; 0 is scratch.
        score: The score, the error or the loss.
        score_is: ``"error"``; ``"accuracy"`` for any score in [0, 1] where more is better (mAP, mIoU); ``"loss"`` for
            numbers over 0 that may be above 1 (nats). ``None``: a loss where the column's name says so, else an error.
        by: Columns in which curves differ; ``None`` takes :data:`GROUP_COLUMNS` as far as the table has them.
        target_size: Fine-tuning size in images, for the full law.
        by_model: The law's second size is the model's, ``model_size``, so that models are no curves of their own.
        cluster: Columns that name what rows share; ``None`` takes ``pretrain`` and ``draw`` below. One whose values
            each occur at one size names pre-training runs, one whose values occur at several names draws;
            ``pretrain:seed`` and ``draw:fold`` say it.
        model_size: Parameters of the model, for the law of C against it.
        complexity: A measure of the pre-training data's complexity, larger where it is more complex (in our own
            tables the entropy H of features).
        pretrain: Columns that, with the size, name the pre-training run that rows share.
        draw: Columns that name the draw of fine-tuning data that rows share across sizes.
        where: A condition that selects rows, in the language of :mod:`~lightning_tl.laws.row_filter`.
        unit: What sizes count; ``None``: tokens where the column's name says so, else images.
    """

    size: str = "pretrain_images"
    score: str = "error"
    score_is: ScoreKind | None = None
    by: tuple[str, ...] | None = None
    target_size: str | None = None
    by_model: bool = False
    cluster: tuple[str, ...] | None = None
    model_size: str = "backbone_params"
    complexity: str = "complexity"
    pretrain: tuple[str, ...] = ("pretrain_seed",)
    draw: tuple[str, ...] = ("draw_seed",)
    where: str | None = None
    unit: str | None = None

    @property
    def kind(self) -> ScoreKind:
        """What the score is: as said, or by the column's name."""
        return self.score_is or ("loss" if "loss" in self.score.lower() else "error")

    @property
    def second(self) -> str | None:
        """Column of the law's second size, where it has one."""
        return self.model_size if self.by_model else self.target_size

    @property
    def terms(self) -> Terms:
        """What sizes count and what is measured."""
        sizes = self.unit or ("tokens" if "token" in self.size.lower() else "images")
        other = "parameters" if self.by_model else f"fine-tuning {_unit_of(self.target_size, sizes)}"
        return Terms(sizes, other, "loss" if self.kind == "loss" else "error")


def _unit_of(column: str | None, other: str) -> str:
    """Return what a column of fine-tuning sizes counts, by its name; else as the pre-training sizes do."""
    return next((unit for unit in ("token", "image") if unit in (column or "").lower()), other.removesuffix("s")) + "s"
