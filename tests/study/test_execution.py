"""The order of runs, retries and what other processes do, on an engine that only pretends to train."""

import json
from pathlib import Path

import pytest

from lightning_tl.study.execution import load_records, run_all
from lightning_tl.study.plan_items import Run
from lightning_tl.study.runs import Outcome


def run(name: str, start: str | None = None) -> Run:
    stage = "finetune" if start or name.startswith("f") else "pretrain"
    return Run(name, name, stage, {}, (), start, None, f"key of {name}")


class Pretended:
    """Two places; a run ends at the wait after the one that it was submitted before."""

    def __init__(self, errors=(), elsewhere=(), again=True):
        self.errors, self.elsewhere, self.again = dict(errors), list(elsewhere), again
        self.calls, self.submitted = [], []

    @property
    def free(self):
        return 2 - len(self.calls)

    def submit(self, call):
        self.calls.append(call)
        self.submitted.append(call)

    def wait(self, seconds):
        if not self.calls:
            return []
        call = self.calls.pop(0)
        if call.name in self.elsewhere:
            self.elsewhere.remove(call.name)
            write(Path(call.folder), call.key, 7)
            return [Outcome(call.name)]
        if self.errors.get(call.name, 0):
            self.errors[call.name] -= 1
            return [Outcome(call.name, error="it broke", again=self.again)]
        return [Outcome(call.name, write(Path(call.folder), call.key, 1))]

    def close(self):
        pass


def write(folder: Path, key: str, value: int) -> dict:
    folder.mkdir(parents=True, exist_ok=True)
    record = {"key": key, "checkpoint": "best.ckpt", "metrics": {}, "facts": {}, "seconds": 1.0, "value": value}
    (folder / "record.json").write_text(json.dumps(record))
    return record


RUNS = [run("f-a", "p-a"), run("p-a"), run("p-b"), run("f-b", "p-b"), run("f-scratch")]


def go(tmp_path, engine, runs=RUNS, retries=1):
    seen = []
    records, failures = run_all(runs, tmp_path, engine, retries, 1, lambda *numbers: seen.append(numbers))
    return records, failures, seen


def test_each_comes_after_its_start(tmp_path):
    engine = Pretended()
    records, failures, seen = go(tmp_path, engine)
    assert set(records) == {each.name for each in RUNS}
    assert not failures
    names = [call.name for call in engine.submitted]
    assert names.index("p-a") < names.index("f-a")
    assert f"--model.init_from={tmp_path}/runs/p-a/best.ckpt" in engine.submitted[names.index("f-a")].args
    assert seen[0] == (0, 5)
    assert seen[-1] == (5, 5)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_what_has_a_record_is_not_done_again(tmp_path):
    go(tmp_path, Pretended())
    engine = Pretended()
    records, _, seen = go(tmp_path, engine)
    assert engine.submitted == seen == []
    assert len(records) == 5
    # another key, and what starts from it has another one too: only these
    changed = Run("p-a", "p-a", "pretrain", {}, (), None, None, "other")
    assert set(load_records([changed, *RUNS[2:]], tmp_path)) == {"p-b", "f-b", "f-scratch"}


def test_failures_are_tried_again_and_hold_up_nobody_else(tmp_path):
    engine = Pretended({"p-a": 1})
    assert not go(tmp_path / "once", engine)[1]
    assert [call.name for call in engine.submitted].count("p-a") == 2
    records, failures, _ = go(tmp_path / "ever", Pretended({"p-a": 9}))
    assert failures == {"p-a": "it broke", "f-a": "not run, as p-a failed"}
    assert set(records) == {"p-b", "f-b", "f-scratch"}


def test_what_the_user_gave_wrong_is_not_tried_again(tmp_path):
    engine = Pretended({"p-a": 9}, again=False)
    _, failures, _ = go(tmp_path, engine, retries=5)
    assert [call.name for call in engine.submitted].count("p-a") == 1
    assert "p-a" in failures


def test_a_run_that_another_process_does_is_waited_for(tmp_path):
    engine = Pretended(elsewhere=["p-a"])
    records, failures, _ = go(tmp_path, engine)
    assert not failures
    assert records["p-a"]["value"] == 7
    assert [call.name for call in engine.submitted].count("p-a") == 1


@pytest.mark.parametrize("name", ["f-a", "p-b"])
def test_the_tables_hear_of_each_record(tmp_path, name):
    heard = []
    run_all(RUNS, tmp_path, Pretended(), 0, 1, lambda *_: None, lambda records: heard.append(set(records)))
    assert [len(names) for names in heard] == [1, 2, 3, 4, 5]
    assert name in heard[-1]
