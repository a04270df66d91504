import errno
import subprocess
import sys

import pytest

from data_gen import check
from data_gen.errors import DataGenError, disk_full, is_disk_full, nearest


def test_missing_extra(monkeypatch):
    monkeypatch.setattr(check.importlib.util, "find_spec", lambda name: None if name == "trimesh" else object())
    with pytest.raises(DataGenError) as caught:
        check.check_environment()
    assert str(caught.value) == "rendering needs `pip install 'lightning-tl[render]'` (missing: trimesh)"


def test_wrong_python(monkeypatch):
    monkeypatch.setattr(check.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(check.sys, "version_info", (3, 13, 1, "final", 0))
    with pytest.raises(DataGenError, match=r"needs Python 3\.11, this is 3\.13"):
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
    with pytest.raises(DataGenError, match=r"apt-get install -y libsm6 libx11-6$"):
        check.check_environment()
    assert check.main() == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_library_of_no_known_package(monkeypatch, tmp_path):
    _ldd(monkeypatch, tmp_path, "\tlibnew.so.9 => not found\n")
    with pytest.raises(DataGenError, match=r"the packages that hold libnew\.so\.9$"):
        check.check_libraries()


def test_libraries_are_checked_before_bpy_is_there(monkeypatch):
    monkeypatch.setattr(check.sys, "platform", "linux")
    monkeypatch.setattr(check.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(check, "_DEBIAN", {"libc.so.6": "libc6", "libnothere.so.3": "libnothere3"})
    assert check.missing_libraries() == ["libnothere.so.3"]


def test_the_check_needs_python_alone():
    code = "import sys; sys.modules['numpy'] = sys.modules['yaml'] = None; import data_gen.check as c; sys.exit(0)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_helpers(tmp_path):
    assert nearest("digts", ["digits", "mug"]) == "; did you mean 'digits'?"
    assert nearest("zzz", ["digits", "mug"]) == "; valid: digits, mug"
    assert is_disk_full(OSError(errno.ENOSPC, ""))
    assert not is_disk_full(OSError(errno.EACCES, ""))
    message = str(disk_full(tmp_path / "not" / "there.tar", 3 << 20))
    assert "needs about 3.0 MiB" in message
    assert "free under" in message
    assert "is kept" in message
