"""The page on exports: its commands run, in a folder like the page's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sharing.checkpoints import checkpoint

from lightning_tl.cli.main import main
from lightning_tl.sharing.export import FORMATS
from lightning_tl.tasks import Classification

PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text()


def test_the_page_names_every_format():
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.M)[: len(FORMATS)] == list(FORMATS)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_pages_commands_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    checkpoint(Path("runs/fine/checkpoints/last.ckpt"), Classification, "resnet18")
    commands = [line.split()[1:] for line in PAGE.split("```")[1].splitlines() if line]
    assert len(commands) == 6
    for command in commands:
        assert main(command) == 0
        assert Path(command[-1]).exists()
    assert "torchvision.models.resnet18(num_classes=3)" in capsys.readouterr().out
