"""`study status --watch` of a study in steps: it goes on between steps, when all runs that are known have ended."""

from __future__ import annotations

import io
from contextlib import redirect_stdout, suppress

import pytest
from study.shipped import read
from study.small_study import write
from study.stepped import Lab

from lightning_tl.cli import study as command
from lightning_tl.study.curves import curves_of
from lightning_tl.study.expansion import expand
from lightning_tl.study.facts import Facts
from lightning_tl.study.records import write_json
from lightning_tl.study.run_steps import run_in_steps
from lightning_tl.study.run_study import planned
from lightning_tl.study.runs import note_state
from lightning_tl.study.trained import Trained


def law(point, n):
    return 0.9 * n**-0.5 if n else 0.5


class OtherProcess:
    """Goes on with a study by one move at each call: it ends the runs that a step began, or takes the next step."""

    def __init__(self, study, out):
        self.study, self.out, self.lab = study, out, Lab(law)
        self.moves: list[str] = []

    def move(self, _seconds: float) -> None:
        known = planned(self.study, self.out)
        todo = [run for run in known.runs if run.name not in known.records]
        if known.steps and todo:
            starts = {run.name: run for run in known.runs}
            for run in todo:
                folder = self.out / "runs" / run.name
                folder.mkdir(parents=True)
                record = self.lab.record(run, starts.get(run.start or ""))
                write_json(folder / "record.json", {**record, "key": run.key, "measurements": []})
            self.moves.append("runs")
            return
        self.moves.append("step")
        self.out.mkdir(exist_ok=True)

        def train(part, _trials):
            now = planned(self.study, self.out)
            if len(now.records) < len(now.runs):
                raise KeyboardInterrupt
            return Trained([], now.runs, now.records, {})

        curves, facts = curves_of(expand(self.study)), Facts(self.out / "study.json", self.study)
        with suppress(KeyboardInterrupt), redirect_stdout(io.StringIO()):
            run_in_steps(curves, facts, 1, train)


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_the_watch_ends_where_trial_runs_fail(renders, tmp_path, capsys, monkeypatch, stage):
    choose = {"key": "model.optimizer.lr", "values": [0.1, 1e9]}
    until = {"question": "more_or_different"}
    path = write(tmp_path, renders, sizes=(8, 12, 16, 20, 24), until=until, choose=choose, workers=1)
    other, out = OtherProcess(read(path), tmp_path / "out"), tmp_path / "out"
    looks = []

    def move(seconds):
        looks.append(seconds)
        if len(looks) > 6:
            pytest.fail("the watch never ends")
        known = planned(other.study, out)
        if not known.steps:
            other.move(seconds)
            return
        failing = next(each.name for each in known.runs if each.stage == stage)
        for run in known.runs:  # one fails; those that do not start from it are done
            folder = out / "runs" / run.name
            if folder.exists():
                continue
            if run.name != failing and run.start != failing:
                folder.mkdir(parents=True)
                record = other.lab.record(run, {each.name: each for each in known.runs}.get(run.start or ""))
                write_json(folder / "record.json", {**record, "key": run.key, "measurements": []})
            elif run.name == failing:
                folder.mkdir(parents=True)
                note_state(folder, run.key, status="failed", error="the training diverged")

    monkeypatch.setattr(command.time, "sleep", move)
    assert command.main(["status", f"--config={path}", f"--out={out}", "--watch=3"]) == 1
    said = capsys.readouterr().out
    assert "failed       the training diverged" in said
    assert ("not run, as pretrain" in said) == (stage == "pretrain")


def test_status_is_watched_through_all_steps(renders, tmp_path, capsys, monkeypatch):
    path = write(tmp_path, renders, sizes=(8, 12, 16, 20, 24), until={"question": "more_or_different"}, workers=1)
    other = OtherProcess(read(path), tmp_path / "out")
    monkeypatch.setattr(command.time, "sleep", other.move)
    assert command.main(["status", f"--config={path}", f"--out={tmp_path / 'out'}", "--watch=3"]) == 0
    said = capsys.readouterr().out
    begun = other.moves.count("runs")
    # after the runs of each step all that is known has ended, and the watch goes on to the next step
    assert other.moves == ["step", "runs"] * begun + ["step"]
    assert begun >= 3
    for number in range(1, begun + 1):  # a pre-training and two fine-tunings each, besides two runs without
        count = 3 * number + 2
        assert f"{count} runs: {count - 3} done, 3 waiting\n" in said or number == 1
        assert f"{count} runs: {count} done\n" in said
    assert said.count("The study ends: every question is decided.") == 1
    assert said.count("Next: pretrained, n = ") == 2 * begun
    assert said.endswith(" that 1 look asks for.\nThe study ends: every question is decided.\n")
