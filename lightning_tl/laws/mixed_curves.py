"""Several curves mixed into one: columns, named nowhere, with which the error at one size differs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import fdtrc

from lightning_tl.laws.forms import Array

if TYPE_CHECKING:
    import pandas as pd

#: p-value of the F test under which a column is named; with many columns a larger one would cry wolf.
_NAMED_BELOW = 1e-3
#: Fewer runs a value than this are no curve.
_LEAST_RUNS = 3


def mixed(runs: pd.DataFrame, others: pd.DataFrame) -> list[str]:
    """Return the columns whose values shift the log error once the sizes are accounted for.

    Args:
        runs: The runs of one curve: n, error, and s where known.
        others: The table's columns that have no other role, for the same runs; without missing values.
    """
    if len(runs) < 2 * _LEAST_RUNS:
        return []
    sizes = runs[[name for name in ("n", "s") if name in runs]].to_numpy(float)
    cell = np.unique(sizes, axis=0, return_inverse=True)[1].ravel()
    logs = _centred(np.log(runs["error"].to_numpy(float))[:, None], cell)[:, 0]
    names = []
    for name in others.columns:
        codes, _ = others[name].factorize()
        counts = np.bincount(codes)
        if len(counts) < 2 or counts.min() < _LEAST_RUNS:
            continue
        design = _centred(np.eye(len(counts))[codes], cell)
        rank = int(np.linalg.matrix_rank(design))
        dof = len(logs) - len(np.unique(cell)) - rank
        if rank < 1 or dof < 1:
            continue
        rest = logs - design @ np.linalg.lstsq(design, logs, rcond=None)[0]
        within = max(float(rest @ rest), 1e-24) / dof
        if fdtrc(rank, dof, max(float(logs @ logs - rest @ rest), 0.0) / rank / within) < _NAMED_BELOW:
            names.append(str(name))
    return names


def _centred(columns: Array, cell: np.ndarray) -> Array:
    """Return columns (runs, k) less their mean in each cell."""
    sums = np.zeros((cell.max() + 1, columns.shape[1]))
    np.add.at(sums, cell, columns)
    return np.asarray(columns - (sums / np.bincount(cell)[:, None])[cell], float)
