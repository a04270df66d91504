"""The commands of the page on data sets run; its tables name every fault; the page of statistics stands alone."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_tl.cli.main import main
from lightning_tl.inspection.export import FORMATS
from lightning_tl.inspection.faults import FAULTS, REMARKS
from lightning_tl.models import build_backbone

PAGE = (Path(__file__).parents[2] / "docs" / "dataset.md").read_text()


@pytest.fixture
def here(renders, tmp_path, monkeypatch):
    (tmp_path / "renders").symlink_to(renders)
    torch.manual_seed(0)
    state = {f"backbone.{name}": value for name, value in build_backbone("resnet10_w16").state_dict().items()}
    torch.save({"state_dict": state, "lightning_tl": {"backbone": "resnet10_w16"}}, tmp_path / "best.ckpt")
    torch.save(state, tmp_path / "bare.ckpt")
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(40):
        pixels = rng.integers(100, 255, (40, 50, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_of_the_page(here, capsys):
    commands = re.findall(r"```\n(.*?)```", PAGE, re.S)[0].splitlines()
    assert len(commands) == 9
    for command in commands:
        name, *arguments = shlex.split(command)
        assert name == "lightning-tl"
        if "preview" in arguments:
            arguments += ["--out", "sheet.png"]
        assert main(arguments) == 0, command
    page = (here / "stats/stats.html").read_text()
    assert page.count("data:image/png;base64,") == 2 * 4  # for wide and narrow screens
    assert not re.search(r'(src|href)="(?!data:)', page)
    statistics = json.loads((here / "stats/stats.json").read_text())
    assert statistics["train"]["images"] == 60
    assert sum(statistics["train"]["classes"].values()) == statistics["train"]["objects"]
    out = capsys.readouterr().out
    (accuracy,) = re.findall(r"domain classifier ([\d.]+)", out)
    assert float(accuracy) > 0.9
    assert len(re.findall(r"complexity +H = -?[\d.]+ nats", out)) == 1
    assert "-H" not in out


def test_the_tables_of_the_page():
    for name, line in (FAULTS | REMARKS).items():
        assert f"| `{name}` | {line} |\n" in PAGE
    for name in FORMATS:
        assert f"| `{name}` |" in PAGE


@pytest.mark.parametrize(
    "arguments,message",
    [
        ("complexity nowhere --ckpt best.ckpt", "nowhere: no such folder"),
        ("complexity renders --ckpt no.ckpt", "checkpoint no.ckpt: no such file"),
        ("complexity renders --ckpt bare.ckpt", "does not say what its backbone is: give --backbone"),
        ("complexity renders --ckpt four.ckpt", "the backbone takes 4 channels; images have 1 or 3"),
        ("complexity renders --ckpt best.ckpt --standardize x", "--standardize is 'x'; valid: imagenet, image"),
        ("complexity renders --ckpt best.ckpt --images 3", "--images is 3; it must be at least 8"),
        ("complexity empty --ckpt best.ckpt", "empty: no images in it, and no manifest.json"),
        ("stats renders --out s --count 0", "--count is 0; it must be at least 1"),
        ("stats nowhere --out s", "nowhere/train/manifest.json: no such file"),
    ],
)
def test_wrong_arguments(here, capsys, arguments, message):
    (here / "empty").mkdir()
    if "four.ckpt" in arguments:
        state = {f"backbone.{name}": value for name, value in build_backbone("resnet10_w16", 4).state_dict().items()}
        torch.save({"state_dict": state, "lightning_tl": {"backbone": "resnet10_w16"}}, here / "four.ckpt")
    assert main(["dataset", *arguments.split()]) == 2
    assert message in capsys.readouterr().err


def test_a_backbone_that_is_named(here, capsys):
    arguments = ["complexity", "renders", "--ckpt", "bare.ckpt", "--backbone", "resnet10_w16", "--size", "32"]
    assert main(["dataset", *arguments, "--draws", "20"]) == 0
    assert "H leans on a shrunk covariance" in capsys.readouterr().out
