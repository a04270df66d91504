"""Modules that only POSIX systems have are not needed to import the package, as on Windows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_tl._io import processes
from lightning_tl._io.files import read_at

ROOT = Path(__file__).parents[1]
LACKING = """
import importlib, os, pkgutil, signal, sys
import torch, lightning.pytorch, torchvision, torchmetrics, timm, matplotlib.pyplot, filelock, fsspec
import multiprocessing.forkserver, concurrent.futures.process, scipy.stats
import pandas, sklearn.covariance, yaml, mlxtend.data

for name in ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "crypt"):
    sys.modules[name] = None  # an import of it fails
for name in ("SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGALRM", "SIGQUIT", "SIGCONT"):
    delattr(signal, name)
for name in ("fork", "getuid", "geteuid", "getpgid", "killpg", "setsid", "pread", "sysconf", "uname"):
    delattr(os, name)
sys.platform = "win32"
import lightning_tl, data_gen
count = 0
for package in (lightning_tl, data_gen):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.startswith(("data_gen.blender", "lightning_tl.integrations")) and module.name[-2:] != "__":
            importlib.import_module(module.name)
            count += 1
print(count)
from lightning_tl.cli.main import main
assert main(["--version"]) == 0
"""


def test_everything_is_imported_without_what_only_posix_has():
    done = subprocess.run([sys.executable, "-c", LACKING], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    expected = [path for package in ("lightning_tl", "data_gen") for path in (ROOT / package).rglob("*.py")]
    assert int(done.stdout.split()[0]) > 0.9 * (len(expected) - 5)


def test_workers_are_spawned_where_there_is_no_fork_server(monkeypatch):
    assert processes.worker_context(["json"]).get_start_method() == "forkserver"
    monkeypatch.setattr(processes.mp, "get_all_start_methods", lambda: ["spawn"])
    assert processes.worker_context(["json"]).get_start_method() == "spawn"


def test_is_alive(monkeypatch):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert processes.is_alive(os.getpid())
    assert not processes.is_alive(ended.pid)
    # on Windows os.kill(process, 0) ends the process: it must not be called
    monkeypatch.setattr(processes.os, "name", "nt")
    monkeypatch.setattr(processes.os, "kill", lambda *_: pytest.fail("os.kill was called"))
    assert processes.is_alive(ended.pid)


@pytest.mark.parametrize("lacking", [False, True])
def test_read_at_leaves_no_trace_of_the_position(tmp_path, monkeypatch, lacking):
    if lacking:
        monkeypatch.delattr(os, "pread")
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    with open(path, "rb", buffering=0) as file:
        for offset in (90, 0, 50):
            assert read_at(file, 20, offset) == bytes(range(100))[offset : offset + 20]
