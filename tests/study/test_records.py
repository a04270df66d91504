from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from lightning_tl.study.records import RESULT_COLUMNS, fingerprint, read_record, write_results, write_whole


def test_fingerprints():
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert len(fingerprint(None)) == 16


def test_whole_files(tmp_path):
    path = tmp_path / "new/record.json"
    write_whole(path, "one α\n")
    write_whole(path, "two\n")
    assert path.read_bytes() == b"two\n"
    assert os.listdir(path.parent) == ["record.json"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "record.json"
    write_whole(path, "old")
    (tmp_path / f".record.json.{os.getpid()}").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["record.json"]


@pytest.mark.parametrize("content", [None, b"{", b"[]", b"\xff\xfe", b"{}", b'{"key": "other"}'])
def test_what_is_no_record_of_these_settings(tmp_path, content):
    path = tmp_path / "record.json"
    if content is not None:
        path.write_bytes(content)
    assert read_record(path, "mine") is None
    path.write_bytes(b'{"key": "mine", "seconds": 3}')
    assert read_record(path, "mine") == {"key": "mine", "seconds": 3}


def test_results(tmp_path):
    path = tmp_path / "results.csv"
    write_results(path, [{"run_id": "a", "error": 0.5}, {"run_id": "b,c", "score": 1}])
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == RESULT_COLUMNS
    assert [(row["run_id"], row["error"], row["score"]) for row in rows] == [("a", "0.5", ""), ("b,c", "", "1")]
    with pytest.raises(ValueError, match="eror"):
        write_results(path, [{"eror": 1}])
    assert path.read_text().count("\n") == 3
