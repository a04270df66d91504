"""`until` of a study: the question that ends it, how sure the answer must be, and what may be spent."""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import dataclass

from lightning_tl.errors import UserError
from lightning_tl.laws.candidates import Costs
from lightning_tl.laws.posterior import Prior, prior_of
from lightning_tl.laws.questions import Question, QuestionName, asked
from lightning_tl.laws.stopping import threshold

#: Axes of fine-tuning that only repeat it.
DRAWS = frozenset({"data.draw", "data.seed", "seed_everything"})


@dataclass
class Until:
    """When a study ends, instead of running its whole grid. Its pre-trainings are candidates, begun in batches.

    Attributes:
        question: more_or_different: would more images of a rendering help, or does it take another one? best: which
            curve has the lowest error? target: is a target error reached? negative_transfer: is pre-training worse
            than none?
        confidence: Promised share of right decisions.
        at: Size in images that the question is asked for (default: the largest ``data.n`` of the pre-trainings).
        target: Error to reach, in (0, 1), for target.
        within: For best, a curve counts as right whose error is at most this share above the lowest.
        zone: For more_or_different, the share of the 10 % around them within which either answer counts as right.
        noise: Relative scatter of the error from pre-training to pre-training, such as 0.02, where it is known.
        cost_per_image: Cost of one rendered image, in any unit. Only images beyond a curve's largest set are paid for.
        cost_per_run: Cost of one pre-training with its fine-tunings.
        budget: Most that pre-trainings and their images may cost; null: without limit.
        max_runs: Most pre-trainings.
        max_hours: No pre-training is begun when the study has taken so many hours, interruptions left out.
        batch: Pre-trainings begun together (default: as many as can run at once).
        least_sizes: Sizes that each curve has before the study ends, however early it is decided. The law in the report
            needs 4.
    """

    question: QuestionName = "more_or_different"
    confidence: float = 0.9
    at: float | None = None
    target: float | None = None
    within: float = 0.02
    zone: float = 0.2
    noise: float | None = None
    cost_per_image: float = 0.0
    cost_per_run: float = 1.0
    budget: float | None = None
    max_runs: int | None = None
    max_hours: float | None = None
    batch: int | None = None
    least_sizes: int = 0

    def asked(self, largest: float) -> Question:
        """Return the question.

        Args:
            largest: Largest size of the candidates, in images.

        Raises:
            UserError: What the question needs is missing or out of range.
        """
        at = largest if self.at is None else self.at
        return asked(self.question, at, self.target, self.within, self.zone)

    def costs(self, spent: float = 0.0) -> Costs:
        """Return what runs cost, and what is left of the budget."""
        left = None if self.budget is None else max(self.budget - spent, 0.0)
        return Costs(self.cost_per_image, self.cost_per_run, None, left)

    def prior(self) -> Prior:
        """Return what is taken for likely before any run."""
        return prior_of(self.noise)

    def check(self, *, pretrain: bool, scratch: bool, analysis: str | None, varied: Set[str]) -> None:
        """Refuse values out of range, and studies that cannot be run in steps.

        Args:
            pretrain: Whether the study has pre-trainings.
            scratch: Whether it has runs without one.
            analysis: Its analysis.
            varied: Axes of its fine-tuning that it does not share with the pre-training.

        Raises:
            UserError: With what is wrong; it begins with ``until``.
        """
        try:
            self._check_values()
            threshold(self.confidence, 1)
            self.costs()
            self.prior()
            self.asked(1.0)
        except UserError as error:
            raise UserError(f"until: {error}") from None
        if not pretrain:
            raise UserError("until: it decides which pre-trainings to run, and there is no pretrain stage")
        if self.question == "negative_transfer" and not scratch:
            raise UserError("until: negative_transfer compares with runs without pre-training: leave scratch: true")
        if analysis is not None:
            raise UserError(f"until: analysis: {analysis} needs the whole grid; leave one of the two out")
        other = sorted(varied - DRAWS)
        if other:
            raise UserError(
                f"until: fine-tuning varies {other[0]}, so that one pre-training would belong to several curves; give "
                f"it one value under finetune.set (what may vary: {', '.join(sorted(DRAWS))}, and keys under same)"
            )

    def _check_values(self) -> None:
        for name in ("max_runs", "batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}; it must be at least 1, or null")
        if self.least_sizes < 0:
            raise UserError(f"least_sizes is {self.least_sizes}; it must be at least 0")
        for name in ("budget", "max_hours"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UserError(f"{name} is {value:g}; it must be over 0, or null for no limit")
        if self.target is not None and self.question != "target":
            raise UserError(f"target is {self.target:g}, but the question is {self.question}: give question: target")
