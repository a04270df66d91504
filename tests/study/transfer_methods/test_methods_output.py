"""What the comparison writes: sentences, tables, figures, the page."""

import csv
import json

import numpy as np
import pandas as pd
import pytest
from method_worlds import study
from PIL import Image

from lightning_tl.cli.study import _analyse
from lightning_tl.errors import UserError
from lightning_tl.figure_style import narrow_path
from lightning_tl.study.config import Stage, Study, TransferOptions
from lightning_tl.study.report_page import write_report
from lightning_tl.study.transfer_methods.methods_output import conclude, varies

ERRORS = {
    "full": lambda s, n: 0.2 * (s / 100) ** -0.4 * (n / 500) ** -0.1,
    "lora(rank=4)": lambda s, n: 0.2 * (s / 100) ** -0.4 * (n / 500) ** -0.1,
    "linear_probe": lambda s, n: 0.28 * (s / 100) ** -0.1,
    "partial(share=0.2)": lambda s, n: 0.5 * (s / 100) ** -0.4,
    "partial(share=0.5)": lambda s, n: 0.3 * (s / 100) ** -0.4,
}
FORGETTING = {"full": 0.31, "lora(rank=4)": 0.02, "linear_probe": 0.001}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("methods")
    table = study(
        ERRORS, FORGETTING, sizes=(100, 200), ns=(500, 2000), scratch=lambda s: 0.35 * (s / 100) ** -0.4, noise=0.01
    )
    table.to_csv(out / "results.csv", index=False)
    conclude(out)
    return out


def test_the_answer_names_a_method_for_each_s_with_its_grounds(folder):
    record = json.loads((folder / "transfer_methods.json").read_text())
    takes = [text for text in record["answer"] if text.startswith("At ")]
    assert [text.partition(" take ")[0] for text in takes] == [f"At n = 2,000, s = {s}" for s in (100, 200)]
    for text in takes:
        assert " take lora(rank=4): error 0." in text
        assert "(95 % interval 0." in text
        assert "; its pre-training loss rises by 0.02 instead of 0.31 (difference −0.29, −0." in text
    (harm,) = [text for text in record["answer"] if text.startswith("Negative transfer")]
    assert "partial(share=0.2) at n = 2,000, s = 100 (error 4" in harm  # 0.5 against 0.35: 43 % higher
    assert "lora" not in harm
    assert "partial(share=0.5)" not in harm
    (needed,) = [text for text in record["answer"] if "takes the fewest fine-tuning images" in text]
    assert "without pre-training" in needed


def test_the_tables(folder):
    rows = list(csv.DictReader((folder / "transfer_methods.csv").open()))
    assert len(rows) == 2 * 2 * 5
    row = next(row for row in rows if (row["pretrain_images"], row["finetune_images"]) == ("2000.0", "100.0"))
    assert row["transfer"] == "full"
    table = pd.read_csv(folder / "results.csv")
    own = table[(table["transfer"] == "full") & (table["pretrain_images"] == 2000) & (table["finetune_images"] == 100)]
    assert float(row["error"]) == pytest.approx(own["error"].mean(), rel=1e-6)
    assert sum(int(row["take"]) for row in rows) == 4
    needs = list(csv.DictReader((folder / "samples_needed.csv").open()))
    assert {row["transfer"] for row in needs} == {*ERRORS, "no pre-training"}


@pytest.mark.parametrize("name", ["transfer_front", "transfer_sizes", "transfer_inherited", "samples_needed"])
def test_figures_wide_and_narrow(folder, name):
    with Image.open(folder / f"{name}.png") as wide, Image.open(narrow_path(folder / f"{name}.png")) as narrow:
        assert np.asarray(wide.convert("L")).std() > 5
        assert narrow.width == pytest.approx(1.5 * 390, abs=3)  # 150 dpi of a figure for 390 pixels
    assert "<svg" in (folder / f"{name}.svg").read_text(encoding="utf-8")[:1000]


def test_the_page_has_answer_figures_and_tables(folder):
    text = write_report(folder).read_text(encoding="utf-8")
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    for page in (text, markdown):
        assert page.index("take lora(rank=4)") < page.index("Which way of fine-tuning?")
        for heading in ("Each method", "Fine-tuning images needed", "How fast the fine-tuning images needed fall"):
            assert heading in page
    assert text.count("data:image/png") == 8


def test_single_runs_are_said_to_prove_nothing(tmp_path):
    study(ERRORS, FORGETTING, sizes=(100,), draws=1, scratch=0.3).to_csv(tmp_path / "results.csv", index=False)
    record = conclude(tmp_path)
    assert "These are single runs, so nothing is known about their scatter." in record["answer"][0]
    assert "Negative transfer was not detected with any method (these are single draws)." in record["answer"]


def test_the_analysis_is_made_where_methods_differ(tmp_path):
    study(ERRORS, FORGETTING, sizes=(100,)).to_csv(tmp_path / "results.csv", index=False)
    assert varies(tmp_path / "results.csv")
    assert _analyse(Study(Stage("finetune/digits")), tmp_path)
    assert (tmp_path / "transfer_methods.json").is_file()
    other = tmp_path / "other"
    other.mkdir()
    study({"full": 0.2}).to_csv(other / "results.csv", index=False)
    assert not _analyse(Study(Stage("finetune/digits")), other)
    assert not (other / "transfer_methods.json").exists()


@pytest.mark.parametrize(
    "changes,words",
    [
        ({"forgetting": False}, "analysis: transfer needs a pretrain stage and forgetting: true"),
        ({"finetune": Stage("f")}, "analysis: transfer compares ways of fine-tuning, and finetune has no axis of them"),
        ({"transfer": TransferOptions(level=1.0)}, "transfer.level is 1.0; it must be between 0 and 1"),
        ({"transfer": TransferOptions(equal=1.5)}, "transfer.equal is 1.5; it must be at least 0 and below 1"),
        (
            {"transfer": TransferOptions(target_errors=[0.1, 10])},
            "transfer.target_errors has 10; an error of 10 % is 0.1",
        ),
    ],
)
def test_the_study_is_checked_before_it_runs(changes, words):
    fine = Stage("f", product={"model.transfer": ["Full", "LinearProbe"]})
    study = {"finetune": fine, "pretrain": Stage("p"), "analysis": "transfer", "forgetting": True}
    Study(**study).check()
    with pytest.raises(UserError, match=words.replace("(", r"\(")):
        Study(**study | changes).check()
