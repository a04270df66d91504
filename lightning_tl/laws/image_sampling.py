"""How the choice of the test images moves measured errors: all networks that are tested on the same ones together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lightning_tl.errors import UserError
from lightning_tl.laws.forms import Array

if TYPE_CHECKING:
    import pandas as pd

Replicates = Mapping[str, Array]


@dataclass(frozen=True)
class ImageSampling:
    """How uncertain the level of some runs is because the test images are a sample.

    Attributes:
        variance: Variance of their mean log error. Only what the runs have in common: what the images do to each by
            itself is part of the scatter about the law.
        test_set: What names the test images; empty where the table does not say, or where they differ.
        shift: Their mean log error on each bootstrap sample of the images, less its mean, shape (R,); ``None`` where
            only standard errors are known. The runs are then taken to err on the same images, the worst case.
        own: Variance of ``shift`` by what the images do to each run by itself.
        each: Variance of each run's log error by what the images do to it by itself, shape (runs,); ``None`` where
            unknown.
    """

    variance: float
    test_set: str = ""
    shift: Array | None = None
    own: float = 0.0
    each: Array | None = None


def read_replicates(results: Path) -> dict[str, Array]:
    """Return the error of each run on bootstrap samples of the test images, from the file beside a study's table.

    Args:
        results: The table; ``error_replicates.csv`` is looked for in its folder.

    Raises:
        UserError: The file is damaged.
    """
    import pandas as pd

    path = results.parent / "error_replicates.csv"
    if not path.is_file():
        return {}
    try:
        table = pd.read_csv(path, index_col="run_id", dtype={"run_id": str})
        values = table.to_numpy(float)
    except (ValueError, KeyError, pd.errors.ParserError) as error:
        raise UserError(
            f"{path} is no table of replicates ({' '.join(str(error).split())}); delete it and run `lightning-tl study "
            "run` again, or go on without it"
        ) from error
    usable = np.isfinite(values).all(1) & (values > 0).all(1) & (values.shape[1] > 1)
    return {str(run): row for run, row, good in zip(table.index, values, usable, strict=True) if good}


def of_runs(runs: pd.DataFrame, replicates: Replicates) -> ImageSampling | None:
    """Return what the choice of the test images does to some runs; ``None`` where the table does not know it.

    Args:
        runs: Columns ``error``, and where known ``error_stderr``, ``test_set``, ``run_id``.
        replicates: Run → error on bootstrap samples of its test images.
    """
    if runs.empty:
        return None
    names = set(runs["test_set"]) if "test_set" in runs else {""}
    test_set = str(next(iter(names))) if len(names) == 1 else ""
    drawn = [replicates.get(str(run)) for run in runs["run_id"]] if "run_id" in runs else [None]
    found = [values for values in drawn if values is not None]
    if test_set and len(found) == len(runs) and len({len(values) for values in found}) == 1:
        logs = np.log(np.stack(found))
        shift = logs.mean(0) - logs.mean()
        own, each = _apart(logs - logs.mean(1, keepdims=True) - shift)
        return ImageSampling(max(float(shift.var(ddof=1)) - own, 0.0), test_set, shift, own, each)
    if "error_stderr" not in runs:
        return None
    relative = (runs["error_stderr"] / runs["error"]).to_numpy(float)
    if not (np.isfinite(relative) & (relative > 0)).all():
        return None
    if len(names) == len(runs) > 1 and "" not in names:  # each has its own test images: they have no luck in common
        return ImageSampling(0.0, each=relative**2)
    return ImageSampling(float(relative.mean() ** 2), test_set)


def _apart(logs: Array) -> tuple[float, Array | None]:
    """Return the variance of runs' mean by what the images do to each by itself, and that of each run.

    Args:
        logs: Log errors on bootstrap samples less their means, over samples and over runs, shape (runs, R).
    """
    count = len(logs)
    if count < 2:
        return 0.0, None
    seen = logs.var(axis=1, ddof=1)
    own = float(seen.sum() / (count * (count - 1)))
    if count == 2:  # the two differ by the sum of both parts; nothing says which is whose
        return own, np.full(2, 2 * own)
    # Of run i, less the mean over k runs, 1 - 2/k of its own variance is seen, and the variance of the mean.
    return own, np.maximum((seen - own) / (1 - 2 / count), 0.0)


def variance_of_difference(first: ImageSampling | None, second: ImageSampling | None) -> float:
    """Return the variance that the test images add to a difference of mean log errors.

    Image by image where both were tested on the same ones, which makes it smaller; else as of independent samples.
    """
    if first is not None and second is not None and paired(first, second):
        variance = float((first.shift - second.shift).var(ddof=1))  # type: ignore[operator]
        return max(variance - first.own - second.own, 0.0)
    return sum(images.variance for images in (first, second) if images is not None)


def paired(first: ImageSampling | None, second: ImageSampling | None) -> bool:
    """Return whether two groups can be compared image by image."""
    return bool(
        first is not None
        and second is not None
        and first.test_set
        and first.test_set == second.test_set
        and first.shift is not None
        and second.shift is not None
        and len(first.shift) == len(second.shift)
    )
