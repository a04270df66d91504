from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from training import STEPS, finetuning, pretraining

from lightning_tl.errors import UserError
from lightning_tl.study import jobs as module
from lightning_tl.study.jobs import Job, Workers, job_keys

HERE = Path(__file__).parent.parent


def plan(renders: Path) -> list[Job]:
    """Two pre-trainings, a fine-tuning from the first of them, and one from scratch."""

    def job(name, arguments, steps, **more):
        return Job(name, tuple(text for text in arguments[1:] if "default_root_dir" not in text), steps, **more)

    return [
        job("pre-a", pretraining(renders, Path("-")), STEPS, inputs={"manifest": "x"}),
        job("pre-b", pretraining(renders, Path("-"), "--data.n=16"), STEPS),
        job("fine", finetuning(Path("-"), "--model.init_from={pre-a}"), 6, needs=("pre-a",), test=True),
        job("scratch", finetuning(Path("-")), 6, test=True),
    ]


def untimed(records):
    return {name: {key: value for key, value in row.items() if key != "seconds"} for name, row in records.items()}


def ids(folder: Path) -> dict[str, int]:
    """The records' inodes: a record that is written again has another one."""
    return {path.parent.name: path.stat().st_ino for path in folder.glob("*/record.json")}


@pytest.fixture(scope="module")
def workers():
    made = Workers(2)
    yield made
    made.close()


@pytest.fixture(scope="module")
def finished(renders, workers, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    seen = []
    records = workers.run(plan(renders), folder, lambda done, total: seen.append((done, total)))
    return folder, records, seen


def test_records(finished):
    folder, records, seen = finished
    assert set(records) == {"pre-a", "pre-b", "fine", "scratch"}
    for name, record in records.items():
        assert json.loads((folder / name / "record.json").read_text()) == record
        assert (folder / name / record["checkpoint"]).is_file()
        assert (folder / name / "config.yaml").is_file()
        assert record["seconds"] > 0
    assert records["pre-a"]["checkpoint"] == "checkpoints/best.ckpt"
    assert records["pre-a"]["best"] == pytest.approx(records["pre-a"]["metrics"]["val/error"], abs=1)
    assert 0 < records["fine"]["metrics"]["test/error"] < 1
    assert f"init_from: {folder}/pre-a/checkpoints/best.ckpt" in (folder / "fine/config.yaml").read_text()
    total = 2 * STEPS + 12
    assert seen[0] == (0, total)
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_finished_runs_are_not_repeated(finished, workers, renders):
    folder, records, _ = finished
    before, seen = ids(folder), []
    assert workers.run(plan(renders), folder, lambda *numbers: seen.append(numbers)) == records
    assert ids(folder) == before
    assert seen == []  # nothing to do


def test_changed_settings_repeat_only_what_depends_on_them(renders, workers, tmp_path, finished):
    import shutil

    folder, _, _ = finished
    own = tmp_path / "study"
    shutil.copytree(folder, own)
    before = ids(own)
    first, *rest = plan(renders)
    workers.run([replace(first, inputs={"manifest": "y"}), *rest], own, lambda *_: None)
    after = ids(own)
    assert {name for name in after if after[name] != before[name]} == {"pre-a", "fine"}


def test_keys(renders):
    jobs = plan(renders)
    keys = job_keys(jobs)
    assert len(set(keys.values())) == 4

    def changed(index, **changes):
        other = job_keys([*jobs[:index], replace(jobs[index], **changes), *jobs[index + 1 :]])
        return {name for name in keys if keys[name] != other[name]}

    assert changed(0, args=(*jobs[0].args, "--data.seed=1")) == {"pre-a", "fine"}
    assert changed(2, test=False) == {"fine"}
    assert changed(1, steps=99) == set()  # for the progress bar alone


def test_the_same_results_after_an_interruption(renders, tmp_path, finished):
    """The whole plan is killed after its first record, and goes on."""
    folder = tmp_path / "study"
    code = """
import os, signal, sys
from pathlib import Path
from study.test_jobs import plan
from lightning_tl.study.jobs import Workers
renders, folder = map(Path, sys.argv[1:])

def progress(done, total):
    if list(folder.glob("*/record.json")):
        os.kill(os.getpid(), signal.SIGKILL)

Workers(1).run(plan(renders), folder, progress)
"""
    script = tmp_path / "script.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(HERE)!r})\nif __name__ == '__main__':\n" + indented(code))
    ended = subprocess.run([sys.executable, script, renders, folder], capture_output=True, timeout=200)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    before = ids(folder)
    assert 1 <= len(before) < 4
    again = Workers(1)
    try:
        records = again.run(plan(renders), folder, lambda *_: None)
    finally:
        again.close()
    assert {name: ids(folder)[name] for name in before} == before
    assert untimed(records) == untimed(finished[1])


def indented(code: str) -> str:
    return "".join(f"    {line}\n" for line in code.splitlines())


def test_a_failing_run_is_one_message(renders, workers, tmp_path):
    jobs = plan(renders)
    bad = replace(jobs[1], args=(*jobs[1].args, "--data.n=61"))
    with pytest.raises(UserError, match=r"run pre-b failed; its output is in .*/pre-b/log\.txt:\n61 images") as error:
        workers.run([bad], tmp_path, lambda *_: None)
    assert "Traceback" not in str(error.value)
    assert "61 images asked for" in (tmp_path / "pre-b/log.txt").read_text()
    # and mended
    assert set(workers.run([jobs[1]], tmp_path, lambda *_: None)) == {"pre-b"}


def test_a_training_that_diverges_is_told(renders, workers, tmp_path):
    job = plan(renders)[1]
    bad = replace(job, args=(*job.args, "--model.optimizer.lr=1e38"))
    with pytest.raises(
        UserError, match=r"(?s)run pre-b failed.*(is nan|is inf): the training diverged; lower"
    ) as error:
        workers.run([bad], tmp_path, lambda *_: None)
    assert "model.optimizer.lr" in str(error.value)
    assert not (tmp_path / "pre-b/record.json").exists()


def test_bugs_and_full_disks_of_runs(tmp_path, monkeypatch):
    def fail(error):
        def run(args, folder, test, key):
            raise error

        monkeypatch.setattr(module, "run_job", run)
        return module._guarded([], tmp_path, False, "")

    assert fail(OSError(28, "No space", "a.ckpt")).startswith("the disk is full while writing a.ckpt")
    assert "ZeroDivisionError: one" in fail(ZeroDivisionError("one"))
    assert "ZeroDivisionError: one" in (tmp_path / "log.txt").read_text()
    assert fail(UserError("plain")) == "plain"


def test_a_killed_worker_is_one_message_and_the_next_call_goes_on(renders, tmp_path):
    jobs = plan(renders)
    made = Workers(1)
    started = []

    def kill(done, total):
        # once the first run has its record, whatever the worker does then
        if not started and (tmp_path / "pre-a/record.json").exists():
            (process,) = made._pool._processes.values()
            started.append(process.pid)
            os.kill(process.pid, signal.SIGKILL)

    try:
        with pytest.raises(UserError, match=r"a worker process ended without a word .* going on were \S+; the same"):
            made.run(jobs, tmp_path, kill)
        with pytest.raises(UserError, match=r"a worker process ended without a word"):  # not a BrokenProcessPool
            made.run(jobs, tmp_path, lambda *_: None)
    finally:
        made.close()
    before = ids(tmp_path)
    assert "pre-a" in before
    again = Workers(1)
    try:
        assert len(again.run(jobs, tmp_path, lambda *_: None)) == 4
    finally:
        again.close()
    assert ids(tmp_path)["pre-a"] == before["pre-a"]


PARENT = """
import os, signal, sys
from pathlib import Path
from study.test_jobs import plan
from lightning_tl.study.jobs import Workers
renders, folder = map(Path, sys.argv[1:])
workers = Workers(2)

def progress(done, total):
    if done:
        print("training", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

workers.run([job for job in plan(renders) if job.name.startswith("pre")], folder, progress)
"""


def test_no_worker_outlives_a_killed_parent(renders, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(HERE)!r})\nif __name__ == '__main__':\n" + indented(PARENT))
    # every descendant holds the pipe's writing end open: it is at its end when the last of them is gone
    reader, writer = os.pipe()
    command = [sys.executable, script, renders, tmp_path / "study"]
    process = subprocess.Popen(command, stdout=writer, stderr=subprocess.DEVNULL)
    os.close(writer)
    text = b""
    while True:
        ready, _, _ = select.select([reader], [], [], 120)
        assert ready, "a process still runs two minutes after its parent was killed"
        chunk = os.read(reader, 1000)
        if not chunk:
            break
        text += chunk
    os.close(reader)
    assert process.wait() == -signal.SIGKILL
    assert text == b"training\n"


def test_close_ends_the_processes(renders, tmp_path):
    made = Workers(1)

    class Stop(Exception):
        pass

    def progress(done, total):
        if done:
            raise Stop

    with pytest.raises(Stop):
        made.run(plan(renders), tmp_path, progress)
    processes = list(made._pool._processes.values())
    assert processes
    made.close()
    assert not any(process.is_alive() for process in processes)
