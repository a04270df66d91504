"""Files that are there whole or not at all, whatever happens to the process that writes them."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_tl._io.atomic import remove_leftovers, replacing, write_atomically


def test_text_and_bytes_are_written_as_they_are(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    write_atomically(path, "ä\r\n\n")
    assert path.read_bytes() == "ä\r\n\n".encode()
    write_atomically(path, b"\0", sync=True)
    assert path.read_bytes() == b"\0"
    assert os.listdir(path.parent) == ["a.txt"]


def test_permissions_are_those_of_an_ordinary_file(tmp_path):
    (tmp_path / "plain").write_text("")
    write_atomically(tmp_path / "atomic", "")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_block_that_raises_changes_nothing(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail():
        with replacing(path) as beside:
            beside.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_errors_of_the_system_name_the_file_itself(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError) as error, replacing(tmp_path / "no" / "a.txt") as beside:
        beside.write_text("")
    assert error.value.filename == str(tmp_path / "no" / "a.txt")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as error:
        write_atomically(tmp_path / "a.txt", "x", sync=True)
    assert error.value.filename == str(tmp_path / "a.txt")
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    write_atomically(path, "old")
    monkeypatch.setattr("secrets.token_hex", lambda size: "0")
    (tmp_path / ".record.json.0.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["record.json"]


KILLED = """
import os, signal, sys
from pathlib import Path
from lightning_tl._io.atomic import replacing
with replacing(Path(sys.argv[1])) as beside:
    beside.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_the_old_file_and_what_it_left_is_removed(tmp_path):
    path = tmp_path / "inside" / "a.txt"
    path.parent.mkdir()
    path.write_text("old")
    (path.parent / ".hidden").write_text("the user's own")
    assert subprocess.run([sys.executable, "-c", KILLED, str(path)]).returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    assert len(os.listdir(path.parent)) == 3
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(path.parent)) == [".hidden", "a.txt"]


def test_processes_that_write_one_file_at_once_leave_one_of_their_versions(tmp_path):
    code = "import sys; from pathlib import Path; from lightning_tl._io.atomic import write_atomically as w\n"
    code += "for _ in range(50): w(Path(sys.argv[1]), sys.argv[2] * 100_000)"
    path = tmp_path / "a.txt"
    processes = [subprocess.Popen([sys.executable, "-c", code, str(path), letter]) for letter in "ab"]
    while any(process.poll() is None for process in processes):
        if path.exists():
            assert path.read_text() in ("a" * 100_000, "b" * 100_000)
    assert [process.returncode for process in processes] == [0, 0]
    assert os.listdir(tmp_path) == ["a.txt"]
