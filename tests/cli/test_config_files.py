from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lightning_tl import config_files
from lightning_tl.config_files import find_config, with_config_paths
from lightning_tl.errors import UserError

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    for name in ("render/digits", "finetune/digits", "pretrain/small"):
        path = tmp_path / "configs" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"name: {name}")
    monkeypatch.setattr(config_files, "configs_root", lambda: tmp_path / "configs")
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return tmp_path / "configs"


@pytest.mark.parametrize(
    "name,file",
    [
        ("render/digits", "render/digits.yaml"),
        ("render/digits.yaml", "render/digits.yaml"),
        ("configs/render/digits.yaml", "render/digits.yaml"),
        ("configs/render/digits", "render/digits.yaml"),
        ("small", "pretrain/small.yaml"),
        ("small.yaml", "pretrain/small.yaml"),
    ],
)
def test_by_name(shipped, name, file):
    assert find_config(name) == shipped / file


def test_a_file_comes_before_a_name(shipped):
    Path("small").write_text("mine")
    assert find_config("small") == Path("small")


def test_a_folder_is_no_file(shipped):
    Path("small").mkdir()
    assert find_config("small") == shipped / "pretrain/small.yaml"


def test_ambiguous(shipped):
    with pytest.raises(UserError, match=r"--config digits: several .* this name: finetune/digits, render/digits"):
        find_config("digits")


@pytest.mark.parametrize(
    "name,hint", [("render/digit", "did you mean 'render/digits'"), ("x", "valid: finetune/digits")]
)
def test_unknown(shipped, name, hint):
    with pytest.raises(
        UserError, match=rf"--config {name}: no such file, and no shipped configuration of this name; {hint}"
    ):
        find_config(name)


@pytest.mark.parametrize(
    "given,found",
    [
        (["--config", "small"], ["--config", "{small}"]),
        (["--config=small", "--n", "3"], ["--config={small}", "--n", "3"]),
        (["-c", "small"], ["-c", "{small}"]),
        (["fit", "--config=small", "--config", "render/digits"], ["fit", "--config={small}", "--config", "{digits}"]),
        (["--out", "small"], ["--out", "small"]),
        (["--config"], ["--config"]),
        ([], []),
    ],
)
def test_arguments(shipped, given, found):
    places = {"small": shipped / "pretrain/small.yaml", "digits": shipped / "render/digits.yaml"}
    assert with_config_paths(given) == [text.format(**places) for text in found]


def test_shipped_ones_are_found():
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert find_config(str(path.relative_to(ROOT / "configs").with_suffix(""))) == path


LOOK_UP = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import lightning_tl
from lightning_tl.config_files import find_config
assert Path(lightning_tl.__file__).is_relative_to(sys.argv[1])
print(find_config("pretrain/small_images"))
"""


def test_found_by_name_from_a_wheel(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(site)
    assert {
        "lightning_tl/cli/main.py",
        "data_gen/blender/renderer.py",
        "lightning_tl/configs/finetune/digits.yaml",
    } <= names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]
    assert {"lightning_tl/templates/page.html.j2", "lightning_tl/templates/pieces.html.j2"} <= names
    (empty := tmp_path / "empty").mkdir()
    result = subprocess.run([sys.executable, "-I", "-c", LOOK_UP, str(site)], cwd=empty, capture_output=True, text=True)
    assert result.stdout.strip() == str(site / "lightning_tl/configs/pretrain/small_images.yaml"), result.stderr
