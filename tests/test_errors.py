"""What all messages share; the parsers' messages are tested with the commands."""

import errno

import pytest

from lightning_tl.errors import disk_full, is_disk_full, nearest, one_line


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("digts", "; did you mean 'digits'?"),
        ("zzz", "; valid: digits, mug"),
        (3, "; valid: digits, mug"),
        ("MUG", "; did you mean 'mug'?"),
    ],
)
def test_nearest(name, hint):
    assert nearest(name, ["mug", "", "digits"]) == hint


def test_one_line():
    assert one_line(ValueError("a\n  b\tc ")) == "a b c"
    assert one_line(TimeoutError()) == "TimeoutError"


def test_full_disks(tmp_path):
    assert is_disk_full(OSError(errno.ENOSPC, ""))
    assert is_disk_full(OSError(errno.EDQUOT, ""))
    assert not is_disk_full(OSError(errno.EACCES, ""))
    assert not is_disk_full(ValueError())
    assert disk_full() == "the disk is full: free some space; run the same command again to continue"
    assert disk_full("a.ckpt").startswith("the disk is full while writing a.ckpt: free")
    message = disk_full(tmp_path / "not" / "there.tar", 3 << 20)
    assert "not/there.tar (about 3.0 MiB; " in message
    assert f" MiB are free under {tmp_path}): free some space" in message
