"""The Python reference has all that the other pages import, and the public names of every package."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]


@pytest.fixture(scope="module")
def api():
    sys.path.insert(0, str(ROOT / "docs/hooks"))
    try:
        return importlib.import_module("api_pages")
    finally:
        sys.path.remove(str(ROOT / "docs/hooks"))


def _imports() -> set[tuple[str, str]]:
    """Return module and name of every import in the Python on the pages."""
    found = set()
    for page in PAGES:
        for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.S):
            for statement in ast.walk(ast.parse(block)):
                if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("lightning_tl"):
                    found |= {(str(statement.module), alias.name) for alias in statement.names}
    return found


def test_what_the_pages_import_is_in_the_reference(api):
    imports = _imports()
    assert len(imports) > 20
    for module, name in imports:
        package, _, last = module.rpartition(".")
        is_listed = module in api.SINGLE or last in api.PACKAGES.get(package, ("", ()))[1]
        is_public = module in api.PACKAGES and name in importlib.import_module(module).__all__
        assert is_listed or is_public, f"{module}.{name}"


def test_every_package_with_public_names_is_there(api):
    for init in (ROOT / "lightning_tl").rglob("__init__.py"):
        package = ".".join(init.parent.relative_to(ROOT).parts)
        names = api.public_names(init)
        if names:
            assert package in api.PACKAGES
            assert sorted(importlib.import_module(package).__all__) == sorted(names)


def test_the_modules_that_are_named_exist(api):
    for package, (_, modules) in api.PACKAGES.items():
        for name in modules:
            folder = ROOT / package.replace(".", "/")
            assert (folder / f"{name}.py").is_file() or (folder / name).is_dir(), f"{package}.{name}"
