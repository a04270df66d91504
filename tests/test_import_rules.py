from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)


def test_who_may_import_whom():
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert " 0 broken" in result.stdout
    assert " kept" in result.stdout


@pytest.mark.parametrize(
    "file,line,contract",
    [
        ("lightning_tl/data/sample_order.py", "import lightning_tl.run", "models and data, then tasks"),
        ("lightning_tl/laws/forms.py", "import torch", "the laws stand alone"),
        ("lightning_tl/models/weights.py", "import data_gen", "training never touches the renderer"),
        ("lightning_tl/offline/options.py", "import lightning_tl.callbacks", "then callbacks and offline"),
        ("lightning_tl/measure/trace.py", "import lightning_tl.losses", "measure, then losses"),
        ("lightning_tl/losses/pretraining.py", "import lightning_tl.tasks", "uses nothing else of the package"),
        ("data_gen/scene_sampler.py", "import lightning_tl.progress", "the renderer imports the ground floor"),
        ("data_gen/scene_sampler.py", "def late():\n    import torch", "the renderer imports the ground floor"),
        ("lightning_tl/_io/atomic.py", "import lightning_tl.config_files", "the ground floor imports nothing above"),
        ("lightning_tl/errors.py", "def late():\n    import yaml", "the ground floor imports nothing above"),
        ("data_gen/scene_sampler.py", "def late():\n    import bpy", "Blender is imported by one package"),
        ("data_gen/farm.py", "import data_gen.blender.nodes", "that package is imported where a process renders"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path, file, line, contract):
    import shutil

    for name in ("lightning_tl", "data_gen"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / file).open("a") as source:
        source.write(f"\n{line}\n")
    result = lint_imports(tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    (broken,) = [text for text in result.stdout.splitlines() if " BROKEN" in text]
    assert contract in broken
