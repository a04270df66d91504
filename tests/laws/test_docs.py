"""The page on laws: its Python runs, its commands run, and what it quotes is what they print."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from lightning_tl.cli import next as next_command
from lightning_tl.cli.law import main

PAGE = Path(__file__).parents[2] / "docs" / "laws.md"


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def test_the_page_runs(page: str, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    (table,) = re.findall(r"```csv\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "mine.csv").write_text(table)
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(block, names)
    assert (tmp_path / "law.svg").stat().st_size > 1000
    for command in re.findall(
        r"^lightning-tl law ((?:mine|results|table|finetuned|pretrained)\.csv.*)$", page, flags=re.MULTILINE
    ):
        assert main([*shlex.split(command), "--plots", "none"]) == 0
    for command in re.findall(r"^lightning-tl next (results\.csv.*)$", page, flags=re.MULTILINE):
        assert next_command.main(shlex.split(command)) == 0
    said = capsys.readouterr().out
    for quoted in re.findall(r"```output\n(.*?)```", page, flags=re.DOTALL):
        for line in filter(None, quoted.splitlines()):
            assert line.rstrip("… ") in said


def test_options_on_the_page_exist(page: str, capsys) -> None:
    for command in (main, next_command.main):
        with pytest.raises(SystemExit):
            command(["--help"])
    known = capsys.readouterr().out
    for option in re.findall(r"`(--[a-z][a-z-]*)", page):
        assert f"--{option[2:].replace('-', '_')} " in known  # hyphens may stand for underscores
