"""The first question: is pre-training better than none? And whether errors are accuracies."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lightning_tl.cli import law
from lightning_tl.errors import UserError
from lightning_tl.laws.columns import Columns
from lightning_tl.laws.group_fits import analyse
from lightning_tl.laws.pretraining import benefit, first_answer
from lightning_tl.laws.results_table import groups, read_table
from lightning_tl.laws.wording import left_out_sentence


def table(errors: dict[int, list[float]], draws: bool = False, **columns: object) -> pd.DataFrame:
    rows = [
        {"pretrain_images": n, "error": error, **({"draw_seed": i} if draws else {}), **columns}
        for n, values in errors.items()
        for i, error in enumerate(values)
    ]
    return pd.DataFrame(rows).astype(str)


def only(errors: dict[int, list[float]], **more):
    (item,) = analyse(groups(table(errors, **more)))
    found = benefit(item)
    assert found is not None
    return found


def test_two_sizes_are_compared_as_scipy_compares_two_samples() -> None:
    own, scratch = [0.21, 0.2, 0.22, 0.19], [0.3, 0.33, 0.28]
    found = only({0: scratch, 100: own})
    expected = stats.ttest_ind(np.log(own), np.log(scratch)).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx(tuple(expected))
    assert found.ratio == pytest.approx(np.log(own).mean() - np.log(scratch).mean())
    assert (found.sign, found.runs, found.scratch_runs, found.by_law) == (-1, 4, 3, False)


def test_the_same_draws_are_compared_in_pairs() -> None:
    own, scratch = [0.21, 0.3, 0.15], [0.25, 0.34, 0.19]
    found = only({0: scratch, 100: own}, draws=True)
    expected = stats.ttest_rel(np.log(own), np.log(scratch)).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx(tuple(expected))


def test_intervals_of_the_largest_size_cover_the_truth() -> None:
    """Of a law with a known ratio, at four sizes and as many draws."""
    rng, covered, rounds = np.random.default_rng(0), 0, 60
    for _ in range(rounds):
        draws = rng.normal(0, 0.05, 4)
        errors = {
            n: list((0.3 if n == 0 else 0.8 * n**-0.4 + 0.1) * np.exp(draws + rng.normal(0, 0.03, 4)))
            for n in (0, 50, 100, 200, 400, 800)
        }
        found = only(errors, draws=True)
        covered += found.low <= np.log((0.8 * 800**-0.4 + 0.1) / 0.3) <= found.high
    assert stats.binomtest(covered, rounds, 0.95, "less").pvalue > 0.01


@pytest.mark.parametrize(
    "errors,words",
    [
        ({0: [0.3, 0.31], 100: [0.2, 0.21]}, r"^Pre-training is better than none\. At n = 100: error 33 % lower than"),
        ({0: [0.2, 0.21], 100: [0.3, 0.31]}, r"^Pre-training is worse than none\. At n = 100: error 49 % higher than"),
        ({0: [0.3, 0.2], 100: [0.25, 0.24]}, r"^Whether pre-training is better than none cannot be determined\. At"),
        (
            {0: [0.3], 100: [0.2]},
            r"cannot be determined.*\(no interval: 1 run against 1 run without\)\. Without.*one run",
        ),
        ({50: [0.3], 100: [0.2]}, r"^Whether pre-training is better than none is not known: .*scratch: true"),
    ],
)
def test_the_answer(errors: dict[int, list[float]], words: str) -> None:
    assert re.search(words, " ".join(first_answer(analyse(groups(table(errors))))))


def test_two_renderings_that_differ() -> None:
    both = pd.concat(
        [
            table({0: [0.3, 0.31, 0.3], 100: [0.2, 0.21, 0.2]}, render="good"),
            table({0: [0.3, 0.31, 0.3], 100: [0.4, 0.41, 0.4]}, render="bad"),
        ]
    )
    (sentence,) = first_answer(analyse(groups(both)))
    assert sentence.startswith(
        "Pre-training is better than none with good and worse than none with bad. good, at n = 100"
    )


def test_one_run_without_pre_training_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    errors = {n: [0.8 * n**-0.4 + 0.1 + 0.001 * i for i in range(2)] for n in (50, 100, 200, 400)} | {0: [0.9]}
    table(errors, run_id="").drop(columns="run_id").to_csv(tmp_path / "results.csv", index=False)
    law.main([str(tmp_path / "results.csv"), "--plots", "none"])
    said = capsys.readouterr().out
    assert "Pre-training is better than none. At n = 400: error 8" in said
    assert "Without pre-training there is one run only, so its scatter is not known and is taken to be that" in said


def accuracies(tmp_path: Path, column: str, rising: bool = True) -> Path:
    sizes = (0, 50, 100, 200, 400)
    scores = [0.6 + 0.05 * i for i in range(len(sizes))]
    rows = [
        (n, score + 0.001 * k)
        for n, score in zip(sizes, scores if rising else scores[::-1], strict=True)
        for k in (0, 1)
    ]
    path = tmp_path / "table.csv"
    pd.DataFrame(rows, columns=["pretrain_images", column]).to_csv(path, index=False)
    return path


@pytest.mark.parametrize("column", ["acc", "mAP", "result"])
def test_an_error_that_rises_is_asked_about(tmp_path: Path, column: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = accuracies(tmp_path, column)
    law.main([str(path), f"--score={column}", "--plots=none"])
    said = capsys.readouterr().out
    assert f"'{column}' is read as an error, and it rises with pretrain_images: is it an accuracy" in said
    assert "negative transfer" not in said
    law.main([str(path), f"--score={column}", "--score-is=accuracy", "--plots=none"])
    said = capsys.readouterr().out
    assert "is it an accuracy" not in said
    assert "Pre-training is better than none" in said


def test_an_error_is_not_doubted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    law.main([str(accuracies(tmp_path, "error")), "--plots=none"])
    said = capsys.readouterr().out
    assert "is it an accuracy" not in said
    assert "Pre-training is worse than none" in said
    law.main([str(accuracies(tmp_path, "result", rising=False)), "--score=result", "--plots=none"])
    assert "is it an accuracy" not in capsys.readouterr().out


@pytest.mark.parametrize("separator,decimal", [(";", ","), (";", "."), ("\t", "."), (",", ".")])
def test_separators(tmp_path: Path, separator: str, decimal: str) -> None:
    frame = pd.DataFrame({"pretrain_images": [0, 50, 100], "error": [0.5, 0.25, 0.125], "note": ["a", "b c", "d"]})
    frame.to_csv(tmp_path / "table.csv", index=False, sep=separator, decimal=decimal)
    read = read_table(tmp_path / "table.csv")
    assert list(read["error"].astype(float)) == [0.5, 0.25, 0.125]
    assert list(read["note"]) == ["a", "b c", "d"]


def test_of_a_table_with_other_names_it_is_asked_which_column_is_what() -> None:
    frame = pd.DataFrame({"images": [0, 50, 100], "error": [0.5, 0.25, 0.125]})
    said = r"^the table has no column 'pretrain_images': say which column holds the pre-training sizes \(--size\); "
    with pytest.raises(UserError, match=rf"{said}it has images, error$"):
        groups(frame, Columns())
    said = (
        "the table has no column 'pretrain_images' or 'error': say which column holds the pre-training sizes (--size) "
        "and the errors or scores (--score); it has n, acc"
    )
    with pytest.raises(UserError, match=re.escape(said)):
        groups(frame.set_axis(["n", "acc"], axis=1), Columns())


def test_all_rows_that_are_left_out_are_counted_by_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(n, 0.8 * n**-0.4) for n in (50, 100, 200, 400)]
    rows += [(50, "n/a"), (100, "n/a"), (200, 1.2), (-5, 0.1), (400, 0)]
    pd.DataFrame(rows, columns=["pretrain_images", "error"]).to_csv(tmp_path / "table.csv", index=False)
    law.main([str(tmp_path / "table.csv"), "--plots=none"])
    said = capsys.readouterr().out
    assert (
        "5 rows left out: 2 as error is not a number ('nan'; lines 6, 7); "
        "1 as error is outside [0, 1] ('1.2'; line 8); " in said
    )
    assert "1 as pretrain_images is negative ('-5'; line 9)" in said
    assert left_out_sentence([]) == ""
