import subprocess
import sys
from pathlib import Path

import pytest

from data_gen import check
from lightning_tl.errors import UserError


def test_missing_extra(monkeypatch):
    monkeypatch.setattr(check.importlib.util, "find_spec", lambda name: None if name == "trimesh" else object())
    with pytest.raises(UserError) as caught:
        check.check_environment()
    assert str(caught.value) == "rendering needs `pip install 'lightning-tl[render]'` (missing: trimesh)"


def test_wrong_python(monkeypatch):
    monkeypatch.setattr(check.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(check.sys, "version_info", (3, 13, 1, "final", 0))
    with pytest.raises(UserError, match=r"needs Python 3\.11, this is 3\.13"):
        check.check_environment()


def _ldd(monkeypatch, tmp_path, output):
    (tmp_path / "__init__.so").touch()
    monkeypatch.setattr(check.sys, "platform", "linux")
    spec = type("Spec", (), {"origin": str(tmp_path / "__init__.so")})()
    monkeypatch.setattr(check.importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(check.subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 0, stdout=output))


def test_missing_system_libraries_with_the_command(monkeypatch, tmp_path, capsys):
    _ldd(
        monkeypatch,
        tmp_path,
        "\tlibX11.so.6 => not found\n\tlibSM.so.6 => not found\n\tlibz.so.1 => /lib/libz.so.1\n",
    )
    with pytest.raises(UserError, match=r"apt-get install -y libsm6 libx11-6$"):
        check.check_environment()
    assert check.main() == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_library_of_no_known_package(monkeypatch, tmp_path):
    _ldd(monkeypatch, tmp_path, "\tlibnew.so.9 => not found\n")
    with pytest.raises(UserError, match=r"the packages that hold libnew\.so\.9$"):
        check.check_libraries()


def test_libraries_are_checked_before_bpy_is_there(monkeypatch):
    monkeypatch.setattr(check.sys, "platform", "linux")
    monkeypatch.setattr(check.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(check, "_DEBIAN", {"libc.so.6": "libc6", "libnothere.so.3": "libnothere3"})
    assert check.missing_libraries() == ["libnothere.so.3"]


def test_the_check_needs_nothing_installed():
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-S", "-m", "data_gen.check"]  # without site-packages
    done = subprocess.run(command, env={"PYTHONPATH": root}, cwd=root, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert done.returncode == 0 or "system libraries" in done.stderr
