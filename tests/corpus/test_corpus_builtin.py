"""Built-in texts: what is in them, that they are right, and that many processes build one once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lightning_tl.corpus import builtin
from lightning_tl.corpus.builtin import TEXTS, builtin_chunks, builtin_corpus
from lightning_tl.corpus.manifest import read_manifest
from lightning_tl.errors import UserError


def texts_of(name: str) -> list[str]:
    return [document.text for chunk in builtin_chunks(f"builtin:{name}") for document in chunk.documents()]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A standard library and packages of a few files."""
    files = {
        "lib/abc.py": "import os\n",
        "lib/deep/os.py": "x = 1\n",
        "lib/deep/__pycache__/os.py": "cached",
        "lib/site-packages/base.py": "not the environment's",
        "site-packages/pack/code.py": "y = 2\n",
        "site-packages/pack/sympy/inner.py": "z = 3\n",
        "site-packages/pack/latin.py": "# caf\xe9",
        "site-packages/pack/empty.py": "",
        "site-packages/pack/data.txt": "1 2 3",
        "site-packages/pack/docs/guide.rst": "Read me, Zoe!",
        "site-packages/pack.dist-info/METADATA": "Name: pack",
        "site-packages/pack.dist-info/LICENSE.txt": "You may.",
        "site-packages/sympy/core.py": "s = 4\n",
        "site-packages/torch/include/a.h": "int a;",
        "site-packages/torch/include/c/b.hpp": "int b;",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(text.encode("latin-1"))
    packages = str(tmp_path / "site-packages")
    paths = {"stdlib": str(tmp_path / "lib"), "purelib": packages, "platlib": packages}
    monkeypatch.setattr(builtin.sysconfig, "get_paths", lambda: paths)
    return tmp_path


def test_texts_of_installed_files(installed):
    assert sorted(texts_of("python")) == ["import os\n", "x = 1\n", "y = 2\n", "z = 3\n"]
    assert texts_of("sympy") == ["s = 4\n"]
    assert sorted(texts_of("c-headers")) == ["int a;", "int b;"]
    assert sorted(texts_of("prose")) == ["Name: pack", "Read me, Zoe!", "You may."]


def test_a_cipher_replaces_each_letter_by_another_one(installed):
    for plain, secret in zip(texts_of("prose"), texts_of("cipher"), strict=True):
        assert [char.isalpha() for char in plain] == [char.isalpha() for char in secret]
        assert [char.isupper() for char in plain] == [char.isupper() for char in secret]
    table = builtin._cipher_table()
    assert sorted(table) == sorted(table.values())
    assert len(table) == 52


def test_sums_are_right():
    lines = "".join(texts_of("arithmetic")[:100]).splitlines()
    assert len(lines) == 6400
    for line in lines:
        left, sign, right, equals, result = line.split()
        assert equals == "="
        assert int(result) == (int(left) + int(right) if sign == "+" else int(left) - int(right))


def test_json_is_json(monkeypatch):
    monkeypatch.setattr(builtin, "_GENERATED", 200)  # documents
    texts = texts_of("json")
    assert len({json.dumps(json.loads(text)) for text in texts}) == len(texts)


def test_files_that_are_missing(installed):
    (installed / "site-packages/sympy/core.py").unlink()
    with pytest.raises(UserError, match=r"builtin:sympy: sympy is not installed; install it \(pip install sympy\)"):
        builtin_chunks("builtin:sympy")
    for name in ("a.h", "c/b.hpp"):
        (installed / "site-packages/torch/include" / name).unlink()
    with pytest.raises(UserError, match="builtin:c-headers: this installation of torch has no C"):
        builtin_chunks("builtin:c-headers")


def test_this_machine_has_enough_of_each():
    for name, least in (("python", 30e6), ("sympy", 10e6), ("c-headers", 5e6), ("prose", 5e5)):
        assert sum(chunk.size for chunk in builtin_chunks(f"builtin:{name}")) > least
    assert set(TEXTS) == {"python", "sympy", "c-headers", "prose", "cipher", "json", "arithmetic"}


def test_changed_packages_make_another_corpus(installed, tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_TL_CACHE", str(tmp_path / "cache"))
    for number in range(80):
        (installed / "lib" / f"{number}.py").write_text(f"x = {number}\n")
    before = builtin_corpus("builtin:python")
    assert builtin_corpus("builtin:python") == before
    (installed / "lib" / "new.py").write_text("new = True\n")
    after = builtin_corpus("builtin:python")
    assert after != before
    documents = [read_manifest(folder).splits for folder in (before, after)]
    assert sum(s.documents for s in documents[1].values()) == sum(s.documents for s in documents[0].values()) + 1


def test_processes_at_once_build_once(tmp_path):
    code = (
        "import sys\n"
        "from lightning_tl.corpus.builtin import Generated, builtin_corpus\n"
        "read = Generated.documents\n"
        "def documents(self):\n    print('read')\n    return read(self)\n"
        "Generated.documents = documents\n"
        "print(builtin_corpus('builtin:arithmetic'))\n"
    )
    environment = {"LIGHTNING_TL_CACHE": str(tmp_path), "PYTHONPATH": str(Path(builtin.__file__).parents[2])}
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(3)
    ]
    lines = [line for process in processes for line in process.communicate()[0].split()]
    assert all(process.returncode == 0 for process in processes)
    assert lines.count("read") == 1
    assert len({line for line in lines if line != "read"}) == 1
    (folder,) = {line for line in lines if line != "read"}
    assert np.asarray(read_manifest(folder).open("val")).max() <= 98


def test_a_pinned_text_stays_what_it_was(installed, tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_TL_CACHE", str(tmp_path / "cache"))
    for number in range(80):
        (installed / "lib" / f"{number}.py").write_text(f"x = {number}\n")
    pinned = builtin.pinned_source("builtin:python")
    assert builtin.pinned_source(pinned) == pinned
    folder = builtin_corpus(pinned)
    assert folder == builtin_corpus("builtin:python")
    (installed / "lib/more.py").write_text("more = 5\n")
    assert builtin_corpus("builtin:python") != folder
    assert builtin_corpus(pinned) == folder
    with pytest.raises(UserError, match=r"^builtin:python@0123: this text is not in .*, and other files are installed"):
        builtin_corpus("builtin:python@0123")
