"""Locks between processes end with their process, however it ends."""

import subprocess
import sys
import threading

import pytest

from lightning_tl._io.locks import lock_owner, try_lock, waiting_lock

HOLDER = """
import sys
from pathlib import Path
from lightning_tl._io.locks import try_lock
with try_lock(Path(sys.argv[1])) as held:
    print(held, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds a lock until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "True\n"
    yield process
    process.kill()
    process.communicate()


def test_another_process_is_refused_with_the_id_of_the_holder(holder, tmp_path):
    with try_lock(tmp_path / "lock") as held:
        assert not held
    assert lock_owner(tmp_path / "lock") == str(holder.pid)
    holder.communicate("")
    with try_lock(tmp_path / "lock") as held:
        assert held


def test_a_killed_process_holds_nothing(holder, tmp_path):
    holder.kill()
    holder.wait()
    with try_lock(tmp_path / "lock") as held:
        assert held
        with try_lock(tmp_path / "lock") as again:  # in this process too
            assert not again
    assert (tmp_path / "lock").exists()


def test_waiting(holder, tmp_path):
    entered = threading.Event()

    def wait():
        with waiting_lock(tmp_path / "lock"):
            entered.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not entered.is_set()
    holder.kill()
    holder.wait()
    thread.join(60)
    assert entered.is_set()


def test_a_block_that_raises_releases_the_lock(tmp_path):
    for lock in (try_lock, waiting_lock):
        with pytest.raises(RuntimeError), lock(tmp_path / "lock"):
            raise RuntimeError
    with try_lock(tmp_path / "lock") as held:
        assert held


def test_an_unknown_owner(tmp_path):
    assert lock_owner(tmp_path / "none") == "unknown"
    (tmp_path / "lock").write_bytes(b"\xff")
    assert lock_owner(tmp_path / "lock") == "unknown"
