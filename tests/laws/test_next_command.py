"""`lightning-tl next`: a table, a JSON and a CSV file; each message."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from lightning_tl.cli.next import main
from lightning_tl.errors import UserError

from .tables import falling, flat, results


@pytest.fixture
def table(tmp_path):
    frame = results({"digits": falling(0.2, 0.0), "shapes": flat(0.12)}, 0.1275, seed=1)
    path = tmp_path / "results.csv"
    frame[frame["pretrain_images"].isin([0, 64, 512])].to_csv(path, index=False)
    return path


def run(table, *options: str, capsys=None):
    out = table.parent / "out"
    assert main([str(table), "--out", str(out), *options]) == 0
    return json.loads((out / "next.json").read_text(), parse_constant=lambda name: pytest.fail(name)), out


def test_proposals_of_a_small_table(table, capsys) -> None:
    record, out = run(table, "--candidates", "64,128,512,2048", "--batch", "2", "--cost-per-image", "0.01")
    said = capsys.readouterr().out
    assert "Do 10 times the images, from n = 2,048 on, lower the error by 10 % or more?" in said
    assert "digits: not decided; likeliest is: " in said
    assert "P(wrong) falls by" in said
    assert said.count("Next: ") == said.count("With it: ") == 1
    assert [item["group"] for item in record["decisions"]] == ["digits", "shapes"]
    assert record["done"] is False
    frame = pd.read_csv(out / "next.csv")
    assert list(frame["batch"].dropna()) == [1, 2]
    assert {"kind", "group", "n", "seed", "draw", "gain", "cost", "gain_per_cost", "settles", "why"} <= set(frame)
    assert set(frame["n"]) <= {64, 128, 512, 2048}
    assert len(frame) == len(record["proposals"])


def test_the_number_of_looks_is_kept(table) -> None:
    options = ("--question", "best", "--at", "2048")
    first, out = run(table, *options)
    assert len(first["looks"]) == 1
    assert len(run(table, *options)[0]["looks"]) == 1  # the same table: no new look
    full = results({"digits": falling(0.2, 0.0), "shapes": flat(0.12)}, 0.1275, seed=1)
    full.to_csv(table, index=False)
    second = run(table, *options)[0]
    assert [look["runs"] for look in second["looks"]] == [18, 42]
    assert second["decisions"][0]["looks"] == 2
    assert len(run(table, "--question", "best", "--at", "4096")[0]["looks"]) == 1  # another question begins anew
    (out / "next.json").write_text("{")
    assert len(run(table, *options)[0]["looks"]) == 1


def test_stop_where_it_is_decided(table, capsys) -> None:
    results({"digits": falling(0.2, 0.0), "shapes": flat(0.12)}, 0.1275, seed=1).to_csv(table, index=False)
    record, out = run(table, "--question", "best")
    said = capsys.readouterr().out
    assert "Which group has the lowest error at n = 2,048, or one at most 2 % above it?" in said
    assert "  digits. Confidence over 99 %, at least the 91.0 % that 1 look asks for." in said
    assert "Stop: Every question is decided." in said
    assert record["done"] is True
    assert list(pd.read_csv(out / "next.csv")["kind"]) == ["stop"]


def test_a_rise_is_decided_with_a_warning(tmp_path, capsys) -> None:
    path = tmp_path / "results.csv"
    pd.DataFrame({"pretrain_images": [100, 200, 400, 800], "error": [0.1, 0.2, 0.4, 0.8]}).to_csv(path, index=False)
    record, _ = run(path)
    assert record["checks"][0]["flagged"] is True
    assert "But the law does not fit all runs: repeat the runs named above first." in capsys.readouterr().out


def test_target_within_a_budget(table, capsys) -> None:
    run(table, "--question", "target", "--target-error", "0.06", "--cost-per-image", "0.01", "--budget", "30")
    said = capsys.readouterr().out
    assert "Is the error at n = 3,512 at most 0.06?" in said
    assert "shapes: not" in said


def test_negative_transfer_and_a_new_group(table, capsys) -> None:
    run(table, "--question", "negative_transfer", "--noise", "0.02")
    assert "Is the error at n = 512 above that without pre-training?" in capsys.readouterr().out
    record, _ = run(table, "--question", "best", "--groups", "rooms", "--at", "512")
    assert "rooms" in {item["group"] for item in record["proposals"]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--question", "target"], "question target needs the error to reach, such as 0.05: --target-error"),
        (
            ["--candidates", "a,b"],
            "candidates is 'a,b'; give sizes in images, with commas between them: 1000,4000,16000",
        ),
        (["--noise", "2"], "noise is 2; give the relative scatter of the error, such as 0.02"),
        (["--confidence", "1.5"], "confidence is 1.5; give a share of right decisions from 0.5 to below 1"),
        (
            ["--question", "bst"],
            "question: 'bst' is unknown; did you mean 'best'?",
        ),
        (["--at", "-5"], "the question is asked for n = -5; give a number of images over 0"),
        (["--score", "score"], "'score' is read as an error, and it rises"),
        (["--repeats", "0"], "repeats is 0; give how many new seeds may be run at each size, 1 or more"),
    ],
)
def test_messages(table, options, message) -> None:
    with pytest.raises(UserError) as error:
        main([str(table), *options])
    assert message.lower()[:40] in str(error.value).lower()
