"""Does longer pre-training make a network harder to fine-tune? The analysis of a study of pre-training budgets."""

from lightning_tl.study.overtraining.analysis import analyse
from lightning_tl.study.overtraining.analysis_output import conclude
from lightning_tl.study.overtraining.results import Overtraining, Series

__all__ = ["Overtraining", "Series", "analyse", "conclude"]
