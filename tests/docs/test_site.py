"""The site is built, strictly; it loads nothing from other hosts; its figures are those that the code draws."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


def build(config: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--config-file",
        str(config),
        "--site-dir",
        str(out),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)


@pytest.mark.slow
def test_the_site(tmp_path):
    done = build(ROOT / "mkdocs.yml", tmp_path / "site")
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path.relative_to(tmp_path / "site").as_posix(): path.read_text() for path in tmp_path.rglob("*.html")}
    assert {"index.html", "laws.html", "api/measure.html", "reference/study.html", "security.html"} <= pages.keys()
    for name, page in pages.items():
        loaded = re.findall(r"<(?:script|img|iframe|source)[^>]* src(?:set)?=\"?([^\" >]+)", page)
        loaded += re.findall(r"<link[^>]* rel=\"?(?:stylesheet|icon|preconnect)\"?[^>]*href=\"?([^\" >]+)", page)
        assert not [address for address in loaded if re.match(r"(?:https?:)?//", address)], name
    assert 'id="lightning_tl.measure.hessian_trace"' in pages["api/measure.html"]
    assert not list((tmp_path / "site").rglob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "broken, said",
    [
        ("[gone](nowhere.md)", "nowhere.md"),
        ("[gone](laws.md#no-such-heading)", "no-such-heading"),
        ("[gone][lightning_tl.measure.no_such_name]", "no_such_name"),
    ],
)
def test_what_is_broken_fails(broken, said, tmp_path):
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for name in ("mkdocs.yml", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("lightning_tl", "data_gen", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    with (tmp_path / "docs/index.md").open("a") as page:
        page.write(f"\n{broken}\n")
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode != 0
    assert said in done.stdout + done.stderr


def test_an_unknown_name_in_a_docstring_is_warned_of(tmp_path, caplog):
    griffe = pytest.importorskip("griffe")
    specification = importlib.util.spec_from_file_location("references", ROOT / "docs/hooks/docstring_references.py")
    references = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(references)
    package = tmp_path / "pack"
    package.mkdir()
    text = (
        '"""See :func:`known`, :func:`.other.far`, :class:`pathlib.Path` and :func:`unknown`."""\n\ndef known(): ...\n'
    )
    (package / "__init__.py").write_text(text)
    (package / "other.py").write_text("def far(): ...\n")
    extensions = griffe.load_extensions(references.DocstringReferences)
    loaded = griffe.load("pack", search_paths=[tmp_path], extensions=extensions)
    value = loaded.docstring.value
    for path in ("pack.known", "pack.other.far", "pathlib.Path"):
        assert f'identifier="{path}"' in value
    assert "`unknown`" in value
    assert [record.getMessage() for record in caplog.records] == [
        "pack: the docstring refers to 'unknown', which does not exist"
    ]


@pytest.mark.slow
def test_the_figures_are_those_that_the_code_draws(tmp_path):
    script = ROOT / "docs/concepts/draw_figures.py"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True, env=environment, capture_output=True)
    drawn = sorted(path.name for path in tmp_path.glob("*.png"))
    assert drawn == sorted(path.name for path in script.parent.glob("*.png"))
    for name in drawn:
        new, old = (np.asarray(Image.open(folder / name).convert("L"), float) for folder in (tmp_path, script.parent))
        assert new.shape == old.shape, name
        # other versions may place a letter elsewhere; another curve is more
        assert np.mean(np.abs(new - old) > 60) < 0.01, name
