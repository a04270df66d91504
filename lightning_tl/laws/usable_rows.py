"""Which rows of a table of runs can be used, and why others cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_tl.errors import UserError
from lightning_tl.laws.fitting import LEAST_ERROR, LEAST_SIZE, MOST_LOSS, MOST_SIZE

if TYPE_CHECKING:
    import pandas as pd

    from lightning_tl.laws.columns import Columns


def problems_of(rows: pd.DataFrame, columns: Columns) -> Any:
    """Return for each row why it cannot be used, as (what it says, the reason), or None, shape (rows,)."""
    n, error = rows["n"], rows["error"]
    checks = [
        (n.isna() | ~np.isfinite(n), "size_said", f"{columns.size} is not a number"),
        (n < 0, "size_said", f"{columns.size} is negative"),
        (
            (n > 0) & ((n < LEAST_SIZE) | (n > MOST_SIZE)),
            "size_said",
            f"{columns.size} is not a number of {columns.terms.sizes}",
        ),
        (error.isna(), "said", f"{columns.score} is not a number"),
        *_range_checks(error, columns),
    ]
    if "s" in rows:
        wrong = ~((rows["s"] >= LEAST_SIZE) & (rows["s"] <= MOST_SIZE))
        checks.append((wrong, "s", f"{columns.second} is not a number over 0"))
    if "copy" in rows:
        said = "the same row occurs twice; give repeats a column in which they differ, such as a seed"
        checks.append((rows["copy"], "said", said))
    problems = np.full(len(rows), None, object)
    for failed, said, reason in reversed(checks):  # the first that fails is the reason
        for row in np.flatnonzero(failed.to_numpy(bool)).tolist():
            problems[row] = (said, reason)
    return problems


def _range_checks(error: pd.Series[float], columns: Columns) -> list[tuple[Any, str, str]]:
    if columns.kind == "loss":
        return [
            (error < LEAST_ERROR, "said", f"{columns.score} is not over 0: a loss has a logarithm here"),
            (error > MOST_LOSS, "said", f"{columns.score} is over {MOST_LOSS:,.0f}"),
        ]
    return [
        ((error < 0) | (error > 1), "said", f"{columns.score} is outside [0, 1]"),
        (error < LEAST_ERROR, "said", "the error is 0, which has no logarithm"),
    ]


def usable(rows: pd.DataFrame, problems: Any, dropped: list[dict[str, Any]]) -> pd.DataFrame:
    """Drop rows that cannot be used, with the line and the reason."""
    bad = np.array([problem is not None for problem in problems], bool)
    if bad.any():
        for (_, row), (said, reason) in zip(rows[bad].iterrows(), problems[bad], strict=True):
            dropped.append({"line": int(row["line"]), "value": str(row[said]), "reason": reason})
        dropped.sort(key=lambda item: int(item["line"]))
        rows = rows[~bad]
    if "run_id" not in rows or rows["run_id"].is_unique:
        return rows
    names = [name for name in ("run_id", "n", "s", "error", "pretrain", "draw") if name in rows]
    same = rows.duplicated(names)
    for _, row in rows[same].iterrows():
        dropped.append({"line": int(row["line"]), "value": row["said"], "reason": "the same run occurs twice"})
    rows = rows[~same]
    if (twice := rows.duplicated(["run_id"])).any():
        row = rows[twice].iloc[0]
        raise UserError(
            f"run_id '{row['run_id']}' occurs twice with different results (line {int(row['line'])}); keep one"
        )
    return rows
