"""What all tests share: seeds, one thread, no files left behind, a small data set made without the renderer."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("BLENDER", None)  # renders are those of the Python package, unless a test says otherwise

import numpy as np
import pytest
import s3 as s3_servers
from rendered_set import write_renders
from skips import unexplained

CACHES = {".pytest_cache", ".hypothesis", ".ruff_cache", ".mypy_cache", ".import_linter_cache", "__pycache__"}


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Fail where a test was skipped for a reason that is not on the list."""
    silent = unexplained(terminalreporter.stats.get("skipped", []))
    if silent:
        terminalreporter.section("skipped without a reason that is in tests/skips.py")
        for line in silent:
            terminalreporter.line(line)
        terminalreporter._session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Seed what draws without a generator of its own, fixtures included: a test is the same in any order."""
    import torch

    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (libraries draw from it)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_files_left() -> Iterator[None]:
    """Fail a test that leaves files in the folder it was started in."""
    start = Path.cwd()
    before = set(os.listdir(start))
    yield
    left = set(os.listdir(start)) - before - CACHES
    assert not left, f"left in {start}: {sorted(left)}"


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    with s3_servers.served() as address:
        yield address


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A URL in a fresh bucket."""
    return s3_servers.bucket(s3_server, monkeypatch, tmp_path)


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty place; ``local`` is fsspec's driver of the file system, as a store like any other."""
    return request.getfixturevalue("s3") if request.param == "s3" else f"local://{tmp_path}/store"


@pytest.fixture(scope="session")
def renders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small rendered data set, to be read only."""
    return write_renders(tmp_path_factory.mktemp("renders"))


@pytest.fixture
def own_renders(renders: Path, tmp_path: Path) -> Path:
    """A small rendered data set that the test may damage."""
    return Path(shutil.copytree(renders, tmp_path / "renders"))
