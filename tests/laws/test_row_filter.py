"""The language of ``where``: pandas' own results on random conditions, and nothing that executes code."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lightning_tl.cli.law import fit_table
from lightning_tl.cli.main import main
from lightning_tl.errors import UserError
from lightning_tl.laws.law_options import LawOptions
from lightning_tl.laws.row_filter import selected_rows


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "n": rng.choice([0, 1000, 2000, 4000], 60),
            "error": rng.choice([0.1, 0.25, 0.5, np.nan], 60),
            "render": rng.choice(["digits", "shapes", "bop", "it's"], 60).astype(object),
            "pre.data": rng.choice(["a", "b b", ""], 60).astype(object),
            "two words": rng.choice([-1.5, 2.0, 3e4], 60),
            "class": rng.choice(["x", "y"], 60).astype(object),
        }
    )
    frame.loc[::7, "render"] = np.nan
    return frame


NUMBERS, TEXTS = ["n", "error", "`two words`"], ["render", "`pre.data`", "`class`"]
VALUES = ["0", "1000", "0.25", "-1.5", "3e4", "2_000", "+2"]
WORDS = ["'digits'", '"shapes"', "'it\\'s'", "''", "'b b'", "'x'", "'and'"]


def draw(rng: random.Random, depth: int) -> str:
    """A random condition of the language that pandas reads too."""
    if depth and rng.random() < 0.7:
        first, second = draw(rng, depth - 1), draw(rng, depth - 1)
        joined = [f"{first} and {second}", f"({first}) or {second}", f"({first}) & ({second})"]
        return rng.choice([*joined, f"({first}) | ({second})", f"not ({first})", f"~({first})"])
    if rng.random() < 0.5:
        name, values = rng.choice(NUMBERS), VALUES
        kinds = ["==", "!=", "<", "<=", ">", ">="]
    else:
        name, values = rng.choice(TEXTS), WORDS
        kinds = ["==", "!="]
    sign, value, other = rng.choice(kinds), rng.choice(values), rng.choice(values)
    forms = [f"{name} {sign} {value}", f"{value} {sign} {name}", f"{name} in [{value}, {other}]"]
    forms += [f"{name} not in [{value}]", f"{name} == [{value}, {other}]", f"{name} != [{value}]"]
    forms += [f"{name}.isna()", f"{name}.notnull()"]
    if values is VALUES:
        forms += [f"{value} < {name} <= {other}", f"{name} < error", f"{name} {sign} n"]
    else:
        forms += [f"{name}.str.lower() == {value}"]
        if name != "render":  # pandas' own tests of missing texts are missing too, and no condition
            forms += [f"{name}.str.contains({value}, regex=False)", f"{name}.str.startswith({value})"]
    return rng.choice(forms)


def test_random_conditions_select_what_pandas_selects(table: pd.DataFrame) -> None:
    rng = random.Random(0)
    sizes: set[int] = set()
    for _ in range(600):
        condition = draw(rng, 3)
        expected = table.query(condition, engine="python").index
        ours = table[selected_rows(table, condition.replace(", regex=False", ""))].index
        assert ours.equals(expected), condition
        sizes.add(len(ours))
    assert len(sizes) > 20  # not only none and all


def test_names_need_backticks_only_where_they_hold_spaces(table: pd.DataFrame) -> None:
    rows = selected_rows(table, "pre.data == 'a' and class != 'x' and render.str.contains('i')")
    expected = (table["pre.data"] == "a") & (table["class"] == "y") & table["render"].isin(["digits", "it's"])
    assert rows.equals(expected)
    assert selected_rows(table, "render == 'pre.data'").sum() == 0


ATTACKS = [
    "@pd.io.common.os.system('touch {bomb}') == 0",
    "error.to_csv('{bomb}') != 3",
    "@Path('{bomb}').write_text('x') == 1",
    "__import__('os').system('touch {bomb}') == 0",
    "error.__class__ == 3",
    "(lambda: 1)() == error",
    "[x for x in error] == 1",
    "error.map(print) == 1",
    "f'{{error}}' == render",
    "render.str.replace('a', 'b') == 'a'",
    "render.str.lower().__class__ == 'a'",
    "render.str.contains('(a+)+$')",
    "n == open('{bomb}', 'w').write('x')",
    "error.values.tofile('{bomb}') == 1",
    "(error := 3) == 3",
    "n ** 9 ** 9 > 1",
    "await n == 1",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_is_executed(table: pd.DataFrame, tmp_path: Path, attack: str) -> None:
    bomb = tmp_path / "bomb"
    with pytest.raises(UserError, match=r"^where '"):
        selected_rows(table, attack.format(bomb=bomb))
    assert not bomb.exists()


@pytest.mark.parametrize(
    "condition, message",
    [
        ("1", "'1' is neither a comparison nor a test"),
        ("1 == 1", "'1' and '1' are both no columns"),
        ("rendr == 'a'", "no column 'rendr'; did you mean 'render'?"),
        ("`two word` > 1", "no column 'two word'; did you mean 'two words'?"),
        ("n > 'a'", "'n' and ''a'' cannot be compared: one is text"),
        ("n.sum() > 3", "the call of 'n.sum' is not allowed; the methods are str.contains"),
        ("n + 1 > 3", "'n + 1' is not allowed; a condition has columns, numbers"),
        ("pre.data.title() == 'a'", "the call of 'pre.data.title' is not allowed"),
        ("n in render", "'render' after 'in' is no list of values"),
        ("n is 3", "'is' is not in the language"),
        ("n.str.lower() == 'a'", "'n.str.lower()': 'n' is no column of texts"),
        ("n == b'a'", "'b'a'' is not allowed"),
        ("n ==", "cannot be read (invalid syntax); an example: "),
        ("(" * 400 + "n == 1" + ")" * 400, "cannot be read (too many nested parentheses)"),
        ("not " * 1200 + "n == 1", "is nested too deeply"),
        ("n == " + "9" * 4990, "cannot be read (Exceeds the limit"),
        ("n == 1 or " * 900 + "n == 1", "has 9006 characters; at most 5000"),
        ("n == 1\0", "cannot be read (source code string cannot contain null bytes)"),
    ],
)
def test_what_is_refused_is_named(table: pd.DataFrame, condition: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        selected_rows(table, condition)
    assert message in str(error.value)
    assert len(str(error.value)) < 700


def test_the_command_refuses_it_in_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{1000 * 2**i},{0.3 - 0.01 * i},a" for i in range(5)]
    (tmp_path / "t.csv").write_text("\n".join(["pretrain_images,error,render", *rows]) + "\n")
    bomb = tmp_path / "bomb"
    query = f"@pd.io.common.os.system('touch {bomb}') == 0"
    assert main(["law", str(tmp_path / "t.csv"), "--where", query]) == 2
    assert capsys.readouterr().err.startswith("error: where '@pd.io.common")
    assert not bomb.exists()


def test_a_studys_law_refuses_it(tmp_path: Path) -> None:
    rows = [f"{1000 * 2**i},{0.3 - 0.01 * i},a" for i in range(5)]
    (tmp_path / "t.csv").write_text("\n".join(["pretrain_images,error,render", *rows]) + "\n")
    with pytest.raises(UserError, match="where"):
        fit_table(tmp_path / "t.csv", tmp_path, LawOptions(where=f"error.to_csv('{tmp_path}/bomb') != 3"))
    assert not (tmp_path / "bomb").exists()
