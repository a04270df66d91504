"""Studies in steps, with real trainings: killed again and again they take the path of one that was never killed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from study.small_study import SMALL, kill_after, records, rows, run, write
from study.stepped import path as path_of

from lightning_tl.cli import study as command

UNTIL = {"question": "more_or_different", "confidence": 0.99, "max_runs": 4}
_WAIT = 1500  # seconds, only to end a test whose command hangs


def finish(arguments: list[str]) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=_WAIT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def steps(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "study.json").read_text())["steps"]
    return found


@pytest.mark.timeout(900)
@pytest.mark.slow
def test_killed_twice(renders, tmp_path, capsys):
    """Data that are there already, on one process, as the lawful number of records then is known at each kill."""
    changes = {"sizes": (8, 16, 24, 32), "draws": (0,), "workers": 1, "until": UNTIL | {"max_runs": 3, "batch": 1}}
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    study, out = write(tmp_path / "whole", renders, **changes), tmp_path / "whole" / "out"
    said = finish(run(study, out))
    study, killed = write(tmp_path / "killed", renders, **changes), tmp_path / "killed" / "out"
    kill_after(run(study, killed), killed, 1)
    assert command.main(["status", f"--config={study}", f"--out={killed}"]) == 0
    assert "Next: pretrained, n = 8, seed 0: " in capsys.readouterr().out
    kill_after(run(study, killed), killed, 3)
    finish(run(study, killed))
    assert path_of(steps(killed)) == path_of(steps(out))
    assert rows(killed) == rows(out)
    assert len(records(out)) == 1 + 2 * 3
    assert "The study ends: " in said
    page = (out / "report.md").read_text()
    assert "The fixed grid of 4 pre-trainings would have cost 4 instead of 3, 1.3 times as much" in page
    assert "## How it was decided" in page
    assert (out / "steps_narrow.png").stat().st_size > 0
    assert command.main(["status", f"--config={study}", f"--out={out}"]) == 0
    assert "7 runs: 7 done\npretrained: render " in capsys.readouterr().out


def quickstart(folder: Path, scenes: Path, **changes: Any) -> Path:
    """The shipped quickstart on tiny sizes, in steps."""
    scene = {"image": {"size": 24, "samples": 1}, "camera": {"views": 2}, "scenes_per_shard": 4, "appearance": "single"}
    folder.mkdir()
    configs = []
    for name in ("digits", "shapes"):
        (scenes / f"{name}.yaml").write_text(yaml.safe_dump(scene | {"categories": [name]}))
        configs.append(str(scenes / f"{name}.yaml"))
    settings = yaml.safe_load((Path(__file__).parents[2] / "configs/study/quickstart.yaml").read_text())
    settings["render"] = {"product": {"config": configs}, "val_images": 8}
    settings["pretrain"]["set"] = SMALL | {"trainer.max_steps": 6, "data.steps_per_epoch": 3}
    settings["pretrain"]["product"]["data.n"] = [4, 8, 16, 32]
    settings["finetune"]["set"] = SMALL | {"trainer.max_steps": 4, "data.steps_per_epoch": 4, "data.shots": 1}
    settings["finetune"]["zip"] = [{"data.draw": [0], "seed_everything": [0]}]
    settings["until"] = UNTIL | {"max_runs": 7}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(settings | {"workers": 2} | changes))
    return path


def shards(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.glob("renders/**/*.tar"))}


@pytest.mark.slow
@pytest.mark.render
@pytest.mark.timeout(3600)
def test_the_quickstart_in_steps_killed_five_times(tmp_path):
    """With its renderings, which grow as larger sizes are begun, and its value to choose."""
    whole = tmp_path / "whole" / "out"
    finish(run(quickstart(tmp_path / "whole", tmp_path), whole))
    study, out = quickstart(tmp_path / "killed", tmp_path), tmp_path / "killed" / "out"
    for more in (0, 3, 5, 4, 3):
        before = records(out)
        kill_after(run(study, out), out, more) if more else kill_in_rendering(run(study, out), out)
        assert before.items() <= records(out).items()  # nothing is done twice
    finish(run(study, out))
    assert path_of(steps(out)) == path_of(steps(whole))
    assert rows(out) == rows(whole)
    assert shards(out) == shards(whole)
    found = steps(whole)
    assert len(found["taken"]) >= 3
    begun = [item for step in found["taken"] for item in step["batch"]]
    for name in ("digits", "shapes"):  # as many images as the largest n begun needs, of which 8 are in each shard
        largest = max(item["n"] for item in begun if item["group"] == name)
        train = [path for path in shards(whole) if path.startswith(f"renders/{name}/train/")]
        assert len(train) == max(1, -(-largest // 8))
    assert found["spent"]["runs"] == len(begun) <= 7


def kill_in_rendering(arguments: list[str], out: Path) -> None:
    """Kill a command when its first shard is there."""
    started = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not shards(out) and started.poll() is None:
        try:
            started.wait(timeout=0.05)
        except subprocess.TimeoutExpired:
            continue
    assert started.poll() is None, "the study ended before it was killed"
    started.kill()
    started.wait()
