"""What the choice of the test images adds to the uncertainty of an error, or of a difference of errors.

All runs of a study are tested on the same images, whose luck does not show in the scatter over draws. Each run's error
on bootstrap samples of the images (``error_replicates.csv``) tells it: sample r has the same images for every run, so
differences are taken sample by sample.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from lightning_tl.study.transfer_methods.paired_statistics import Array

Cells = dict[tuple[str, str], Array]


def replicates_of(rows: pd.DataFrame, replicates: Mapping[str, Array]) -> Cells:
    """Return errors on bootstrap samples by pre-training and draw; empty where one is unknown, or test sets differ.

    Args:
        rows: Of ``results.csv``.
        replicates: Run → error on each sample, shape (R,).
    """
    if not replicates or "test_set" not in rows or rows["test_set"].nunique(dropna=False) != 1:
        return {}
    found: dict[tuple[str, str], list[Array]] = {}
    for run, start, draw in zip(rows["run_id"], rows["pretrain_run"], rows["draw_seed"], strict=True):
        values = replicates.get(str(run))
        if values is None:
            return {}
        found.setdefault((str(start), str(draw)), []).append(values)
    cells = {key: np.mean(values, axis=0) for key, values in found.items()}
    return cells if len({len(values) for values in cells.values()}) == 1 else {}


def shared_variance(values: Array) -> float:
    """Return the variance of the mean over runs by what the images do to all of them.

    What they do to each run by itself is in the scatter of the runs already, and is left out.

    Args:
        values: Of each run on each bootstrap sample, shape (runs, R).
    """
    if not values.size or values.shape[1] < 2:
        return 0.0
    shift = values.mean(axis=0)
    apart = values - values.mean(axis=1, keepdims=True) - (shift - shift.mean())
    own = float(apart.var(ddof=1)) / (len(values) - 1) if len(values) > 1 else 0.0
    return max(float(shift.var(ddof=1)) - own, 0.0)


def variance_of_error(own: Cells, less: Cells | None = None) -> float:
    """Return that variance for a mean error, or for the mean difference to other runs on the same images."""
    if less is None:
        return shared_variance(np.array(list(own.values())).reshape(len(own), -1)) if own else 0.0
    both = [own[key] - less[key] for key in own if key in less and len(own[key]) == len(less[key])]
    return shared_variance(np.array(both)) if both else 0.0


def variance_of_ratio(own: Cells, scratch: Cells) -> float:
    """Return that variance for the mean log(error / error without pre-training) of the same draw."""
    without = {draw: values for (_, draw), values in scratch.items()}
    both = [
        np.log(values / without[draw])
        for (_, draw), values in own.items()
        if draw in without and len(values) == len(without[draw])
    ]
    return shared_variance(np.array(both)) if both else 0.0
