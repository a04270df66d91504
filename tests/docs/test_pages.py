"""What pages say of the program is so: words of reports, numbers of the concept pages, how to cite."""

from __future__ import annotations

import importlib.util
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import lightning_tl
from lightning_tl.laws import advice, pretraining
from lightning_tl.study import report_page
from lightning_tl.study.overtraining import words

ROOT = Path(__file__).parents[2]


def read(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def figures() -> Any:
    specification = importlib.util.spec_from_file_location("draw_figures", ROOT / "docs/concepts/draw_figures.py")
    assert specification is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)  # type: ignore[union-attr]
    return module


def test_the_verdicts_are_those_of_the_program():
    rows = re.findall(r"^\| ([^|]+) \|", read("report.md").split("## Verdicts")[1].split("\n## ")[0], flags=re.M)
    assert {advice.MORE, advice.DIFFERENT, advice.MODEL, advice.UNCLEAR, advice.UNFITTED} <= set(rows)
    assert "…, but first train longer" in rows
    assert ", but first train longer" in inspect.getsource(report_page)


def test_the_words_for_not_knowing_are_those_of_the_program():
    page = read("report.md")
    assert "undecided by these runs" in inspect.getsource(words)
    assert "cannot be determined" in inspect.getsource(pretraining)
    for word in ("undecided (by these runs)", "cannot be determined", "not identified", "not decided"):
        assert f"| {word}" in page


def test_the_sections_are_those_of_the_report():
    source = inspect.getsource(report_page)
    table = read("report.md").split("## Verdicts")[0]
    named = [row for row in re.findall(r"^\| ([^|]+) \|", table, flags=re.M) if row not in ("Section", "---")]
    assert len(named) == 12
    for name in (part for row in named for part in row.split(", what the networks")):
        assert name.strip(" ") in source or f"What the networks{name}" in source, name


def test_the_numbers_of_identification(figures):
    page = read("concepts/identification.md")
    quoted = re.search(
        r"from 0 to ([\d.]+), with six from ([\d.]+) to ([\d.]+), with nine from ([\d.]+) to ([\d.]+)\.", page
    )
    assert quoted is not None
    ends = [end for count in (4, 6, 9) for end in figures.simulated(count, (3,))[0].interval("C")]
    assert [f"{end:.3f}" for end in ends[1:]] == [f"{float(number):.3f}" for number in quoted.groups()]
    assert ends[0] == 0


def test_the_turns_of_overtraining(figures):
    lab = figures.IncrementalFeatures()
    spectrum = figures.np.array(lab.spectrum)
    noise = [figures.turn(figures.noisy_losses(spectrum, gamma)) for gamma in (0.1, 0.185, 0.22)]
    assert noise == [
        5,
        3,
        2,
    ]  # "after the fifth feature at γ = 0.1, after the third at 0.185, after the second at 0.22"
    tuned = [
        figures.turn(figures.tuned_losses(spectrum, lab.target(spectrum), pull, lab.tuning_time)[0])
        for pull in (0, 0.5, 1)
    ]
    assert tuned == [3, 3, 4]
    assert "after the fifth feature at γ = 0.1, after the third at 0.185, after the second at 0.22" in read(
        "concepts/overtraining.md"
    )


def test_the_citation():
    content = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert content["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= content.keys()  # what the format demands
    assert content["version"] == lightning_tl.__version__
    page = read("cite.md")
    assert f"version = {{{lightning_tl.__version__}}}" in page
    for reference in content["references"]:
        assert reference["title"] in page
        assert reference["identifiers"][0]["value"].removeprefix("arXiv:") in page
        listed = " ".join(page.split())
        assert " and ".join(f"{each['family-names']}, {each['given-names']}" for each in reference["authors"]) in listed
