"""`lightning-tl law`: from a CSV to files and advice; every message for bad tables."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from lightning_tl.cli.law import main
from lightning_tl.errors import UserError
from lightning_tl.laws import fit
from lightning_tl.laws.columns import Columns
from lightning_tl.laws.results_table import groups, read_table

from .tables import falling, flat, results


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "results.csv"
    results({"digits": falling(0.2, 0.0), "shapes": flat(0.12)}, 0.1275, seed=1).to_csv(path, index=False)
    return path


def test_our_own_table_needs_no_flags(table, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert main([str(table), "--out", str(out), "--target-error", "0.05"]) == 0
    said = capsys.readouterr().out
    assert "Keep digits" in said
    assert "shapes: render differently" in said
    figures = ["law", "law_extrapolation", "law_landscape", "law_linearised", "law_parameters"]
    names = ["fits.csv", "fits.json", *(f"{name}{kind}.png" for name in figures for kind in ("", "_narrow"))]
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    assert (out / "law.png").read_bytes().startswith(b"\x89PNG")
    frame = pd.read_csv(out / "fits.csv")
    assert list(frame["group"]) == ["digits", "shapes"]
    assert {"D", "alpha", "C", "alpha_stderr", "C_low", "C_high", "log_rmse", "points", "identified"} <= set(frame)


def test_the_manifest_reproduces_the_fit(table, tmp_path) -> None:
    main([str(table), "--out", str(tmp_path)])
    record = json.loads((tmp_path / "fits.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    group = record["groups"][0]
    runs = pd.DataFrame(group["runs"])
    again = fit(n=runs["n"], error=runs["error"], pretrain=runs["pretrain"], draw=runs["draw"])
    for name, stored in group["law"]["params"].items():
        assert again.params[name] == pytest.approx(stored["value"])
        assert again.interval(name) == pytest.approx([np.inf if end is None else end for end in stored["interval"]])
    assert record["versions"].keys() >= {"lightning_tl", "numpy", "scipy", "pandas"}
    assert group["law"]["form"]["bounds"]["alpha"] == [0.001, 10.0]
    assert group["scratch"]["runs"] == 3


def test_scratch_rows_without_a_task_belong_to_every_group(table) -> None:
    found = groups(read_table(table))
    assert [group.label for group in found] == ["digits", "shapes"]
    assert [len(group.scratch) for group in found] == [3, 3]
    assert all((group.runs["n"] > 0).all() for group in found)


def test_a_label_leaves_out_what_the_fine_tuning_task_tells() -> None:
    frame = pd.DataFrame({"pretrain_images": [32, 64, 128] * 2, "error": [0.5, 0.4, 0.3] * 2})
    frame["finetune_task"], frame["finetune_images"] = ["objdet"] * 3 + ["semseg"] * 3, [300] * 3 + [301] * 3
    frame["metric"] = ["mAP"] * 3 + ["mIoU"] * 3
    assert [group.label for group in groups(frame)] == ["objdet", "semseg"]
    twice = pd.concat([frame, frame[:3].assign(finetune_images=100)])
    assert [group.label for group in groups(twice)] == ["objdet / 300", "semseg / 301", "objdet / 100"]


def test_any_other_table_by_naming_columns(tmp_path) -> None:
    frame = pd.DataFrame({"images": [100, 200, 400, 800], "mAP": [0.5, 0.6, 0.65, 0.7], "net": "r50", "split": "val"})
    group = groups(frame, Columns(size="images", score="mAP", score_is="accuracy", by=("net",)))[0]
    assert list(group.runs["error"]) == pytest.approx([0.5, 0.4, 0.35, 0.3])
    assert group.label == "r50"
    assert group.labels("draw") is None


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            Columns(size="pretrain_image"),
            "no column 'pretrain_image' (--size) in the table; did you mean 'pretrain_images'?",
        ),
        (Columns(score="eror"), "no column 'eror' (--score) in the table; did you mean 'error'?"),
        (Columns(by=("rendr",)), "no column 'rendr' (--by) in the table; did you mean 'render'?"),
        (Columns(target_size="x"), "no column 'x' (--target-size) in the table; valid: "),
        (
            Columns(score_is="los"),
            "score is 'los'; it is 'error', 'accuracy' (any score in [0, 1], more is better) or 'l",
        ),
        (Columns(where="render == 'none'"), "where 'render == 'none'' selects no row"),
        (Columns(where="nothing > 3"), "where 'nothing > 3': "),
        (Columns(where="1 +"), "where '1 +': "),
    ],
)
def test_wrong_columns(table, columns, message) -> None:
    with pytest.raises(UserError) as error:
        groups(read_table(table), columns)
    assert str(error.value).startswith(message)


def other(**more: object) -> pd.DataFrame:
    """Two renderers' curves in a table that is not ours, with a dot in a column's name."""
    rng, sizes = np.random.default_rng(4), np.tile([1000, 2000, 4000, 8000, 16000], 2)
    error = (0.5 * sizes**-0.4 + np.repeat([0.2, 0.25], 5)) * np.exp(0.003 * rng.standard_normal(10))
    return pd.DataFrame({"pre.n": sizes, "score": 1 - error, "pool": np.repeat(["x", "y"], 5), **more})


def test_where_takes_names_with_dots_as_they_are() -> None:
    for query in ("pre.n > 1000 and pool != 'pre.n'", "`pre.n` > 1000", '2000 <= pre.n and pool != "pre.n"'):
        found = groups(other(), Columns(size="pre.n", score_is="accuracy", score="score", by=("pool",), where=query))
        assert [sorted(group.runs["n"]) for group in found] == [[2000, 4000, 8000, 16000]] * 2


def test_curves_mixed_into_one_are_noted() -> None:
    mixed = groups(other(same="a", tag=list("ababababab")), Columns("pre.n", "score", "accuracy", by=()))
    assert len(mixed) == 1
    assert "At one size the error differs with the column pool: are these several curves" in mixed[0].notes[0]
    for columns in (
        Columns("pre.n", "score", "accuracy", by=("pool",)),
        Columns("pre.n", "score", "accuracy", by=(), cluster=("draw:pool",)),
    ):
        assert all(group.notes == [] for group in groups(other(), columns))


def test_numbers_in_by_are_compared_as_numbers() -> None:
    found = groups(other(share=["1", "1.0"] * 5), Columns("pre.n", "score", "accuracy", by=("pool", "share")))
    assert [group.label for group in found] == ["x", "y"]
    found = groups(other(share=["0.10", "", *["a"] * 8]), Columns("pre.n", "score", "accuracy", by=("share",)))
    assert [group.label for group in found] == ["0.10", "no share", "a"]


def test_rows_that_stand_twice_without_a_run_id() -> None:
    table = pd.concat([other(), other().iloc[[3]]])
    found = groups(table, Columns("pre.n", "score", "accuracy", by=("pool",)))
    assert len(found[0].runs) == 5
    assert [(row["line"], row["reason"]) for row in found[0].dropped] == [
        (12, "the same row occurs twice; give repeats a column in which they differ, such as a seed")
    ]


def test_columns_without_numbers() -> None:
    with pytest.raises(UserError, match=r"column 'pool' has no number in any row \(line 2: 'x'\); name another"):
        groups(other(), Columns(size="pool", score="score"))
    with pytest.raises(UserError, match="column 'pool' has no number in any row"):
        groups(other(), Columns(size="pre.n", score="pool"))


def test_where_selects_by_numbers(table) -> None:
    found = groups(read_table(table), Columns(where="pretrain_images >= 256 and render == 'digits'"))
    assert [sorted(set(group.runs["n"])) for group in found] == [[256, 512, 1024, 2048]]


def test_unusable_rows_are_dropped_with_line_and_reason() -> None:
    frame = results({"a": falling(0.3, 0.2)}, 0.13, seed=2, draws=1).astype(object)
    frame.loc[1, "error"] = "n/a"
    frame.loc[2, "error"] = 1.2
    frame.loc[3, "pretrain_images"] = -5
    frame.loc[4, "error"] = 0
    frame.loc[5, "pretrain_images"] = "many"
    frame = pd.concat([frame, frame.iloc[[6]]])
    group = groups(frame)[0]
    assert [(item["line"], item["reason"]) for item in group.dropped] == [
        (3, "error is not a number"),
        (4, "error is outside [0, 1]"),
        (5, "pretrain_images is negative"),
        (6, "the error is 0, which has no logarithm"),
        (7, "pretrain_images is not a number"),
        (9, "the same run occurs twice"),
    ]


def test_a_run_with_two_results_is_an_error() -> None:
    frame = results({"a": falling(0.3, 0.2)}, 0.13, seed=2, draws=1)
    frame.loc[2, "run_id"] = frame.loc[1, "run_id"]
    with pytest.raises(UserError, match=r"run_id 'a-64-0' occurs twice with different results \(line 4\)"):
        groups(frame)


def test_percents_are_recognised() -> None:
    frame = results({"a": falling(0.3, 0.2)}, 0.13, seed=2)
    frame["error"] *= 100
    with pytest.raises(UserError, match="looks like percents; divide it by 100"):
        groups(frame)


def test_only_scratch_runs() -> None:
    frame = results({"a": falling(0.3, 0.2)}, 0.13, seed=2)
    with pytest.raises(UserError, match="there is no pre-trained run to fit"):
        groups(frame[frame["pretrain_images"] == 0])


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no file"), ("", "is not a CSV table"), ("a,b\n", "has no rows"), ('a,b\n1,2,3\n"', "is not a CSV table")],
)
def test_broken_files(tmp_path, content, message) -> None:
    path = tmp_path / "broken.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        main([str(path)])


def test_unknown_form(table) -> None:
    with pytest.raises(UserError, match="form: 'transfr' is unknown; did you mean 'transfer'"):
        main([str(table), "--form", "transfr"])


def test_nothing_fitted_is_exit_code_one(tmp_path, capsys) -> None:
    path = tmp_path / "few.csv"
    results({"a": {64: 0.1, 128: 0.09}}, 0.13, seed=3).to_csv(path, index=False)
    assert main([str(path)]) == 1
    assert "not fitted: 2 independent points" in capsys.readouterr().out
