from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Set
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)


def copy_sources(folder: Path) -> None:
    for name in ("lightning_tl", "data_gen"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))


def test_who_may_import_whom():
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert " 0 broken" in result.stdout
    assert " kept" in result.stdout


@pytest.mark.parametrize(
    "file,line,contract",
    [
        ("lightning_tl/data/sample_order.py", "import lightning_tl.tasks", "models and data, then tasks"),
        ("lightning_tl/laws/forms.py", "import torch", "the laws stand alone"),
        ("lightning_tl/corpus/manifest.py", "import torch", "a corpus needs the ground floor and numpy"),
        ("lightning_tl/corpus/build.py", "import lightning_tl.progress", "a corpus needs the ground floor and numpy"),
        ("lightning_tl/models/weights.py", "import data_gen", "training never touches the renderer"),
        (
            "lightning_tl/offline/measure_options.py",
            "import lightning_tl.callbacks",
            "then callbacks, offline and integrations",
        ),
        ("lightning_tl/measure/trace.py", "import lightning_tl.losses", "measure, then losses"),
        ("lightning_tl/integrations/transformers.py", "import lightning", "needs no Lightning"),
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
    copy_sources(tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / file).open("a") as source:
        source.write(f"\n{line}\n")
    result = lint_imports(tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    (broken,) = [text for text in result.stdout.splitlines() if " BROKEN" in text]
    assert contract in broken


def imports_of(folder: Path) -> dict[str, set[str]]:
    """Return which modules each module imports anywhere in its text: in functions and for type checks as well."""
    code = (
        "import grimp, json; graph = grimp.build_graph('lightning_tl', 'data_gen', cache_dir=None);"
        "print(json.dumps({name: list(graph.find_modules_directly_imported_by(name)) for name in graph.modules}))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return {name: set(imported) for name, imported in json.loads(result.stdout).items()}


def a_circle(imports: Mapping[str, Set[str]]) -> list[str]:
    """Return modules each of which imports the next, and the last one the first; empty where there is no circle."""
    rest = {module: imported & imports.keys() for module, imported in imports.items()}
    while leaves := {module for module, imported in rest.items() if not imported}:
        rest = {module: imported - leaves for module, imported in rest.items() if module not in leaves}
    if not rest:
        return []
    way = [min(rest)]  # each module that remains imports another one that remains
    while (following := min(rest[way[-1]])) not in way:
        way.append(following)
    return way[way.index(following) :]


def test_no_circle_of_imports() -> None:
    imports = imports_of(ROOT)
    assert "lightning_tl.errors" in imports["lightning_tl.laws.fitting"]
    circle = a_circle(imports)
    assert not circle, " imports ".join([*circle, *circle[:1]])


def test_a_circle_is_found(tmp_path: Path) -> None:
    copy_sources(tmp_path)
    with (tmp_path / "lightning_tl/laws/forms.py").open("a") as source:
        source.write("\ndef late():\n    import lightning_tl.laws.search\n")
    imports = imports_of(tmp_path)
    circle = a_circle({name: imports[name] for name in imports if name.startswith("lightning_tl.laws.")})
    assert "lightning_tl.laws.forms" in circle
    assert all(after in imports[before] for before, after in zip(circle, [*circle[1:], circle[0]], strict=True))
