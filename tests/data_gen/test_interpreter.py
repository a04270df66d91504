"""Workers in another Python than this one."""

import os
import sys
from pathlib import Path

import pytest

import lightning_tl
from data_gen import check, interpreter, local_pool
from data_gen.check import check_environment
from data_gen.farm import render
from data_gen.interpreter import VARIABLE
from lightning_tl.errors import UserError

HERE = Path(__file__).parent


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def all_libraries(monkeypatch):
    monkeypatch.setattr(check, "check_libraries", lambda: None)


def test_workers_run_in_the_named_python(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(check, "_PACKAGES", ("numpy", "PIL"))
    monkeypatch.setattr(local_pool, "worker_arguments", lambda: [str(HERE / "fake_worker.py")])
    render(tiny(), tmp_path / "here", 8, workers=1)
    log = tmp_path / "calls"
    other = program(tmp_path / "python", f'echo "$1" >> {log}\nexec {sys.executable} "$@"')
    monkeypatch.setenv(VARIABLE, str(other))
    render(tiny(), tmp_path / "there", 8, workers=1)
    assert log.read_text().splitlines()[-1] == str(HERE / "fake_worker.py")
    shards = [sorted((tmp_path / name).rglob("*.tar")) for name in ("here", "there")]
    assert [path.read_bytes() for path in shards[0]] == [path.read_bytes() for path in shards[1]]


@pytest.mark.parametrize(
    "text,message",
    [
        ("exit 3", "is no Python that works here: it ended with code 3"),
        ("echo hello", "is no Python that works here: hello"),
        (
            'echo \'{"python": [3, 13], "version": "", "lacking": ["bpy"]}\'',
            r"is Python 3\.13, for which Blender .*3\.11",
        ),
        ('echo \'{"python": [3, 11], "version": "", "lacking": ["bpy", "cv2"]}\'', "lacks bpy, cv2: .*pip install"),
        ('echo \'{"python": [3, 11], "version": "0.0.1", "lacking": []}\'', r"has lightning-tl 0\.0\.1, this is"),
        ('echo \'{"python": [3, 11], "version": "", "lacking": []}\'', "has no lightning-tl, this is"),
    ],
    ids=["fails", "no Python", "version", "lacks packages", "another version of the package", "not installed"],
)
def test_clear_errors(tmp_path, monkeypatch, text, message):
    monkeypatch.setenv(VARIABLE, str(program(tmp_path / "python", text)))
    with pytest.raises(UserError, match=message):
        check_environment()


def test_a_path_without_a_program(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nothing"))
    with pytest.raises(UserError, match=f"{VARIABLE}: .*nothing is no program"):
        check_environment()
    (tmp_path / "text").write_text("no program\n")
    (tmp_path / "text").chmod(0o755)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "text"))
    with pytest.raises(UserError, match="cannot be run"):
        check_environment()


def test_installed_packages_of_this_python_are_not_given_to_another(monkeypatch):
    root = str(Path(lightning_tl.__file__).resolve().parents[1])
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv(VARIABLE, "/another/python")
    assert interpreter.worker_environment()["PYTHONPATH"].split(os.pathsep) == [root]
    monkeypatch.setattr(interpreter.sysconfig, "get_path", lambda name: root)  # as where it is installed from a wheel
    assert "PYTHONPATH" not in interpreter.worker_environment()
    monkeypatch.delenv(VARIABLE)
    assert interpreter.worker_environment()["PYTHONPATH"] == root


def test_the_way_to_an_environment(monkeypatch):
    monkeypatch.setattr(interpreter.shutil, "which", lambda name: "/bin/uv")
    assert "uv venv --python 3.11" in interpreter.how_to_make_one()
    monkeypatch.setattr(interpreter.shutil, "which", lambda name: None)
    assert "python3.11 -m venv" in interpreter.how_to_make_one()
