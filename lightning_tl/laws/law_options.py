"""Options of ``lightning-tl law``, which ``law:`` of a study takes as well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lightning_tl.errors import UserError
from lightning_tl.laws.columns import Columns, ScoreKind
from lightning_tl.laws.form_names import FORMS, FormName
from lightning_tl.laws.forms import Form, Loss, ResidualSpace
from lightning_tl.laws.group_fits import Method
from lightning_tl.laws.images_needed import check_target
from lightning_tl.laws.shared_coefficient import CoefficientMode, check_coefficient
from lightning_tl.laws.spending import Budget


@dataclass(frozen=True)
class LawOptions:
    """How the law is fitted to a table, and what is asked of it.

    Attributes:
        size: Column of the pre-training size in images or tokens; 0 is scratch.
        unit: What sizes count, for sentences and figures (default: tokens where the column's name has "token" in it,
            else images).
        score: Column of the score, the error or the loss.
        score_is: error, a fraction; accuracy for any score in [0, 1] of which more is better (mAP, mIoU); loss for
            numbers over 0, which may be over 1 (default: loss where the column's name has "loss" in it, else error).
        by: Columns in which curves differ: a,b,c (default: those of our results.csv).
        target_size: Column of the fine-tuning size in images; the form is then the full law.
        cluster: Columns of what rows share, pre-training runs or draws: pretrain:seed,draw:fold.
        where: A condition that selects rows: render == 'digits' and error < 0.5.
        form: transfer: D*n^-alpha + C (default); power: C = 0; full: delta*(gamma + n^-alpha)*s^-beta;
            full+E: with a floor; chinchilla: E + A*N^-a + B*D^-b, with the model's size N and D tokens.
        fix_d: The coefficient D (delta): free, a number, auto, median, shared or pooled.
        share_by: Where groups have D in common: only groups that agree in these columns.
        space: log: residuals of log error, linear: of error.
        loss: squares, or huber where single runs went wrong.
        level: Confidence level of intervals.
        bootstrap: Resamples by cluster for bootstrap intervals besides the profile ones.
        seed: Seed of the bootstrap.
        hold_out_from: Predict sizes from here on from the smaller ones (default: the largest).
        target_error: Error to reach, in (0, 1), or loss to reach: how many images or tokens does it take?
        cost_per_image: Cost of one rendered image (or token), in any unit; with budget.
        budget: What may be spent on images, in the same unit.
        model_size: Column of the model's parameters: N of the chinchilla form; else for C against model size.
        complexity: Column of the data's complexity (larger: more complex), to plot alpha and C.
        plots: Format of the figures: png, pdf or svg; none draws none.
    """

    size: str = "pretrain_images"
    unit: str | None = None
    score: str = "error"
    score_is: ScoreKind | None = None
    by: str | None = None
    target_size: str | None = None
    cluster: str | None = None
    where: str | None = None
    form: FormName | None = None
    fix_d: CoefficientMode | float = "free"
    share_by: str | None = None
    space: ResidualSpace = "log"
    loss: Loss = "squares"
    level: float = 0.95
    bootstrap: int = 0
    seed: int = 0
    hold_out_from: float | None = None
    target_error: float | None = None
    cost_per_image: float | None = None
    budget: float | None = None
    model_size: str = "backbone_params"
    complexity: str = "complexity"
    plots: Literal["png", "pdf", "svg", "none"] = "png"

    def check(self) -> None:
        """Refuse values that no table could be fitted with.

        Raises:
            UserError: A number is out of range, or two options do not go together.
        """
        form = self.law_form()
        check_coefficient(form, self.fix_d, self.space)
        by_model, measured = form.second_size == "model size", self.columns().terms.measured
        if by_model and self.target_size is not None:
            raise UserError("form chinchilla has the model's size, --model-size, beside the tokens; drop --target-size")
        if form.of_losses and measured != "loss":
            raise UserError(
                f"form {form.name} is a law of losses, and the column '{self.score}' is read as an "
                f"{self.columns().kind}; name a loss with --score, or say --score-is loss"
            )
        if not 0.5 <= self.level < 1:
            raise UserError(f"level is {self.level:g}; give a confidence level from 0.5 to below 1, such as 0.95")
        if self.bootstrap < 0:
            raise UserError(f"bootstrap is {self.bootstrap}; give a number of resamples, or 0 for none")
        if self.target_error is not None:
            check_target(self.target_error, measured)
        self.spending()

    def law_form(self) -> Form:
        """Return the law to fit."""
        return FORMS[self.form or ("full" if self.target_size else "transfer")]()

    def columns(self) -> Columns:
        """Return which column of the table is what."""
        form = self.law_form()
        by_model = form.second_size == "model size"
        return Columns(
            size=self.size,
            score=self.score,
            score_is=self.score_is,
            by=names(self.by),
            target_size=self.target_size or ("finetune_images" if form.uses_s and not by_model else None),
            by_model=by_model,
            cluster=names(self.cluster),
            model_size=self.model_size,
            complexity=self.complexity,
            where=self.where,
            unit=self.unit,
        )

    def method(self) -> Method:
        """Return how groups are fitted."""
        return Method(
            coefficient=self.fix_d,
            share_by=names(self.share_by) or (),
            space=self.space,
            loss=self.loss,
            level=self.level,
            resamples=self.bootstrap,
            seed=self.seed,
            hold_out_from=self.hold_out_from,
        )

    def spending(self) -> Budget | None:
        """Return what may be spent on images, where that is named.

        Raises:
            UserError: Only one of cost and budget is named, or one is not over 0.
        """
        if self.cost_per_image is None and self.budget is None:
            return None
        if self.cost_per_image is None or self.budget is None:
            raise UserError("cost_per_image and budget go together: give both or neither")
        return Budget(self.cost_per_image, self.budget)


def names(text: str | None) -> tuple[str, ...] | None:
    """Return the names in a list with commas; ``None`` for none."""
    return None if text is None else tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
