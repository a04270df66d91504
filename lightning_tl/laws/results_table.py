"""From a CSV of runs to groups of points: which column is what, what is dropped and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from lightning_tl.errors import UserError, nearest, shortened
from lightning_tl.laws.columns import GROUP_COLUMNS, Columns, ScoreKind
from lightning_tl.laws.image_sampling import ImageSampling, Replicates, of_runs
from lightning_tl.laws.mixed_curves import mixed
from lightning_tl.laws.row_filter import selected_rows
from lightning_tl.laws.score_kind import accuracy_question
from lightning_tl.laws.terms import Terms
from lightning_tl.laws.usable_rows import problems_of, usable

if TYPE_CHECKING:
    import pandas as pd

_TASK = "finetune_task"
_STDERR, _TEST_SET = "error_stderr", "test_set"


@dataclass
class Group:
    """The runs of one curve.

    Attributes:
        label: Where it differs from the other groups of its table.
        keys: Its value in each grouping column.
        runs: Columns n, error, and where known s, pretrain, draw, run_id: one row per run with n > 0.
        scratch: The same for its runs without pre-training.
        dropped: Rows left out: their line in the file and why.
        notes: What to know of the rows that were kept.
        question: Whether the errors are accuracies, asked where it seems so; else empty.
        traits: Numbers that belong to the curve as a whole: ``model_size``, ``complexity`` where the table has them.
        terms: What sizes count and what is measured.
        images: How the choice of the test images moves ``runs``; ``None`` where unknown.
        scratch_images: The same for ``scratch``.
    """

    label: str
    keys: dict[str, str]
    runs: pd.DataFrame
    scratch: pd.DataFrame
    dropped: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    question: str = ""
    traits: dict[str, float] = field(default_factory=dict)
    terms: Terms = field(default_factory=Terms)
    images: ImageSampling | None = None
    scratch_images: ImageSampling | None = None

    def labels(self, column: str) -> list[str] | None:
        """Return the labels of ``pretrain`` or ``draw`` for each run, or ``None`` where the table does not say."""
        return list(self.runs[column]) if column in self.runs else None


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a CSV as text, so that every check sees what the file says.

    Raises:
        UserError: The file is missing, empty, or not a table.
    """
    import pandas as pd

    file = Path(path)
    if not file.is_file():
        raise UserError(f"no file {file}; give the path of a CSV with one row per fine-tuning run")
    try:
        separator = _separator(file)
        frame = pd.read_csv(file, dtype=str, skipinitialspace=True, sep=separator)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not a CSV table: {' '.join(str(error).split())}") from error
    if frame.empty:
        raise UserError(f"{file} has no rows")
    if separator == ";":  # spreadsheets write it where the comma is the decimal sign
        frame = frame.apply(lambda column: column.str.replace(r"^\s*(-?\d+),(\d+)\s*$", r"\1.\2", regex=True))
    return frame


def _separator(file: Path) -> str:
    """Return what separates the columns: a comma, or the semicolons or tabs of a first line without commas."""
    with file.open(encoding="utf-8-sig") as lines:
        first = lines.readline()
    return next((sign for sign in (";", "\t") if sign in first and "," not in first), ",")


def _number(frame: pd.DataFrame, column: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    import pandas as pd

    return pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=float)


def _check_columns(frame: pd.DataFrame, columns: Columns) -> None:
    wanted = [("--size", columns.size), ("--score", columns.score)]
    wanted += [("--by", name) for name in columns.by or ()]
    option = "--model-size" if columns.by_model else "--target-size"
    wanted += [(option, columns.second)] if columns.second else []
    wanted += [("--cluster", name) for _, name in _cluster(columns.cluster or ())]
    own = [str(name) for name in frame.columns if name != "_line"]
    ours = Columns()
    roles = {"--size": (ours.size, "pre-training sizes"), "--score": (ours.score, "errors or scores")}
    unnamed = [option for option, name in wanted if name not in own and name == roles.get(option, ("", ""))[0]]
    if unnamed:  # a table of other columns than ours, and nobody has said which is what
        which = " and ".join(f"the {roles[option][1]} ({option})" for option in unnamed)
        missing = " or ".join(f"'{roles[option][0]}'" for option in unnamed)
        raise UserError(f"the table has no column {missing}: say which column holds {which}; it has {', '.join(own)}")
    for option, name in wanted:
        if name not in own:
            raise UserError(f"no column '{name}' ({option}) in the table{nearest(name, own)}")
    if columns.kind not in get_args(ScoreKind):
        raise UserError(
            f"score is '{columns.score_is}'; it is 'error', 'accuracy' (any score in [0, 1], more is better) or 'loss'"
        )


def _joined(frame: pd.DataFrame, names: Sequence[str]) -> pd.Series[str] | None:
    """Return one label per row from several columns, or None where the table has none of them filled."""
    present = [name for name in names if name in frame.columns and frame[name].notna().any()]
    if not present:
        return None
    label, *others = (frame[name].fillna("").astype(str) for name in present)
    for other in others:
        label = label.str.cat(other, sep="/")
    return label


def groups(frame: pd.DataFrame, columns: Columns | None = None, replicates: Replicates | None = None) -> list[Group]:
    """Split a table into its curves.

    Args:
        frame: The table, as :func:`read_table` or pandas give it.
        columns: Which column is what; default our own ``results.csv``.
        replicates: Run → its error on bootstrap samples of the test images.

    Returns:
        The groups in order of their first row. Rows that cannot be used are in each group's ``dropped``.

    Raises:
        UserError: A column is missing, no row can be fitted, scores look like percents, or a run occurs twice with
            different errors.
    """
    import pandas as pd

    columns = columns or Columns()
    table = frame.reset_index(drop=True)
    table["_line"] = np.arange(len(table)) + 2  # the header is line 1
    if columns.where:
        table = _selected(table, columns.where)
    _check_columns(table, columns)
    # Where the law has the fine-tuning size, curves do not differ in it.
    sized: tuple[str, ...] = (
        ("finetune_fraction", "finetune_images", columns.target_size) if columns.target_size else ()
    )
    sized = ("backbone", columns.model_size) if columns.by_model else sized
    own = [name for name in GROUP_COLUMNS if name in table.columns and name not in sized]
    by = list(columns.by if columns.by is not None else own)
    data = pd.DataFrame({"n": _number(table, columns.size), "line": table["_line"]}, index=table.index)
    data["error"] = _errors(_number(table, columns.score), columns)
    data["said"] = table[columns.score].astype(str)
    data["size_said"] = table[columns.size].astype(str)
    if _STDERR in table:
        data[_STDERR] = _number(table, _STDERR)
    if _TEST_SET in table:
        data[_TEST_SET] = table[_TEST_SET].fillna("").astype(str)
    if columns.second:
        data["s"] = _number(table, columns.second)
    pretrain, draw = columns.pretrain, columns.draw
    if columns.cluster is not None:
        roles = {name: _role(role, table[name], data["n"]) for role, name in _cluster(columns.cluster)}
        draw = tuple(name for name, role in roles.items() if role == "draw")
        pretrain = tuple(name for name, role in roles.items() if role == "pretrain")
    for role, parts in (("pretrain", pretrain), ("draw", draw), ("run_id", ("run_id",))):
        label = _joined(table, parts)
        if label is not None:
            data[role] = label
    if "run_id" not in data:
        data["copy"] = table.drop(columns="_line").duplicated()
    for role, name in (("n", columns.size), ("error", columns.score)):
        if data[role].isna().all():
            first = f"line {table['_line'].iloc[0]}: '{table[name].iloc[0]}'"
            raise UserError(f"column '{name}' has no number in any row ({first}); name another column")
    keys = table[by].apply(_values) if by else pd.DataFrame({"_all": ""}, index=table.index)
    pretrained, text = ~(data["n"] == 0).to_numpy(), keys.to_numpy(dtype=object)
    varying = [name for name in keys.columns if keys.loc[pretrained, name].nunique() > 1]
    label_columns = _needed_for_labels(keys.loc[pretrained], varying)
    known = {columns.size, columns.score, columns.second, "run_id", "pretrain_run", "_line", *by, *pretrain, *draw}
    known |= {_STDERR, _TEST_SET, *(("backbone",) if columns.by_model else ())}
    others = table.drop(columns=[name for name in table.columns if name in known]).fillna("").astype(str)
    # Codes are compared faster than text.
    others = pd.DataFrame({name: others[name].factorize()[0] for name in others}, index=others.index)
    problems = problems_of(data, columns)
    traits = [
        (trait, _number(table, column))
        for trait, column in (("model_size", columns.model_size), ("complexity", columns.complexity))
        if column in table.columns
    ]
    rows_of, scratch_of = _rows_by_key(text, pretrained), _rows_by_key(text, ~pretrained)
    # A scratch run's empty cell (it has no pre-training task) fits any value.
    patterns = list(dict.fromkeys(tuple(value != "" for value in values) for values in scratch_of))
    curves = []
    for values, places in rows_of.items():
        masked = dict.fromkeys(
            tuple(v if f else "" for v, f in zip(values, filled, strict=True)) for filled in patterns
        )
        from_scratch = np.array(sorted(row for key in masked for row in scratch_of.get(key, ())), int)
        named = dict(zip(keys.columns, values, strict=True))
        title = " / ".join(named[name] for name in label_columns if named[name])
        title = title or (f"no {varying[0]}" if varying else next((value for value in values if value), "all runs"))
        group = Group(title, {name: named[name] for name in by}, data.iloc[places], data.iloc[from_scratch])
        for trait, numbers in traits:
            if np.isfinite(numbers[places]).any():
                group.traits[trait] = float(np.nanmean(numbers[places]))
        group.runs = usable(group.runs, problems.take(places), group.dropped)
        group.scratch = usable(group.scratch, problems.take(from_scratch), group.dropped)
        group.terms = columns.terms
        group.images, group.scratch_images = (of_runs(runs, replicates or {}) for runs in (group.runs, group.scratch))
        if columns.kind == "error":
            group.question = accuracy_question(group.runs, group.scratch, columns.score, columns.size)
        if names := mixed(group.runs, others.loc[group.runs.index]):
            many = "columns" if len(names) > 1 else "column"
            group.notes.append(
                f"At one size the {columns.terms.measured} differs with the {many} {', '.join(names)}: are "
                f"these several curves in one? Then name the {many} in --by (or, of draws that occur at every size, in "
                "--cluster as draw:COLUMN)."
            )
        curves.append(group)
    if not curves:
        raise UserError(f"no row has {columns.size} over 0: there is no pre-trained run to fit")
    return curves


def _needed_for_labels(keys: pd.DataFrame, varying: list[str]) -> list[str]:
    """Return the columns that a label needs: not the metric, say, where the fine-tuning task determines it."""
    if _TASK not in varying:
        return varying
    constant = keys.groupby(_TASK)[varying].nunique().max() == 1
    return [
        name for name in varying if name == _TASK or not (name.startswith(("finetune_", "metric")) and constant[name])
    ]


def _values(column: pd.Series[str]) -> pd.Series[str]:
    """Return values as text, empty where missing; of a column of numbers, 1 and 1.0 are the same."""
    import pandas as pd

    numbers = pd.to_numeric(column, errors="coerce")
    if numbers.notna().sum() < column.notna().sum():
        return column.fillna("").astype(str)
    codes, distinct = numbers.factorize()
    text = np.array([*(f"{value:.15g}" for value in distinct), ""], object)
    return pd.Series(text[codes], column.index)  # the code of a missing value is -1


def _cluster(columns: Sequence[str]) -> list[tuple[str, str]]:
    """Return (role, column) of clusters; a column may be written ``pretrain:seed`` or ``draw:fold``."""
    pairs = []
    for text in columns:
        role, _, name = text.rpartition(":")
        pairs.append((role, name) if role in ("pretrain", "draw") else ("", text))
    return pairs


def _role(role: str, labels: pd.Series[str], n: pd.Series[float]) -> str:
    """Return whether a column names pre-training runs or draws, by its values where the option does not say."""
    if role:
        return role
    if str(labels.name).startswith("pretrain"):
        return "pretrain"
    positive = n > 0
    return "draw" if bool((n[positive].groupby(labels[positive]).nunique() > 1).any()) else "pretrain"


def _selected(table: pd.DataFrame, condition: str) -> pd.DataFrame:
    import pandas as pd

    typed = table.drop(columns="_line")
    for name in typed.columns:
        numbers = pd.to_numeric(typed[name], errors="coerce")
        if numbers.notna().sum() == typed[name].notna().sum():
            typed[name] = numbers
    chosen = table[selected_rows(typed, condition)]
    if chosen.empty:
        raise UserError(f"where '{shortened(condition)}' selects no row")
    return chosen


def _errors(score: Any, columns: Columns) -> Any:
    largest = np.nanmax(score) if np.isfinite(score).any() else 0.0
    if columns.kind == "loss":
        return score
    if 1.5 < largest <= 100 and np.nanmedian(score) > 1:
        raise UserError(
            f"column '{columns.score}' has values up to {largest:g} and looks like percents; divide it by 100 "
            "(errors and scores are fractions), or say --score-is loss if it is a loss"
        )
    return score if columns.kind == "error" else 1 - score


def _rows_by_key(text: Any, chosen: Any) -> dict[tuple[str, ...], list[int]]:
    """Return the numbers of the chosen rows by their values in the grouping columns, in the order of the table."""
    rows: dict[tuple[str, ...], list[int]] = {}
    for row in np.flatnonzero(chosen).tolist():
        rows.setdefault(tuple(text[row]), []).append(row)
    return rows
