"""Options of ``lightning-tl next``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lightning_tl.errors import UserError
from lightning_tl.laws.candidates import Costs
from lightning_tl.laws.columns import Columns
from lightning_tl.laws.law_options import names
from lightning_tl.laws.posterior import Prior, prior_of
from lightning_tl.laws.questions import Question, QuestionName, asked
from lightning_tl.laws.results_table import Group


@dataclass(frozen=True)
class NextOptions:
    """What is to be decided, which runs may be done, and what they cost.

    Attributes:
        question: more_or_different: more images of a rendering, or another one? best: which group has the lowest error?
            target: is a target error reached? negative_transfer: is pre-training worse than none?
        at: Size in images that the question is asked for (default: the largest size of the table and of --candidates;
            for best and target with a cost per image and a budget, the largest plus the images that it buys).
        candidates: Sizes that may be run: n1,n2,… (default: those of the table, doublings between them, and twice the
            largest).
        groups: Labels of groups that may be run and have no row yet: a,b.
        repeats: New seeds that may be run at each size.
        confidence: Promised share of right decisions.
        target_error: Error to reach, in (0, 1), for target.
        within: For best, a group counts as right whose error is at most this share above the lowest.
        zone: For more_or_different, the share of the 10 % around them within which either answer counts as right.
        noise: Relative scatter of the error from pre-training to pre-training, such as 0.02, where it is known.
        cost_per_image: Cost of one more rendered image, in any unit.
        cost_per_run: Cost of one pre-training with its fine-tunings.
        cost_per_draw: Cost of one more fine-tuning of a pre-training that is done (default: cost_per_run).
        budget: What is left to spend.
        batch: Runs to start together.
        size: Column of the pre-training size in images; 0 is scratch.
        score: Column of the score or the error, a fraction.
        score_is: error, or accuracy for any score in [0, 1] of which more is better (mAP, mIoU).
        by: Columns in which curves differ: a,b,c (default: those of our results.csv).
        cluster: Columns of what rows share, pre-training runs or draws: pretrain:seed,draw:fold.
        where: A condition that selects rows: render == 'digits' and error < 0.5.
    """

    question: QuestionName = "more_or_different"
    at: float | None = None
    candidates: str | None = None
    groups: str | None = None
    repeats: int = 8
    confidence: float = 0.9
    target_error: float | None = None
    within: float = 0.02
    zone: float = 0.2
    noise: float | None = None
    cost_per_image: float = 0.0
    cost_per_run: float = 1.0
    cost_per_draw: float | None = None
    budget: float | None = None
    batch: int = 1
    size: str = "pretrain_images"
    score: str = "error"
    score_is: Literal["error", "accuracy"] = "error"
    by: str | None = None
    cluster: str | None = None
    where: str | None = None

    def columns(self) -> Columns:
        """Return which column of the table is what."""
        by, cluster = names(self.by), names(self.cluster)
        return Columns(self.size, self.score, self.score_is, by=by, cluster=cluster, where=self.where)

    def costs(self) -> Costs:
        """Return what runs cost."""
        return Costs(self.cost_per_image, self.cost_per_run, self.cost_per_draw, self.budget)

    def sizes(self) -> tuple[float, ...]:
        """Return the sizes that may be run, where they are named.

        Raises:
            UserError: One is not a number of images, or there is none that may be repeated.
        """
        if self.repeats < 1:
            raise UserError(f"repeats is {self.repeats}; give how many new seeds may be run at each size, 1 or more")
        try:
            sizes = tuple(float(text) for text in names(self.candidates) or ())
        except ValueError:
            raise UserError(
                f"candidates is '{self.candidates}'; give sizes in images, with commas between them: 1000,4000,16000"
            ) from None
        return sizes

    def prior(self) -> Prior:
        """Return what is taken for likely before any run."""
        return prior_of(self.noise)

    def asked(self, groups: Sequence[Group]) -> Question:
        """Return the question.

        Args:
            groups: The groups of the table.

        Raises:
            UserError: What the question needs is missing or out of range.
        """
        measured = [float(n) for group in groups for n in group.runs["n"]]
        at = max([*measured, *self.sizes()]) if self.at is None else self.at
        if self.at is None and self.question in ("best", "target") and self.budget and self.cost_per_image:
            at = max(measured, default=0.0) + float(np.floor(self.budget / self.cost_per_image)) or at
        return asked(self.question, at, self.target_error, self.within, self.zone)
