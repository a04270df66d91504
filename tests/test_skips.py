"""A skip that nobody explained fails the suite."""

import subprocess
import sys
from pathlib import Path


def test_only_listed_reasons_pass(tmp_path):
    (tmp_path / "test_one.py").write_text(
        "import pytest\n"
        "def test_known():\n    pytest.skip('no Chromium')\n"
        "def test_silent():\n    pytest.skip('not today')\n"
        "def test_real():\n    pass\n"
    )
    tests = Path(__file__).parent
    (tmp_path / "conftest.py").write_text((tests / "conftest.py").read_text())

    def run(*more):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", *more]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(tests), "PATH": ""}
        )

    ended = run()
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "test_one.py::test_silent: Skipped: not today" in ended.stdout
    assert "test_known" not in ended.stdout
    assert run("-k", "known or real").returncode == 0
