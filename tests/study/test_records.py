from __future__ import annotations

import csv
import json

import pytest

from lightning_tl.study.records import RESULT_COLUMNS, fingerprint, read_record, write_results

RECORD = {"key": "mine", "seconds": 3, "checkpoint": "", "metrics": {}, "facts": {}}


@pytest.mark.parametrize(
    "change",
    [
        {"key": "other"},
        {"metrics": None},
        {"metrics": {"val/error": "low"}},
        {"facts": []},
        {"facts": {"task": {"a": 1}}},
        {"checkpoint": "../../x.ckpt"},
        {"checkpoint": "/x.ckpt"},
        {"checkpoint": None},
        {"seconds": "3"},
        {"measurements": [3]},
        {"measurements": [{"step": 1, "quantity": "hessian"}]},
    ],
    ids=str,
)
def test_a_record_of_wrong_types_is_none(tmp_path, change):
    path = tmp_path / "record.json"
    path.write_text(json.dumps(RECORD | change))
    assert read_record(path, "mine") is None


def test_fingerprints():
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert len(fingerprint(None)) == 16


@pytest.mark.parametrize("content", [None, b"{", b"[]", b"\xff\xfe", b"{}", b'{"key": "mine"}'])
def test_what_is_no_record_of_these_settings(tmp_path, content):
    path = tmp_path / "record.json"
    if content is not None:
        path.write_bytes(content)
    assert read_record(path, "mine") is None
    path.write_text(json.dumps(RECORD))
    assert read_record(path, "mine") == RECORD


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
