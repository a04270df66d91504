"""Whether a column that is read as errors holds accuracies: its errors then rise with the pre-training size."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    import pandas as pd

_ERRORS = re.compile(r"err|loss|wrong|1-|1 -")
_SCORES = re.compile(r"acc|score|map|iou|f1|top.?[15]|auc|precision|recall|dice|psnr|ssim")
_RISING = 0.9  # rank correlation of mean error with size


def accuracy_question(runs: pd.DataFrame, scratch: pd.DataFrame, column: str, size: str) -> str:
    """Return the question whether a column is an accuracy; empty where there is no reason to ask.

    There is one where errors rise with the size (no pre-training counted as size 0), by ranks almost throughout, or at
    all where the column has the name of a score. A column that is called an error or a loss is not doubted.

    Args:
        runs: Rows with n and error.
        scratch: The same without pre-training.
        column: Name of the column of errors.
        size: Name of the column of sizes.
    """
    if _ERRORS.search(column.lower()):
        return ""
    n, error = runs["n"].to_numpy(float), runs["error"].to_numpy(float)
    points = [(float(size), float(error[n == size].mean())) for size in np.unique(n)]
    if len(scratch):
        points.append((0.0, float(scratch["error"].mean())))
    if len(points) < 3:
        return ""
    sizes, errors = np.array(points).T
    if np.ptp(errors) == 0:
        return ""
    correlation = float(stats.spearmanr(sizes, errors).statistic)
    if correlation < (0.0 if _SCORES.search(column.lower()) else _RISING) + 1e-9:
        return ""
    return (
        f"'{column}' is read as an error, and it rises with {size}: is it an accuracy, of which more is better? "
        "Then say --score-is accuracy; if it is an error, rename the column so that it says so."
    )
